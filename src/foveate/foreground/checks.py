"""Checks masks against their pictures, and sets of masks for plausibility."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.foreground.opening import BadPicture, source_name, turn
from foveate.foreground.options import OnBad
from foveate.foreground.records import StoredMask
from foveate.foreground.values import MaskSource, MaskValues, read_mask

Fault = Literal["missing", "unreadable", "mismatched", "empty", "full"]
Size = tuple[int, int]  # width, height

TOO_MANY_EMPTY = 0.5
_ROUNDING = 1.5  # pixels: programs may round the longer side of a smaller copy differently


@dataclass(frozen=True)
class MaskEntry:
    """A picture's mask, as input of the check.

    Attributes:
        name: Name of the picture in messages.
        mask: The mask, or None.
        size: (width, height) of the upright picture.
        orientation: EXIF orientation of the stored picture.
    """

    name: str
    mask: MaskSource | None
    size: Size
    orientation: int = 1


@dataclass(frozen=True)
class MaskFault:
    """A mask that cannot be used.

    Attributes:
        index: Index of its entry.
        name: Name of the picture.
        fault: Kind of the fault.
        detail: The fault as a sentence.
    """

    index: int
    name: str
    fault: Fault
    detail: str


@dataclass(frozen=True)
class MaskReport:
    """Result of checking a set of masks.

    Attributes:
        total: Number of checked pictures.
        faults: One for each picture without a usable mask, in order.
        share: Mean share of foreground over the usable masks; 0 if there are none.
        inverted: Whether most usable masks cover the border more than the centre.
    """

    total: int
    faults: tuple[MaskFault, ...]
    share: float
    inverted: bool

    def count(self, fault: Fault) -> int:
        """Return the number of masks with this fault."""
        return sum(mask_fault.fault == fault for mask_fault in self.faults)

    def demand(self, on_bad: OnBad = "error") -> None:
        """Refuse a set of masks that is not fit for training.

        Raises:
            InputError: More than half of the masks are empty, or no mask is usable. Under "error" also
                any fault, and masks that look inverted.
        """
        remedy = 'mend them, or pass on_bad="skip" to keep the pictures without these masks'
        if self.count("empty") > TOO_MANY_EMPTY * self.total:
            first = next(fault for fault in self.faults if fault.fault == "empty")
            raise InputError(
                f"{self.count('empty')} of {self.total} masks are empty (first: {first.name}); "
                f"check how they are read (--mask-values) and that white is the object (--invert-masks)"
            )
        if self.total and len(self.faults) == self.total:
            raise InputError(f"none of {self.total} pictures has a usable mask: {self.faults[0].detail}")
        if on_bad == "skip":
            return
        if self.faults:
            raise InputError(
                f"{self._tally()} of {self.total} masks; first: {self.faults[0].detail}; {remedy}"
            )
        if self.inverted:
            raise InputError(
                "most masks cover the border and not the centre, as if they marked the background; "
                'pass --invert-masks if they do, or on_bad="skip" if they are right'
            )

    def _tally(self) -> str:
        kinds: tuple[Fault, ...] = ("missing", "unreadable", "mismatched", "empty", "full")
        return ", ".join(f"{self.count(kind)} {kind}" for kind in kinds if self.count(kind))


def fit_mask(
    mask: Image.Image,
    size: Size,
    *,
    orientation: int = 1,
    mask_name: str = "mask",
    picture_name: str = "picture",
) -> Image.Image:
    """Resize or rotate a mask to its picture's upright size.

    A mask of the same shape and another scale is resized (nearest). A mask drawn on the stored pixels of
    a picture that EXIF rotates by 90 degrees is rotated too, because its size shows this. A rotation by
    180 degrees or a mirroring does not change the size, so such a mask is treated as upright.

    Raises:
        InputError: The mask has another shape.
    """
    if mask.size == size:
        return mask
    sideways = (size[1], size[0])
    if orientation >= 5 and same_shape(mask.size, sideways) and not same_shape(mask.size, size):
        mask = turn(mask, orientation)
    if same_shape(mask.size, size):
        return mask.resize(size, Image.Resampling.NEAREST)
    what = f"mask {mask_name} is {mask.width}x{mask.height}, picture {picture_name} is {size[0]}x{size[1]}"
    if same_shape(mask.size, sideways):
        raise InputError(f"{what}; was one of them rotated? (EXIF)")
    raise InputError(f"{what}, another shape; make the mask from this very picture, uncropped")


def check_masks(
    entries: Iterable[MaskEntry], values: MaskValues, *, invert: bool = False, workers: int = 2
) -> MaskReport:
    """Read every mask once and report all faults; this never raises for a fault (see `MaskReport.demand`)."""

    def look(item: tuple[int, MaskEntry]) -> "MaskFault | _Shares":
        return _inspect(*item, values, invert)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        results = list(pool.map(look, enumerate(entries)))
    faults = tuple(fault for fault in results if isinstance(fault, MaskFault))
    usable = [shares for shares in results if isinstance(shares, _Shares)]
    inverted_count = sum(shares.border > 0.5 and shares.centre < shares.border for shares in usable)
    share = float(np.mean([shares.whole for shares in usable])) if usable else 0.0
    return MaskReport(len(results), faults, share, inverted=inverted_count > len(usable) / 2)


def same_shape(first: Size, second: Size) -> bool:
    """Return whether one size is the other one scaled, up to rounding."""
    (width, height), (width_2, height_2) = first, second
    if min(width, height, width_2, height_2) < 1:
        return False
    distortion = (width / width_2) / (height / height_2)
    difference = min(abs(width - height * width_2 / height_2), abs(height - width * height_2 / width_2))
    return difference <= _ROUNDING and 0.9 < distortion < 1.1


@dataclass(frozen=True)
class _Shares:
    """Foreground share of the picture, of its frame (a tenth wide), and of its middle half."""

    whole: float
    border: float
    centre: float


def _inspect(index: int, entry: MaskEntry, values: MaskValues, invert: bool) -> MaskFault | _Shares:
    def fault(kind: Fault, detail: str) -> MaskFault:
        return MaskFault(index, entry.name, kind, detail)

    if entry.mask is None:
        return fault("missing", f"{entry.name} has no mask")
    try:
        mask = read_mask(entry.mask, values, invert=invert)
    except BadPicture as error:
        return fault("unreadable", f"{error.name}: {error.reason}")
    try:
        fit_mask(
            mask,
            entry.size,
            orientation=entry.orientation,
            mask_name=source_name(entry.mask),
            picture_name=entry.name,
        )
    except InputError as error:
        return fault("mismatched", str(error))
    subject = f"the mask of {entry.name}, {source_name(entry.mask)},"
    shares = _shares(np.asarray(mask) > 0)
    if shares.whole == 0:
        return fault("empty", f"{subject} has no foreground at all")
    intended = isinstance(entry.mask, StoredMask) and entry.mask.fallback
    if shares.whole == 1 and not intended:
        return fault("full", f"{subject} is foreground everywhere")
    return shares


def _shares(mask: np.ndarray) -> _Shares:
    height, width = mask.shape
    top, left = max(1, height // 10), max(1, width // 10)
    frame = np.ones_like(mask)
    frame[top : height - top, left : width - left] = False
    centre = mask[height // 4 : -(height // 4) or None, width // 4 : -(width // 4) or None]
    return _Shares(float(mask.mean()), float(mask[frame].mean()), float(centre.mean()))
