"""Logits of a method for shots that it has not learned from: folds, on stored features.

The shots of each fold are left out; the method is trained on the others, stage by stage as in the run itself,
and predicts those left out. Features that frozen towers computed for the run are read from the store. A
method that tunes the image tower has none, so its pictures are encoded in each step, as in its own run.
`fit_trust` fits `Trust` to these logits.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from foveate.clip.model import Clip
from foveate.data.bank import Bank, take
from foveate.data.feature_store import FeatureStore
from foveate.data.loader import eval_pictures
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.evaluate.answers import answer
from foveate.evaluate.encoding import encode_all, is_clip, specs_for_answers
from foveate.methods.base import Method, Wrapper
from foveate.methods.capabilities import ClosedForm, SupportSet, capability
from foveate.methods.frozen import extract, frozen_specs
from foveate.methods.registry import REFERENCE, build, build_stage, stages
from foveate.seeds import stream
from foveate.train.banking import (
    BankPlan,
    StageBatches,
    chunk_on,
    clip_features,
    open_bank,
    to_device,
    training_pictures,
)
from foveate.train.config import RunConfig
from foveate.train.journal import Reporter, Step
from foveate.train.loop import fit
from foveate.train.run import Run, bank_place
from foveate.train.shots import Chosen, without_masks
from foveate.trust.trust import Support, Trust
from foveate.types import Batch, Labels, Logits


def demand_folds(run: Run, chosen: Chosen) -> None:
    """Refuse folds that are impossible, before anything is trained.

    Args:
        run: The run with folds.
        chosen: The shots.

    Raises:
        InputError: The run has a backbone that was already tuned on these shots; or no class has two shots.
    """
    if run.backbone is not None:
        raise InputError("--folds trains all of a method, and --backbone was trained before: leave one out")
    if max(chosen.photos.counts().values()) < 2:
        raise InputError("every class has one picture, so none can be held back: give more pictures")


def fold_turns(labels: Labels, folds: int) -> list[Bool[Tensor, " pictures"]]:
    """Return which pictures each fold leaves out: every `folds`-th of each class, but never its only one."""
    positions = torch.stack([(labels[:row] == label).sum() for row, label in enumerate(labels)])
    repeated = torch.bincount(labels)[labels] > 1
    return [(positions % folds == turn) & repeated for turn in range(folds)]


class PartTrainer:
    """Trains methods on some of the shots, with the views of a whole run, and predicts others.

    Args:
        clip: The frozen towers.
        chosen: The shots, with masks if a method needs them.
        shelf: Store of the towers' features.

    Attributes:
        labels: `[N]` labels of the shots.
    """

    def __init__(self, clip: Clip, chosen: Chosen, shelf: FeatureStore) -> None:
        self._clip, self._photos, self._shelf = clip, chosen.photos, shelf
        self._pictures = eval_pictures(without_masks(chosen.photos), clip.config)
        self._val = eval_pictures(chosen.val, clip.config)
        self._banks: dict[str, Bank] = {}
        self._hosts: dict[tuple[str, tuple[int, ...]], Method] = {}
        self.labels = torch.tensor([sample.label for sample in chosen.photos.samples])

    def encode(self, config: RunConfig, reporter: Reporter) -> None:
        """Fill the bank with the views that a training needs; otherwise they are encoded at first use.

        Args:
            config: The run.
            reporter: Reporter of the progress.
        """
        method: Method | None = None
        for stage in stages(config.method):
            method = build_stage(stage, self._clip, method, config.settings, config.seed)
            solver = capability(method, ClosedForm, trained=True)
            needed = max(solver.passes if solver else 0, config.schedule.epochs if method.trainable() else 0)
            passes = needed if self._bank(config).pictures.varies else min(needed, 1)
            for epoch in range(passes):
                self._whole(config, method, epoch)
                reporter.count(f"encoding views, {stage}", epoch + 1, passes)

    def train(
        self, config: RunConfig, rows: Sequence[int], on_step: Callable[[Step], None] | None = None
    ) -> Method:
        """Return the method trained on these shots alone.

        Stages that are trained in steps are cached: a plug-in over a method that learned from the same shots
        reuses it.

        Args:
            config: The run.
            rows: Indices of the shots.
            on_step: Called after each step; it may raise to stop.
        """
        built: Method | None = None
        for stage in stages(config.method):
            stage_config = replace(config, method=stage, settings=_stage_settings(config, stage))
            key = stage_config.key, tuple(rows)
            if key not in self._hosts:
                recipe = config.schedule if built is None else replace(config.schedule, average_mean=None)
                method = build_stage(stage, self._clip, built, config.settings, config.seed)
                method.set_classes(self._photos.names, config.template)
                batches, support = self._feed(config, method, rows)
                fit(method, batches, recipe, support=support, on_step=on_step)
                built = method
                if method.trainable():  # others are solved again quickly, and may be large
                    self._hosts[key] = method
            else:
                built = self._hosts[key]
        assert built is not None
        return built

    @torch.no_grad()
    def ask(self, method: Method, rows: Sequence[int]) -> Logits:
        """Return logits `[M, C]` of some shots, in the view that is used for predictions."""
        specs, part = (
            specs_for_answers(method.eval(), "base", foreground=False, clip=False),
            self._few(rows),
        )
        chunk = chunk_on(self._clip)
        with method.constant_text():
            if all(is_clip(spec) for spec in specs.values()):
                features = encode_all(method, self._pictures, specs, lambda _: self._shelf, chunk=chunk)
                features = {name: feature[:, list(rows)] for name, feature in features.items()}
            else:  # the tower was tuned, so only these rows are encoded
                pictures = eval_pictures(without_masks(part), self._clip.config)
                features = encode_all(method, pictures, specs, chunk=chunk)
            return answer(method, features, part, "base").logits.float()

    def ask_in_turn(self, config: RunConfig, folds: int) -> tuple[Logits, Labels]:
        """Return logits `[M, C]` of shots that were left out in turn, and their labels `[M]`.

        The only picture of a class is never left out.

        Args:
            config: The run.
            folds: Number of parts; each is left out once.
        """
        turns, logits = [turn for turn in fold_turns(self.labels, folds) if turn.any()], list[Logits]()
        for held_out in turns:
            method = self.train(config, (~held_out).nonzero()[:, 0].tolist())
            logits.append(self.ask(method, held_out.nonzero()[:, 0].tolist()))
        empty = torch.zeros(0, len(self._photos.names))
        labels = [self.labels[held_out] for held_out in turns]
        return torch.cat([empty, *logits]), torch.cat([self.labels[:0], *labels])

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
            self._banks[key] = open_bank(plan, pictures, self._clip, store=self._shelf)
        return self._banks[key]

    def _batches(
        self, config: RunConfig, method: Method, rows: Sequence[int]
    ) -> Callable[[int], Iterator[Batch]]:
        size, seed = config.schedule.batch_size, config.seed

        def batches(epoch: int) -> Iterator[Batch]:
            shots = self._whole(config, method, epoch)
            order = torch.randperm(len(rows), generator=stream(seed, "order", epoch)).tolist()
            for start in range(0, len(rows) // size * size or len(rows), size):
                yield self._some(method, shots, [rows[index] for index in order[start : start + size]])

        return batches

    def _support(self, config: RunConfig, method: Method, rows: Sequence[int]) -> SupportSet:
        device = method.clip.logit_scale.device
        val = self._val.batches(None, 64) if len(self._val) else ()
        return SupportSet(
            lambda epoch: [self._some(method, self._whole(config, method, epoch), rows)],
            [to_device(batch, device) for batch in val],
        )

    def _whole(self, config: RunConfig, method: Method, epoch: int) -> Batch:
        """Return all shots of an epoch, with the features of the frozen towers."""

        def encode(batch: Batch) -> dict[str, Tensor]:
            features = extract(method, to_device(batch, method.clip.logit_scale.device))
            return {name: feature.cpu() for name, feature in features.items()}

        (shots,) = self._bank(config).batches(
            epoch, len(self._photos), specs=frozen_specs(method), make=encode, shuffle=False
        )
        return shots

    def _some(self, method: Method, shots: Batch, rows: Sequence[int]) -> Batch:
        areas = None if shots.areas is None else shots.areas[list(rows)]
        subset = Batch(
            shots.images[list(rows)], shots.labels[list(rows)], None, areas, take(shots.frozen, rows)
        )
        return to_device(subset, method.clip.logit_scale.device)


def _stage_settings(config: RunConfig, stage: str) -> dict[str, dict[str, object]]:
    return {part: dict(values) for part, values in config.settings.items() if part in stage.split("+")}


# Fits `Trust` to the shots of a run, after training. It uses no other pictures.


FOLDS = 4
"""Default number of folds of a method that is solved, not trained, so that folds cost almost nothing."""


def fit_trust(run: Run, chosen: Chosen, method: Method, folder: Path | None = None) -> Trust:
    """Return the trust of a trained method.

    Args:
        run: The run that trained it; its `folds` is the number of parts in which shots are held back.
        chosen: The shots.
        method: The trained method, with its trained classes set.
        folder: Run folder, while its bank exists; None keeps features in memory.
    """
    reference = build(REFERENCE, run.clip)
    reference.set_classes(chosen.photos.names, run.config.template)
    bank = None if run.config.bank == "off" else bank_place(run.config, folder)
    raw = clip_features(chosen.photos, run.clip, bank)
    features = raw[None].to(run.clip.logit_scale.device)
    labels = torch.tensor([sample.label for sample in chosen.photos.samples])
    with torch.no_grad():
        support = Support.of(raw, labels, reference.text_features().cpu())
        zero_shot = reference.logits(reference.pair(features)).float().cpu()
        if not method.learned():
            method_logits = method.logits(method.pair(features)).float().cpu()
            return Trust.of(support, zero_shot, method_logits, labels)
    return Trust.of(support, zero_shot, *_held(run, chosen, method, bank))


def _held(run: Run, chosen: Chosen, method: Method, bank: Path | None) -> tuple[Logits, Labels]:
    """Return logits and labels of held-back shots; none if they need a training that was not requested."""
    # A fold of a wrapper would train its host again.
    closed_form = isinstance(method, ClosedForm) and not isinstance(method, Wrapper)
    solved = closed_form and not method.trainable() and run.backbone is None
    folds = run.config.folds if run.config.folds is not None else FOLDS if solved else 0
    if not folds:
        return torch.zeros(0, len(chosen.photos.names)), torch.zeros(0, dtype=torch.long)
    if isinstance(method, ClosedForm):  # choosing settings in each fold would take as long as the training
        method_settings = {**run.config.settings.get(method.name, {}), **method.chosen_settings()}
        settings = {**run.config.settings, method.name: method_settings}
        run = replace(run, config=replace(run.config, settings=settings))
    return PartTrainer(run.clip, chosen, FeatureStore(bank)).ask_in_turn(run.config, folds)
