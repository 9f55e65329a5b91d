"""What a stage is fed: batches of its pictures, with what frozen towers say of them out of a bank.

A bank changes how fast a run is, not what comes of it; so it is no part of what a run is, and a run that was
stopped may go on with it or without. Two things are: one fixed view in place of drawn ones is another recipe,
and features kept in half precision are other numbers.
"""

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.data.bank import CHUNK, Bank
from foveate.data.loader import PictureSet
from foveate.data.samples import Photos
from foveate.data.shelf import Shelf
from foveate.memory import sent
from foveate.methods.base import Method
from foveate.methods.capabilities import ClosedForm, SupportSet, capability
from foveate.methods.frozen import extract, frozen_specs
from foveate.train.config import BankPrecision
from foveate.train.context import Context
from foveate.train.parallel import Team
from foveate.train.recipe import Recipe
from foveate.types import Batch

IN_MEMORY = 1_000_000_000
"""Bytes of features that a run without a folder may hold."""

PIXELS = 16 * 224 * 224
"""Of pictures that are decoded together on a CPU: 16 of 224 a side. More take memory and save no time."""

TELLING = 10_000_000
"""Bytes on disk from which on they are announced."""


@dataclass(frozen=True)
class BankPlan:
    """Where and how features of frozen towers are kept.

    Attributes:
        folder: None keeps them in memory, up to `IN_MEMORY`.
        dtype: Precision they are kept in.
    """

    folder: Path | None = None
    dtype: BankPrecision = "float32"


def open_bank(plan: BankPlan, pictures: PictureSet, clip: Clip, team: Team | None = None) -> Bank:
    """Return the bank of these pictures; with a team, all encode for it, and its first process keeps it.

    Raises:
        InputError: The folder is a file.
    """
    exact = torch.promote_types(clip.text.proj.dtype, torch.float32)
    dtype = torch.float16 if plan.dtype == "float16" else exact
    shelf = Shelf(plan.folder if team is None or team.first else None)
    return Bank(pictures, clip.fingerprint(), shelf, dtype, chunk_on(clip), team)


