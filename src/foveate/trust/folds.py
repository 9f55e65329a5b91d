"""What a method says of its own shots when it has not learned from them: folds, on features that are kept.

Each fold's shots are left out, the method is trained on the others, stage by stage as in the run itself, and
asked about those that were left out. The views that frozen towers encoded for the run are read again.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from foveate.data.bank import Bank, take
from foveate.errors import InputError
from foveate.evaluate.answers import ask
from foveate.methods.base import Method
from foveate.methods.capabilities import SupportSet, walk
from foveate.methods.frozen import extract, frozen_specs
from foveate.methods.registry import build_stage, stages
from foveate.seeds import stream
from foveate.train.banking import BankPlan, open_bank, seen_as_asked, to_device, training_pictures
from foveate.train.loop import fit
from foveate.train.run import Run
from foveate.train.shots import Chosen
from foveate.types import Batch, Labels, Logits


def demand_folds(run: Run, chosen: Chosen, method: Method) -> None:
    """Refuse folds that cannot be had, before anything is trained.

    Args:
        run: Says how many.
        chosen: The shots.
        method: Untrained.

    Raises:
        InputError: The method tunes the image tower, so that no feature can be kept; its backbone was tuned
            before, on these very shots; or no class has two.
    """
    if run.backbone is not None:
        raise InputError("--folds trains all of a method, and --backbone was trained before: leave one out")
    if any(part.tunes_vision for part in walk(method)):
        raise InputError(
            f"{run.config.method} tunes the image tower, so --folds would be as many whole trainings: leave"
            " --folds out"
        )
    if max(chosen.photos.counts().values()) < 2:
        raise InputError("every class has one picture, so none can be held back: give more pictures")


def held_out_answers(run: Run, chosen: Chosen, folds: int, bank: Path | None = None) -> tuple[Logits, Labels]:
    """Return `[N, C]` logits of shots that were not learned from, and `[N]` their labels.

    The only picture of a class is never left out.

    Args:
        run: How the method is trained.
        chosen: The shots.
        folds: How many parts; each is left out once.
        bank: Where the run keeps features; None keeps them in memory.
    """
    photos, feed = chosen.photos, _Feed(run, chosen, bank)
    labels = torch.tensor([sample.label for sample in photos.samples])
    held, logits = [turn for turn in _turns(labels, folds) if turn.any()], list[Logits]()
    for out in held:
        method = feed.train((~out).nonzero()[:, 0].tolist())
        few = photos.with_samples([photos.samples[row] for row in out.nonzero()[:, 0].tolist()])
        logits.append(ask(method, seen_as_asked(few, run.clip.config), "base").logits.float())
    empty = torch.zeros(0, len(photos.names))
    return torch.cat([empty, *logits]), torch.cat([labels[:0], *(labels[out] for out in held)])


def _turns(labels: Labels, folds: int) -> list[Bool[Tensor, " pictures"]]:
    """Return which pictures each fold leaves out: of each class every so-manieth, and never all."""
    places = torch.stack([(labels[:row] == label).sum() for row, label in enumerate(labels)])
    several = torch.bincount(labels)[labels] > 1
    return [(places % folds == turn) & several for turn in range(folds)]


class _Feed:
    """Trains on some of the shots, with the views that the whole run has."""

    def __init__(self, run: Run, chosen: Chosen, bank: Path | None) -> None:
        config = run.config
        self._run, self._photos, self._val = run, chosen.photos, chosen.val
        pictures = training_pictures(chosen.photos, run.clip.config, config.schedule, config.seed)
        self._bank: Bank = open_bank(BankPlan(bank, config.bank_dtype), pictures, run.clip)

    def train(self, rows: list[int]) -> Method:
        """Return the method as these shots alone make it."""
        config, clip = self._run.config, self._run.clip
        built: Method | None = None
        for stage in stages(config.method):
            recipe = config.schedule if built is None else replace(config.schedule, average_mean=None)
            built = build_stage(stage, clip, built, config.settings, config.seed)
            built.set_classes(self._photos.names, config.template)
            fit(built, self._batches(built, rows), recipe, support=self._support(built, rows))
        assert built is not None
        return built

    def _batches(self, method: Method, rows: list[int]) -> Callable[[int], Iterator[Batch]]:
        size, seed = self._run.config.schedule.batch_size, self._run.config.seed

        def batches(epoch: int) -> Iterator[Batch]:
            whole = self._whole(method, epoch)
            order = torch.randperm(len(rows), generator=stream(seed, "order", epoch)).tolist()
            for start in range(0, len(rows) // size * size or len(rows), size):
                yield self._some(method, whole, [rows[place] for place in order[start : start + size]])

        return batches

    def _support(self, method: Method, rows: list[int]) -> SupportSet:
        device = method.clip.logit_scale.device
        val = seen_as_asked(self._val, method.clip.config).batches(None, 64) if len(self._val) else ()
        return SupportSet(
            lambda number: [self._some(method, self._whole(method, number), rows)],
            [to_device(one, device) for one in val],
        )

    def _whole(self, method: Method, epoch: int) -> Batch:
        """Return all shots of an epoch, with what frozen towers say of them."""

        def see(batch: Batch) -> dict[str, Tensor]:
            seen = extract(method, to_device(batch, method.clip.logit_scale.device))
            return {name: one.cpu() for name, one in seen.items()}

        (whole,) = self._bank.batches(
            epoch, len(self._photos), specs=frozen_specs(method), make=see, shuffle=False
        )
        return whole

    def _some(self, method: Method, whole: Batch, rows: list[int]) -> Batch:
        areas = None if whole.areas is None else whole.areas[rows]
        few = Batch(whole.images[rows], whole.labels[rows], None, areas, take(whole.frozen, rows))
        return to_device(few, method.clip.logit_scale.device)
