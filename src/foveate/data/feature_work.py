"""What goes between who plans shards of features and who makes them; all of it travels to other processes."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from foveate.data.bank import CHUNK
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError
from foveate.foreground.masks import MaskValues, OnBad

Precision = Literal["float32", "float16", "bfloat16"]
PICTURES_A_SHARD = 4096


@dataclass(frozen=True)
class FeatureJob:
    """How features are made; it travels to other processes.

    Attributes:
        clip: Hub id, folder or file of CLIP weights.
        kept: Precision in which features are kept.
        precision: Of the tower.
        masks: Whether to encode x ⊙ m besides.
        batch_size: Pictures at once.
        shard: Pictures a shard.
        on_bad: What to do about a picture or mask that cannot be read.
        device: Where the tower runs.
        readers: Threads that decode; 0 decodes between batches.
    """

    clip: str
    kept: Literal["float32", "float16"] = "float32"
    precision: Precision = "float32"
    masks: bool = False
    batch_size: int = CHUNK
    shard: int = PICTURES_A_SHARD
    on_bad: OnBad = "error"
    device: str = "cpu"
    readers: int = 2

    def __post_init__(self) -> None:
        for name in ("batch_size", "shard"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}: give 1 or more")


@dataclass(frozen=True)
class ShardWork:
    """One shard that is to be made.

    Attributes:
        number: Of the shard.
        key: Names all that its numbers depend on.
        names: What its pictures are called.
        samples: Its pictures.
    """

    number: int
    key: str
    names: tuple[str, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of a shard.

    Attributes:
        number: Of the shard.
        rows: Pictures in it.
        left_out: Name of each picture that could not be read, and why.
        error: Why there is no shard; None where there is one.
    """

    number: int
    rows: int
    left_out: tuple[tuple[str, str], ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class ShardTask:
    """What every shard's maker needs to know; it travels to other processes.

    Attributes:
        job: How features are made.
        weights: Fingerprint of the CLIP that all of them must have.
        out: Where shards go.
        classes: Class names.
        mask_values: What the numbers in masks mean.
        invert_masks: Whether masks mark the background.
    """

    job: FeatureJob
    weights: str
    out: Path
    classes: tuple[str, ...]
    mask_values: MaskValues = "auto"
    invert_masks: bool = False

    def photos(self, samples: Sequence[Sample]) -> Photos:
        """Return some of the pictures as a set."""
        return Photos(self.classes, tuple(samples), self.mask_values, self.invert_masks)


Run = Callable[[Sequence[ShardWork], ShardTask], Generator[Outcome]]
"""Makes shards, somewhere, and yields what came of each as soon as it is known."""