def chunk_on(clip: Clip) -> int:
    """Return how many pictures are decoded and encoded together: many on a GPU, so much memory on a CPU."""
    if clip.logit_scale.device.type != "cpu":
        return CHUNK
    return max(1, min(CHUNK, PIXELS // clip.config.image_size**2))


def seen_as_asked(photos: Photos, config: ClipConfig) -> PictureSet:
    """Return pictures as predictions see them."""
    return PictureSet(photos, config.image_size, config.mean, config.std)


def training_pictures(photos: Photos, config: ClipConfig, recipe: Recipe, seed: int) -> PictureSet:
    """Return the views that a recipe trains on.

    Args:
        photos: Pictures to train on.
        config: Of the towers that will look at them.
        recipe: Says how views are drawn.
        seed: Of views and orders.
    """
    return PictureSet(
        photos,
        config.image_size,
        config.mean,
        config.std,
        augment=recipe.view,
        exchange=recipe.exchanged,
        scale=(recipe.crop_scale, 1.0),
        seed=seed,
    )


class Feed:
    """The batches of a stage, by epoch.

    Args:
        stage: Its name, for messages.
        method: What is trained, its learned tensors as they start.
        pictures: What it is trained on.
        recipe: Of the stage.
        bank: Where features of frozen towers are kept, if they are.
        context: Who hears of views that are encoded, and of the bank's size before it is made; and which
            processes share each batch.
    """

    def __init__(
        self,
        stage: str,
        method: Method,
        pictures: PictureSet,
        recipe: Recipe,
        bank: Bank | None = None,
        context: Context | None = None,
    ) -> None:
        self.pictures, self._context = pictures, context or Context()
        solver = capability(method, ClosedForm, trained=True)
        self._epochs = max(solver.passes if solver else 0, recipe.epochs if method.trainable() else 0)
        self._stage, self._method, self.recipe = stage, method, recipe
        specs = frozen_specs(method)
        self._exchanged = any(spec.exchanged for spec in specs.values())
        self._specs = specs if bank else {}
        self._bank = bank if self._specs else None
        self._device = method.clip.logit_scale.device
        self._announced = False

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, where the method is."""
        return self._batches(epoch, shuffle=True)

    def support(self, val: PictureSet | None = None) -> SupportSet:
        """Return the support set: the stage's pictures, and a few others."""
        return SupportSet(
            lambda number: self._batches(number, shuffle=False), [] if val is None else self._as_they_are(val)
        )

    def _as_they_are(self, pictures: PictureSet) -> Iterator[Batch]:
        for batch in pictures.batches(None, chunk_on(self._method.clip)):
            yield to_device(batch, self._device)

    def _batches(self, epoch: int, *, shuffle: bool) -> Iterator[Batch]:
        if self._bank and not self._announced:
            self._announced = True
            affordable = partial(self._affordable, self._bank, epoch)
            self._bank = self._bank if self._context.everywhere(affordable) else None
        bank, size = self._bank, self.recipe.batch_size
        team = self._context.team
        share = team.share if team and shuffle else None
        batches = (
            self.pictures.batches(
                epoch, size, shuffle=shuffle, drop_last=shuffle, share=share, exchanged=self._exchanged
            )
            if bank is None
            else bank.batches(
                epoch,
                size,
                specs=self._specs,
                make=self._see,
                pixels=self._method.tunes_vision,
                shuffle=shuffle,
                watch=lambda done: self._watch(epoch, done),
            )
        )
        for batch in batches:
            yield to_device(batch, self._device)

    def _see(self, batch: Batch) -> dict[str, Tensor]:
        seen = extract(self._method, to_device(batch, self._device))
        return {name: tensor.cpu() for name, tensor in seen.items()}

    def _watch(self, epoch: int, done: int) -> None:
        pictures, varies = len(self.pictures), self.pictures.varies
        total, before = pictures * (self._epochs if varies else 1), epoch * pictures if varies else 0
        self._context.told.count(f"encoding views, {self._stage}", before + done, total)

    def _affordable(self, bank: Bank, epoch: int) -> bool:
        """Say what the bank will take from this epoch on; return whether there is room for it."""
        epochs = range(epoch, self._epochs)
        wanted = bank.size(self._specs, epochs)
        folder = bank.shelf.folder
        if folder is None:
            if bank.shelf.held + wanted <= IN_MEMORY:
                return True
            warnings.warn(
                f"{self._stage}: features of all views would take {_bytes(wanted)} of memory, so they are"
                " not kept: with out=, a folder for the run, they go to disk",
                stacklevel=2,
            )
            return False
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        free = shutil.disk_usage(there).free
        if wanted > free:
            warnings.warn(
                f"{self._stage}: features of all views would take {_bytes(wanted)} in {folder}, and"
                f" {_bytes(free)} are free, so they are not kept: choose another place with --bank-dir, or"
                " take --bank fixed, or --bank-dtype float16",
                stacklevel=2,
            )
            return False
        if wanted >= TELLING:
            self._context.told.note(
                f"{self._stage}: features of all views will take {_bytes(wanted)} in {folder}"
            )
        return True


def _bytes(number: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1e3:.1f} kB"


def to_device(batch: Batch, device: Any) -> Batch:
    """Return the batch on another device."""

    def move(tensor: Any) -> Any:
        return None if tensor is None else sent(tensor, torch.device(device))

    frozen = {name: move(tensor) for name, tensor in batch.frozen.items()}
    return replace(
        batch,
        images=move(batch.images),
        labels=move(batch.labels),
        masks=move(batch.masks),
        areas=move(batch.areas),
        frozen=frozen,
        exchanged=move(batch.exchanged),
    )
