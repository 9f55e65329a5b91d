"""Labelled sets of pictures from any source."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from foveate.data.given import MemoryPicture as MemoryPicture
from foveate.data.given import as_picture as as_picture
from foveate.data.given import as_pictures as as_pictures
from foveate.errors import InputError
from foveate.foreground.opening import LazyPicture as LazyPicture  # masks may be lazy, so it lives below
from foveate.foreground.options import MaskValues


def labelled(pictures: Any, labels: Any) -> tuple["Photos", list[Any]]:
    """Return labelled pictures as a set; all of them are for training.

    Args:
        pictures: As `as_pictures` takes them.
        labels: One for each picture: all names, or all numbers, whose text becomes the name.

    Returns:
        The set; and its distinct labels, sorted, which is the order of its classes.

    Raises:
        InputError: There are more or fewer labels than pictures, or labels of other or mixed types.
    """
    sources = as_pictures(pictures)
    values = labels.tolist() if isinstance(labels, np.ndarray | Tensor) else labels
    values = list(cast("Iterable[Any]", values)) if isinstance(values, Iterable) else [values]
    if len(sources) != len(values):
        raise InputError(
            f"there are {len(sources)} pictures and {len(values)} labels: give one label a picture"
        )
    odd = next((value for value in values if not isinstance(value, str | int | float | np.generic)), None)
    if odd is not None or None in values:
        raise InputError(f"a label is of type {type(odd).__name__}: give a name or a number for each picture")
    if len({isinstance(value, str) for value in values}) > 1:
        raise InputError("some labels are names and some are numbers: give one kind")
    classes = sorted(set(values))
    index_of = {label: index for index, label in enumerate(classes)}
    samples = [Sample(picture, index_of[label]) for picture, label in zip(sources, values, strict=True)]
    return Photos(tuple(str(label) for label in classes), tuple(samples), selection="hand"), classes


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture.

    Attributes:
        picture: The file, or an object that loads it.
        label: Index of its name in `Photos.names`.
        mask: The foreground mask, if there is one.
        split: "train", "val", "test", or None if the source does not give one.
    """

    picture: Path | LazyPicture
    label: int
    mask: Path | LazyPicture | None = None
    split: str | None = None

    @property
    def name(self) -> str:
        """Name in messages."""
        return str(self.picture) if isinstance(self.picture, Path) else self.picture.name


@dataclass(frozen=True)
class Photos:
    """A labelled set of pictures.

    Attributes:
        names: The class names; a label is an index into them.
        samples: The pictures, in an order that is equal on all machines.
        mask_values: Meaning of the values in mask files (see `foveate.foreground.options.MaskValues`).
        invert_masks: Whether the files mark the background instead.
        selection: How a selector chose the training pictures; if it is set, all of them are used for
            training.
    """

    names: tuple[str, ...]
    samples: tuple[Sample, ...]
    mask_values: MaskValues = "auto"
    invert_masks: bool = False
    selection: str = ""

    def __post_init__(self) -> None:
        for row, name in enumerate(self.names):
            if not name.strip():
                raise InputError(f"class {row} has an empty name; every class needs a name CLIP can read")
        if len(set(self.names)) < len(self.names):
            duplicate = next(name for name in self.names if self.names.count(name) > 1)
            raise InputError(
                f"two classes are called {duplicate!r}; give each its own name, or make them one class"
            )
        for sample in self.samples:
            if not 0 <= sample.label < len(self.names):
                raise InputError(f"{sample.name}: label {sample.label} is none of {len(self.names)} classes")

    def __len__(self) -> int:
        return len(self.samples)

    def split(self, *which: str | None) -> "Photos":
        """Return the samples of these splits, with all names."""
        return self.with_samples([sample for sample in self.samples if sample.split in which])

    def only(self, labels: Sequence[int]) -> "Photos":
        """Return only these classes, relabelled 0, 1, ... in the given order."""
        new_labels = {label: position for position, label in enumerate(labels)}
        kept = [replace(s, label=new_labels[s.label]) for s in self.samples if s.label in new_labels]
        return replace(self, names=tuple(self.names[label] for label in labels), samples=tuple(kept))

    def with_samples(self, samples: Sequence[Sample]) -> "Photos":
        """Return the same classes with other samples."""
        return replace(self, samples=tuple(samples))

    def counts(self) -> dict[str, int]:
        """Return the number of samples by class name, including zeros."""
        numbers = [0] * len(self.names)
        for sample in self.samples:
            numbers[sample.label] += 1
        return dict(zip(self.names, numbers, strict=True))

    def digest(self, *, masks: bool = False) -> str:
        """Fingerprint of the set; it does not depend on the location of the folder.

        It covers names, order, labels, splits, and the name and parent folder of each file. It does not
        cover contents or the folders above.

        Args:
            masks: Whether to include names and meaning of the masks.
        """
        state = hashlib.sha256(repr(self.names).encode())
        for sample in self.samples:
            state.update(repr((_local(sample.picture), sample.label, sample.split)).encode())
            if masks:
                state.update(repr(sample.mask and _local(sample.mask)).encode())
        if masks:
            state.update(repr((self.mask_values, self.invert_masks)).encode())
        return state.hexdigest()


def _local(source: Path | LazyPicture) -> str:
    return f"{source.parent.name}/{source.name}" if isinstance(source, Path) else source.name
