"""Makes shards of features (decode, encode, write), and the plan that makers receive."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from foveate.clip.model import Clip
from foveate.clip.precision import Precision, precision_on
from foveate.clip.weights import load_clip
from foveate.data.bank import CHUNK, encode
from foveate.data.feature_store import AREAS, FOREGROUND, IMAGE, LABELS, ShardNote, shard_path, write_shard
from foveate.data.loader import PictureSet, eval_pictures
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError
from foveate.foreground.opening import BadPicture
from foveate.foreground.options import MaskValues, OnBad
from foveate.foreground.views import foreground_view
from foveate.memory import sent
from foveate.types import Batch

# Data exchanged between the planner and the makers of shards; all of it can be pickled.


PICTURES_A_SHARD = 4096


@dataclass(frozen=True)
class FeatureJob:
    """Settings for making features.

    Attributes:
        clip: CLIP weights: Hub id, folder or file.
        dtype: Stored precision of the features.
        precision: Precision of the tower; `auto` is replaced by what it means on the device.
        masks: Whether to encode x ⊙ m too.
        batch_size: Number of pictures in a batch.
        shard: Number of pictures in a shard.
        on_bad: What to do with an unreadable picture or mask.
        device: Device of the tower.
        readers: Number of decoding threads; 0 decodes between batches.
    """

    clip: str
    dtype: Literal["float32", "float16"] = "float32"
    precision: Precision = "float32"
    masks: bool = False
    batch_size: int = CHUNK
    shard: int = PICTURES_A_SHARD
    on_bad: OnBad = "error"
    device: str = "cpu"
    readers: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", precision_on(self.device, self.precision))
        for name in ("batch_size", "shard"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}: give 1 or more")


@dataclass(frozen=True)
class ShardWork:
    """One shard to make.

    Attributes:
        number: Number of the shard.
        key: Identifies everything that the values depend on.
        names: Names of the pictures.
        samples: The pictures.
    """

    number: int
    key: str
    names: tuple[str, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Outcome:
    """Result of making a shard.

    Attributes:
        number: Number of the shard.
        rows: Number of pictures in it.
        left_out: Name of each unreadable picture, and the reason.
        error: Why the shard was not made; None if it was.
    """

    number: int
    rows: int
    left_out: tuple[tuple[str, str], ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class ShardTask:
    """Settings that the makers of all shards share.

    Attributes:
        job: How features are made.
        weights: Fingerprint of the CLIP weights; all makers must have the same.
        out: Folder of the shards.
        classes: Class names.
        mask_values: Meaning of the values in masks.
        invert_masks: Whether masks mark the background.
    """

    job: FeatureJob
    weights: str
    out: Path
    classes: tuple[str, ...]
    mask_values: MaskValues = "auto"
    invert_masks: bool = False

    def photos(self, samples: Sequence[Sample]) -> Photos:
        """Return these samples as a picture set."""
        return Photos(self.classes, tuple(samples), self.mask_values, self.invert_masks)


Run = Callable[[Sequence[ShardWork], ShardTask], Generator[Outcome]]
"""Makes shards, here or on other machines, and yields each outcome as soon as it is known."""


# Makes the shards.


class ShardMaker:
    """Makes shards one by one. The tower is loaded once, before the first shard.

    Args:
        task: The task that all shards have in common.
        clip: The tower, if it is loaded already.
    """

    def __init__(self, task: ShardTask, clip: Clip | None = None) -> None:
        self._task, self._clip = task, clip

    def __call__(self, work: ShardWork) -> Outcome:
        """Make a shard. An error that the user can fix is returned as the outcome's `error`.

        Raises:
            OSError: No space, or no permission.
        """
        try:
            return self._make(work)
        except InputError as error:  # subclasses with more arguments cannot be pickled
            return Outcome(work.number, 0, error=str(error))

    def _make(self, work: ShardWork) -> Outcome:
        left_out: tuple[tuple[str, str], ...] = ()
        try:
            tensors = self._encoded(work.samples)
        except InputError:
            if self._task.job.on_bad == "error":
                raise
            work, left_out = self._without_bad(work)
            tensors = self._encoded(work.samples)
        path = shard_path(self._task.out, work.number)
        write_shard(path, tensors, ShardNote(work.key, work.names, left_out))
        return Outcome(work.number, len(work.names), left_out)

    def _without_bad(self, work: ShardWork) -> tuple[ShardWork, tuple[tuple[str, str], ...]]:
        """Read every picture of a shard and leave out the unreadable ones."""
        pictures = self._pictures(work.samples)
        reasons: dict[int, str] = {}
        for row in range(len(work.samples)):
            try:
                pictures.item(row)
            except InputError as error:
                reasons[row] = error.reason if isinstance(error, BadPicture) else str(error)
        good = [row for row in range(len(work.samples)) if row not in reasons]
        names, samples = tuple(work.names[r] for r in good), tuple(work.samples[r] for r in good)
        left_out = tuple((work.names[row], reason) for row, reason in reasons.items())
        return replace(work, names=names, samples=samples), left_out

    def _encoded(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        job, pictures = self._task.job, self._pictures(samples)
        parts: dict[str, list[Tensor]] = {part: [torch.empty(0, self._dim)] for part in parts_of(job)}
        areas: list[Tensor] = []
        for batch in pictures.batches(None, job.batch_size, workers=job.readers):
            for part, features in encode(self._look, batch).items():
                parts[part].append(features[0])
            areas += [] if batch.areas is None else [batch.areas]
        tensors = {part: torch.cat(chunks).to(getattr(torch, job.dtype)) for part, chunks in parts.items()}
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise InputError(f"features do not fit into {job.dtype}: keep them in float32, --dtype float32")
        tensors[LABELS] = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
        if job.masks:
            unmasked = torch.tensor([sample.mask is None for sample in samples], dtype=torch.bool)
            tensors[AREAS] = torch.cat(areas) if areas else torch.zeros(len(samples))
            tensors[AREAS][unmasked] = torch.nan
            tensors[FOREGROUND][unmasked] = torch.nan
        return tensors

    def _look(self, batch: Batch) -> dict[str, Tensor]:
        """Return the tower's features of pictures and of their foregrounds."""
        clip = self._tower()
        device = clip.logit_scale.device
        with torch.inference_mode():
            images = sent(batch.images, device)
            views = {IMAGE: images}
            if self._task.job.masks:
                masks = torch.zeros_like(images[:, :1]) if batch.masks is None else sent(batch.masks, device)
                views[FOREGROUND] = foreground_view(images, masks)
            return {part: clip.vision(view)[None].float().cpu() for part, view in views.items()}

    def _pictures(self, samples: Sequence[Sample]) -> PictureSet:
        return eval_pictures(self._task.photos(samples), self._tower().config, self._task.job.masks)

    @property
    def _dim(self) -> int:
        return self._tower().config.embed

    def _tower(self) -> Clip:
        if self._clip is None:
            self._clip = open_tower(self._task.job)
            if self._clip.fingerprint() != self._task.weights:
                raise InputError(
                    f"{self._task.job.clip} has other weights on another computer of the cluster"
                )
        return self._clip


def parts_of(job: FeatureJob) -> tuple[str, ...]:
    """Return the names of the features that are encoded of each picture."""
    return (IMAGE, FOREGROUND) if job.masks else (IMAGE,)


def open_tower(job: FeatureJob) -> Clip:
    """Load the CLIP model of a job.

    Raises:
        InputError: The model or the device does not exist.
    """
    return load_clip(job.clip, dtype=job.precision, device=job.device)
