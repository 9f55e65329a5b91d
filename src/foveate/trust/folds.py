"""What a method says of its own shots when it has not learned from them: folds, on features that are kept.

Each fold's shots are left out, the method is trained on the others, stage by stage as in the run itself, and
asked about those that were left out. The views that frozen towers encoded for the run are read again; a
method that tunes the image tower has none, so its pictures are encoded in each step, as in its own run.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from foveate.clip.model import Clip
from foveate.data.bank import Bank, take
from foveate.data.feature_store import FeatureStore
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.evaluate.answers import answer
from foveate.evaluate.encoding import encode_all, is_clip, specs_for_answers
from foveate.methods.base import Method
from foveate.methods.capabilities import ClosedForm, SupportSet, capability
from foveate.methods.frozen import extract, frozen_specs
from foveate.methods.registry import build_stage, stages
from foveate.seeds import stream
from foveate.train.banking import (
    BankPlan,
    StageBatches,
    chunk_on,
    open_bank,
    seen_as_asked,
    to_device,
    training_pictures,
)
from foveate.train.config import RunConfig
from foveate.train.journal import Step
from foveate.train.loop import fit
from foveate.train.reporter import Reporter
from foveate.train.run import Run
from foveate.train.shots import Chosen, without_masks
from foveate.types import Batch, Labels, Logits


def demand_folds(run: Run, chosen: Chosen) -> None:
    """Refuse folds that cannot be had, before anything is trained.

    Args:
        run: Says how many.
        chosen: The shots.

    Raises:
        InputError: Its backbone was tuned before, on these very shots; or no class has two.
    """
    if run.backbone is not None:
        raise InputError("--folds trains all of a method, and --backbone was trained before: leave one out")
    if max(chosen.photos.counts().values()) < 2:
        raise InputError("every class has one picture, so none can be held back: give more pictures")


def fold_turns(labels: Labels, folds: int) -> list[Bool[Tensor, " pictures"]]:
    """Return which pictures each fold leaves out: of each class every so-manieth, and never all."""
    places = torch.stack([(labels[:row] == label).sum() for row, label in enumerate(labels)])
    several = torch.bincount(labels)[labels] > 1
    return [(places % folds == turn) & several for turn in range(folds)]


class PartTrainer:
    """Trains methods on some of the shots, with the views that a whole run has, and asks about others.

    Args:
        clip: The frozen towers.
        chosen: The shots, with masks if a method needs them.
        shelf: Store of the towers' features.

    Attributes:
        labels: `[N]` of the shots.
    """

    def __init__(self, clip: Clip, chosen: Chosen, shelf: FeatureStore) -> None:
        self._clip, self._photos, self._shelf = clip, chosen.photos, shelf
        self._asked = seen_as_asked(without_masks(chosen.photos), clip.config)
        self._val = seen_as_asked(chosen.val, clip.config)
        self._banks: dict[str, Bank] = {}
        self._hosts: dict[tuple[str, tuple[int, ...]], Method] = {}
        self.labels = torch.tensor([sample.label for sample in chosen.photos.samples])

    def encode(self, config: RunConfig, told: Reporter) -> None:
        """Fill the bank with the views that a training needs, which else are encoded when they are needed.

        Args:
            config: The run.
            told: Hears of progress.
        """
        built: Method | None = None
        for stage in stages(config.method):
            built = build_stage(stage, self._clip, built, config.settings, config.seed)
            solver = capability(built, ClosedForm, trained=True)
            needed = max(solver.passes if solver else 0, config.schedule.epochs if built.trainable() else 0)
            passes = needed if self._bank(config).pictures.varies else min(needed, 1)
            for epoch in range(passes):
                self._whole(config, built, epoch)
                told.count(f"encoding views, {stage}", epoch + 1, passes)

    def train(
        self, config: RunConfig, rows: Sequence[int], on_step: Callable[[Step], None] | None = None
    ) -> Method:
        """Return the method as these shots alone make it.

        What takes steps is kept: a plug-in over a method that learned from the same shots finds it trained.

        Args:
            config: The run.
            rows: Places of the shots.
            on_step: Called after each step; it may raise to stop.
        """
        built: Method | None = None
        for stage in stages(config.method):
            own = replace(config, method=stage, settings=_of_stage(config, stage))
            key = own.key, tuple(rows)
            if key not in self._hosts:
                recipe = config.schedule if built is None else replace(config.schedule, average_mean=None)
                new = build_stage(stage, self._clip, built, config.settings, config.seed)
                new.set_classes(self._photos.names, config.template)
                batches, support = self._feed(config, new, rows)
                fit(new, batches, recipe, support=support, on_step=on_step)
                built = new
                if new.trainable():  # others are solved again in no time, and may hold much
                    self._hosts[key] = new
            else:
                built = self._hosts[key]
        assert built is not None
        return built

    @torch.no_grad()
    def ask(self, method: Method, rows: Sequence[int]) -> Logits:
        """Return `[M, C]` logits of some shots, in the view that predictions are made on."""
        specs, few = specs_for_answers(method.eval(), "base", foreground=False, clip=False), self._few(rows)
        chunk = chunk_on(self._clip)
        with method.constant_text():
            if all(is_clip(spec) for spec in specs.values()):
                seen = encode_all(method, self._asked, specs, lambda _: self._shelf, chunk=chunk)
                seen = {name: one[:, list(rows)] for name, one in seen.items()}
            else:  # a tower that learned from these rows alone: nobody asks it about others
                pictures = seen_as_asked(without_masks(few), self._clip.config)
                seen = encode_all(method, pictures, specs, chunk=chunk)
            return answer(method, seen, few, "base").logits.float()

    def ask_in_turn(self, config: RunConfig, folds: int) -> tuple[Logits, Labels]:
        """Return `[M, C]` logits of shots that were left out in turn, and `[M]` their labels.

        The only picture of a class is never left out.

        Args:
            config: The run.
            folds: How many parts; each is left out once.
        """
        turns, logits = [turn for turn in fold_turns(self.labels, folds) if turn.any()], list[Logits]()
        for out in turns:
            method = self.train(config, (~out).nonzero()[:, 0].tolist())
            logits.append(self.ask(method, out.nonzero()[:, 0].tolist()))
        empty = torch.zeros(0, len(self._photos.names))
        own = [self.labels[out] for out in turns]
        return torch.cat([empty, *logits]), torch.cat([self.labels[:0], *own])

    def _feed(
        self, config: RunConfig, method: Method, rows: Sequence[int]
    ) -> tuple[Callable[[int], Iterator[Batch]], SupportSet]:
        """Return the batches of an epoch, and the support set."""
        if not method.tunes_vision:
            return self._batches(config, method, rows), self._support(config, method, rows)
        pictures = training_pictures(self._few(rows), self._clip.config, config.schedule, config.seed)
        encoding = StageBatches(config.method, method, pictures, config.schedule)
        return encoding, encoding.support(self._val if len(self._val) else None)

    def _few(self, rows: Sequence[int]) -> Photos:
        return self._photos.with_samples([self._photos.samples[row] for row in rows])

    def _bank(self, config: RunConfig) -> Bank:
        key = repr((config.schedule, config.seed, config.bank_dtype))
        if key not in self._banks:
            pictures = training_pictures(self._photos, self._clip.config, config.schedule, config.seed)
            plan = BankPlan(None, config.bank_dtype)
            self._banks[key] = open_bank(plan, pictures, self._clip, shelf=self._shelf)
        return self._banks[key]

    def _batches(
        self, config: RunConfig, method: Method, rows: Sequence[int]
    ) -> Callable[[int], Iterator[Batch]]:
        size, seed = config.schedule.batch_size, config.seed

        def batches(epoch: int) -> Iterator[Batch]:
            whole = self._whole(config, method, epoch)
            order = torch.randperm(len(rows), generator=stream(seed, "order", epoch)).tolist()
            for start in range(0, len(rows) // size * size or len(rows), size):
                yield self._some(method, whole, [rows[place] for place in order[start : start + size]])

        return batches

    def _support(self, config: RunConfig, method: Method, rows: Sequence[int]) -> SupportSet:
        device = method.clip.logit_scale.device
        val = self._val.batches(None, 64) if len(self._val) else ()
        return SupportSet(
            lambda number: [self._some(method, self._whole(config, method, number), rows)],
            [to_device(one, device) for one in val],
        )

    def _whole(self, config: RunConfig, method: Method, epoch: int) -> Batch:
        """Return all shots of an epoch, with what frozen towers say of them."""

        def see(batch: Batch) -> dict[str, Tensor]:
            seen = extract(method, to_device(batch, method.clip.logit_scale.device))
            return {name: one.cpu() for name, one in seen.items()}

        (whole,) = self._bank(config).batches(
            epoch, len(self._photos), specs=frozen_specs(method), make=see, shuffle=False
        )
        return whole

    def _some(self, method: Method, whole: Batch, rows: Sequence[int]) -> Batch:
        areas = None if whole.areas is None else whole.areas[list(rows)]
        few = Batch(whole.images[list(rows)], whole.labels[list(rows)], None, areas, take(whole.frozen, rows))
        return to_device(few, method.clip.logit_scale.device)


def _of_stage(config: RunConfig, stage: str) -> dict[str, dict[str, object]]:
    return {part: dict(values) for part, values in config.settings.items() if part in stage.split("+")}
