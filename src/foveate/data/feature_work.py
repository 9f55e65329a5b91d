"""Data exchanged between the planner and the makers of shards; all of it can be pickled."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from foveate.clip.precision import Precision, precision_on
from foveate.data.bank import CHUNK
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError
from foveate.foreground.options import MaskValues, OnBad

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
