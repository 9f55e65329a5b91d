"""Batches of a training stage, with the features of frozen towers from a bank.

A bank changes the speed of a run, not its result. So it is not part of the run's identity, and a stopped
run may resume with or without it. There are two exceptions: one fixed view instead of drawn views is
another recipe, and features in half precision have other values.
"""

import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.data.bank import CHUNK, Bank
from foveate.data.feature_store import FeatureStore
from foveate.data.loader import PictureSet, eval_pictures
from foveate.data.samples import Photos
from foveate.memory import TowerTurns, sent
from foveate.methods.base import Method, encode_pictures
from foveate.methods.capabilities import ClosedForm, SupportSet, capability
from foveate.methods.frozen import CLIP, clip_spec, extract, frozen_specs
from foveate.train.config import BankPrecision
from foveate.train.context import Context
from foveate.train.parallel import ProcessGroup
from foveate.train.recipe import Recipe
from foveate.types import Batch

IN_MEMORY = 1_000_000_000
"""Maximum size of a bank in memory, in bytes, for a run without a folder."""

PIXELS = 16 * 224 * 224
"""Pixels of the pictures that a CPU decodes together: 16 of 224 × 224. More use memory and save no time."""

TELLING = 10_000_000
"""Bytes on disk above which a bank's size is announced."""


@dataclass(frozen=True)
class BankPlan:
    """Place and precision of the features of frozen towers.

    Attributes:
        folder: Folder of the bank; None keeps features in memory, up to `IN_MEMORY` bytes.
        dtype: Precision of the stored features.
    """

    folder: Path | None = None
    dtype: BankPrecision = "float32"


def open_bank(
    plan: BankPlan,
    pictures: PictureSet,
    clip: Clip,
    process_group: ProcessGroup | None = None,
    store: FeatureStore | None = None,
) -> Bank:
    """Return the bank of these pictures; in a process group, all encode and the first process stores.

    Args:
        plan: Place and precision.
        pictures: The pictures.
        clip: The frozen towers.
        process_group: The process group.
        store: An open store, used instead of the plan's place; a store in memory has only these pictures.

    Raises:
        InputError: The folder is a file.
    """
    exact = torch.promote_types(clip.text.proj.dtype, torch.float32)
    dtype = torch.float16 if plan.dtype == "float16" else exact
    if store is None:
        store = FeatureStore(plan.folder if process_group is None or process_group.first else None)
    return Bank(pictures, clip.fingerprint(), store, dtype, chunk_on(clip), process_group)


