"""What a labelled set of pictures is, wherever it came from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foveate.data.given import MemoryPicture as MemoryPicture
from foveate.data.given import as_picture as as_picture
from foveate.data.given import as_pictures as as_pictures
from foveate.errors import InputError
from foveate.foreground.masks import MaskValues
from foveate.foreground.opening import LazyPicture as LazyPicture  # masks may be lazy, so it lives below


@dataclass(frozen=True)
class Sample:
    """One labelled picture.

    Attributes:
        picture: The file, or something that loads.
        label: Row of its name in `Photos.names`.
        mask: Its foreground, if there is one.
        split: "train", "val", "test", or None where the source does not say.
    """

    picture: Path | LazyPicture
    label: int
    mask: Path | LazyPicture | None = None
    split: str | None = None

    @property
    def name(self) -> str:
        """What a message calls it."""
        return str(self.picture) if isinstance(self.picture, Path) else self.picture.name


@dataclass(frozen=True)
class Photos:
    """A labelled set of pictures.

    Attributes:
        names: The class names; a label is a row of it.
        samples: The pictures, in an order that is the same on every machine.
        mask_values: What the numbers in the mask files mean (see `foveate.foreground.masks`).
        invert_masks: Whether the files mark the background instead.
        selection: How a selector chose the training pictures, if one did: then all of them are learned from.
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
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise InputError(
                f"two classes are called {twice!r}; give each its own name, or make them one class"
            )
        for sample in self.samples:
            if not 0 <= sample.label < len(self.names):
                raise InputError(f"{sample.name}: label {sample.label} is none of {len(self.names)} classes")

    def __len__(self) -> int:
        return len(self.samples)

    def split(self, *which: str | None) -> "Photos":
        """Keep the samples of these splits, and all names."""
        return self.with_samples([sample for sample in self.samples if sample.split in which])

    def only(self, labels: Sequence[int]) -> "Photos":
        """Keep these classes, relabelled 0, 1, ... in the order given."""
        row = {label: new for new, label in enumerate(labels)}
        kept = [replace(s, label=row[s.label]) for s in self.samples if s.label in row]
        return replace(self, names=tuple(self.names[label] for label in labels), samples=tuple(kept))

    def with_samples(self, samples: Sequence[Sample]) -> "Photos":
        """The same classes with other samples."""
        return replace(self, samples=tuple(samples))

    def counts(self) -> dict[str, int]:
        """Number of samples by class name, zeros included."""
        numbers = [0] * len(self.names)
        for sample in self.samples:
            numbers[sample.label] += 1
        return dict(zip(self.names, numbers, strict=True))

    def digest(self, *, masks: bool = False) -> str:
        """Fingerprint of what is in the set, the same wherever the folder lies.

        Names, order, labels, splits and each file's name and parent folder go into it; contents and the
        folders above do not.

        Args:
            masks: Whether the masks' names and meaning count too.
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