def chunk_on(clip: Clip) -> int:
    """Return the number of pictures to decode and encode together: many on a GPU, a memory limit on a CPU."""
    if clip.logit_scale.device.type != "cpu":
        return CHUNK
    return max(1, min(CHUNK, PIXELS // clip.config.image_size**2))


@torch.no_grad()
def clip_features(
    photos: Photos, clip: Clip, folder: Path | None = None, watch: Callable[[int, int], None] | None = None
) -> Float[Tensor, "pictures dim"]:
    """Return `[N, D]` raw features of the unchanged CLIP, of the test view of each picture, on the CPU.

    Args:
        photos: The pictures; their masks are not read.
        clip: The frozen towers.
        folder: Folder of a bank; it stores the features, and gives stored ones for the same pictures.
        watch: Called with the number of encoded pictures and of all pictures.

    Raises:
        BadPicture: A picture cannot be read.
    """
    device = clip.logit_scale.device
    pictures = eval_pictures(photos, clip.config, masks=False)
    turns = TowerTurns(clip.text, clip.vision)

    def make(chunk: Batch) -> dict[str, Tensor]:
        turns.encoding()
        return {CLIP: encode_pictures(clip, sent(chunk.images, device)).cpu()}

    (batch,) = open_bank(BankPlan(folder), pictures, clip).batches(
        0,
        len(photos),
        specs={CLIP: clip_spec(clip)},
        make=make,
        shuffle=False,
        watch=None if watch is None else lambda done: watch(done, len(photos)),
    )
    turns.encoded()
    return batch.frozen[CLIP][0]


def training_pictures(photos: Photos, config: ClipConfig, recipe: Recipe, seed: int) -> PictureSet:
    """Return the training views of a recipe.

    Args:
        photos: Training pictures.
        config: Config of the towers that encode the views.
        recipe: The recipe, with the augmentation.
        seed: Seed of views and orders.
    """
    return PictureSet(
        photos,
        config.image_size,
        config.mean,
        config.std,
        augment=recipe.view,
        exchange=recipe.exchanged,
        grounds=recipe.exchange_grounds,
        scale=(recipe.crop_scale, 1.0),
        seed=seed,
    )


class StageBatches:
    """The batches of a stage, by epoch.

    Args:
        stage: Name of the stage, for messages.
        method: The method to train, with its initial tensors.
        pictures: Training pictures.
        recipe: Recipe of the stage.
        bank: Place of the features of frozen towers; None keeps none.
        context: Its reporter receives encoding progress and the bank's size in advance; its process
            group shares each batch.
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
        self._turns = TowerTurns(method.clip.text, method.clip.vision)
        self._announced = False

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, on the method's device."""
        return self._batches(epoch, shuffle=True)

    def support(self, val: PictureSet | None = None) -> SupportSet:
        """Return the support set: the stage's pictures, and optional validation pictures."""
        return SupportSet(
            lambda number: self._batches(number, shuffle=False), [] if val is None else self._test_views(val)
        )

    def _test_views(self, pictures: PictureSet) -> Iterator[Batch]:
        for batch in pictures.batches(None, chunk_on(self._method.clip)):
            yield to_device(batch, self._device)

    def _batches(self, epoch: int, *, shuffle: bool) -> Iterator[Batch]:
        if self._bank and not self._announced:
            self._announced = True
            affordable = partial(self._affordable, self._bank, epoch)
            self._bank = self._bank if self._context.everywhere(affordable) else None
        bank, size = self._bank, self.recipe.batch_size
        process_group = self._context.process_group
        share = process_group.share if process_group and shuffle else None
        batches = (
            self.pictures.batches(
                epoch, size, shuffle=shuffle, drop_last=shuffle, share=share, exchanged=self._exchanged
            )
            if bank is None
            else bank.batches(
                epoch,
                size,
                specs=self._specs,
                make=self._encode,
                pixels=self._method.tunes_vision,
                shuffle=shuffle,
                watch=lambda done: self._watch(epoch, done),
            )
        )
        for batch in batches:
            if not batch.images.numel():  # features alone: all views of the epoch are encoded
                self._turns.encoded()
            yield to_device(batch, self._device)

    def _encode(self, batch: Batch) -> dict[str, Tensor]:
        self._turns.encoding()
        features = extract(self._method, to_device(batch, self._device))
        return {name: tensor.cpu() for name, tensor in features.items()}

    def _watch(self, epoch: int, done: int) -> None:
        pictures, varies = len(self.pictures), self.pictures.varies
        total, earlier = pictures * (self._epochs if varies else 1), epoch * pictures if varies else 0
        self._context.local_reporter.count(f"encoding views, {self._stage}", earlier + done, total)

    def _affordable(self, bank: Bank, epoch: int) -> bool:
        """Report the size of the bank from this epoch on; return whether there is space for it."""
        epochs = range(epoch, self._epochs)
        size = bank.size(self._specs, epochs)
        folder = bank.store.folder
        if folder is None:
            if bank.store.nbytes + size <= IN_MEMORY:
                return True
            warnings.warn(
                f"{self._stage}: features of all views would take {_bytes(size)} of memory, so they are"
                " not kept: with out=, a folder for the run, they go to disk",
                stacklevel=2,
            )
            return False
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if size > free:
            warnings.warn(
                f"{self._stage}: features of all views would take {_bytes(size)} in {folder}, and"
                f" {_bytes(free)} are free, so they are not kept: choose another place with --bank-dir, or"
                " take --bank fixed, or --bank-dtype float16",
                stacklevel=2,
            )
            return False
        if size >= TELLING:
            self._context.local_reporter.note(
                f"{self._stage}: features of all views will take {_bytes(size)} in {folder}"
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
