"""Surveys an existing set of masks (layout, meaning of values, faults), and imports it into a store."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foveate.errors import InputError
from foveate.files import sha256_of
from foveate.foreground.checks import (
    TOO_MANY_EMPTY,
    Fault,
    MaskEntry,
    MaskReport,
    check_masks,
    fit_mask,
)
from foveate.foreground.matching import MaskFile, Match, match_masks
from foveate.foreground.opening import BadPicture, source_name
from foveate.foreground.options import MaskValues, OnBad, OnCount
from foveate.foreground.pictures import measure
from foveate.foreground.proposers.base import Mask
from foveate.foreground.records import MaskRecord, StoredMask
from foveate.foreground.store import MaskStore
from foveate.foreground.values import detect_values, read_mask, read_raw

Pictures = Sequence[tuple[str, Path, str]]
"""Path relative to the root folder, file and class name (may be empty) of each picture."""

_LOOKED_AT = 64
_SPANS = {"0": (0, 1), "1": (1, 2), "2 to 127": (2, 128), "128 to 254": (128, 255), "255": (255, 256)}
_FAULTS: tuple[Fault, ...] = ("unreadable", "mismatched", "empty", "full")


@dataclass(frozen=True)
class Conventions:
    """Conventions of a set of masks.

    Attributes:
        root: Path of the set.
        rule: Layout of the masks, in words; empty if none was found.
        total: Number of requested pictures.
        found: Number of pictures with a mask.
        unused: Masks that match none of the pictures.
        values: The used meaning of the masks' values.
        detected: The detected meaning of the masks' values.
        histogram: Share of pixels with each value or range of values, over some of the masks.
        report: Fault of each picture's mask; a missing mask is a fault too.
        skipped: Pictures that cannot be read, and the reasons.
    """

    root: Path
    rule: str
    total: int
    found: int
    unused: tuple[str, ...]
    values: MaskValues
    detected: MaskValues
    histogram: Mapping[str, float]
    report: MaskReport
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def usable(self) -> int:
        """Number of pictures with a usable mask; the others get the whole picture."""
        return self.report.total - len(self.report.faults)

    def demand(self, on_bad: OnBad = "error") -> None:
        """Refuse a set that would be empty or inverted.

        Args:
            on_bad: "skip" accepts masks that cover the border instead of the centre.

        Raises:
            InputError: No mask matches a picture, more than half of the matching masks carry no
                information, or most look inverted.
        """
        if not self.found:
            raise InputError(f"{self.root}: no mask in it matches any of {self.total} pictures")
        empty = self.report.count("empty")
        if empty > TOO_MANY_EMPTY * self.found:
            raise InputError(
                f"{self.root}: {empty} of {self.found} masks are empty when read as {self.values}"
                f" ({self._numbers()}); {self._advice()}"
            )
        faults = [fault for fault in self.report.faults if fault.fault != "missing"]
        if len(faults) > TOO_MANY_EMPTY * self.found:
            raise InputError(
                f"{self.root}: {len(faults)} of {self.found} masks cannot be used; first: {faults[0].detail}"
            )
        if self.report.inverted and on_bad == "error":
            raise InputError(
                f"{self.root}: most masks cover the border and not the centre, as if they marked the"
                ' background; pass --invert-masks if they do, or on_bad="skip" if they are right'
            )

    def lines(self) -> list[str]:
        """Return all facts as readable lines."""
        faults = [f"{self.report.count(kind)} {kind}" for kind in _FAULTS if self.report.count(kind)]
        lines = [
            f"layout: {self.rule or 'none that fits'}",
            f"pictures with a mask: {self.found} of {self.total}",
            f"masks of no picture: {len(self.unused)}" + (f", first {self.unused[0]}" if self.unused else ""),
            f"numbers: {self._numbers()}; read as {self.values}",
            f"unusable: {', '.join(faults) or 'none'}",
            f"foreground: {100 * self.report.share:.1f} % of the picture on average",
        ]
        return [*lines, "most look inverted"] if self.report.inverted else lines

    def _numbers(self) -> str:
        return ", ".join(f"{100 * share:.1f} % {span}" for span, share in self.histogram.items() if share)

    def _advice(self) -> str:
        if self.detected != self.values:
            return f"they look like {self.detected}: pass --mask-values {self.detected}"
        return "check that these are masks, and that their object is white (--invert-masks)"


class Survey:
    """Pictures and their masks, with the detected conventions; arguments as for `report_conventions`.

    Attributes:
        good: The readable pictures.
        conventions: The detected conventions.
    """

    def __init__(
        self, pictures: Pictures, root: Path, values: MaskValues, invert: bool, on_bad: OnBad
    ) -> None:
        self._root, self._invert = root, invert
        self.good: list[tuple[str, Path, str]] = []
        self._sizes: list[tuple[tuple[int, int], int]] = []
        skipped = tuple(self._measure(pictures, on_bad))
        match: Match[MaskFile] = match_masks(
            [(path.absolute(), Path(name)) for name, path, _ in self.good], root
        )
        self._masks = match.masks
        matched = [mask for mask in self._masks if mask is not None]
        detected = detect_values(matched) if matched else "binary255"
        self._values: MaskValues = detected if values == "auto" else values
        report = check_masks(self._entries(), self._values, invert=invert)
        self._faults = {fault.index: fault for fault in report.faults}
        self.conventions = Conventions(
            root,
            match.rule,
            len(pictures),
            match.found,
            match.unused,
            self._values,
            detected,
            _histogram(matched),
            report,
            skipped,
        )

    def mask(self, number: int) -> tuple[Mask, str]:
        """Return the mask of a readable picture; for a fallback (the whole picture), also the reason."""
        size, orientation = self._sizes[number]
        source = self._masks[number]
        if source is None or number in self._faults:
            return np.ones((size[1], size[0]), bool), self._faults[number].fault
        image = read_mask(source, self._values, invert=self._invert)
        fitted = fit_mask(image, size, orientation=orientation)
        reason = "fallback" if isinstance(source, StoredMask) and source.fallback else ""
        return np.asarray(fitted) > 0, reason

    def origin(self, number: int) -> str:
        """Return the source of a picture's mask; the same on every machine."""
        source = self._masks[number]
        assert source is not None
        if isinstance(source, Path) and source.is_relative_to(self._root):
            return source.relative_to(self._root).as_posix()
        return source_name(source)

    def _measure(self, pictures: Pictures, on_bad: OnBad) -> Iterator[tuple[str, str]]:
        for picture in pictures:
            try:
                self._sizes.append(measure(picture[1]))
            except BadPicture as error:
                if on_bad == "error":
                    raise
                yield error.name, error.reason
            else:
                self.good.append(picture)

    def _entries(self) -> Iterator[MaskEntry]:
        for (_, path, _), mask, (size, orientation) in zip(self.good, self._masks, self._sizes, strict=True):
            yield MaskEntry(str(path), mask, size, orientation)


def _histogram(masks: Sequence[MaskFile]) -> dict[str, float]:
    """Return the share of pixels in each range of values, over some masks evenly spread over the set."""
    counts = np.zeros(256, np.int64)
    for mask in masks[:: max(1, len(masks) // _LOOKED_AT)][:_LOOKED_AT]:
        try:
            counts += np.bincount(read_raw(mask).values.ravel(), minlength=256)
        except BadPicture:  # the check reports it
            continue
    total = max(1, int(counts.sum()))
    return {span: float(counts[start:end].sum() / total) for span, (start, end) in _SPANS.items()}


# Reports the conventions of an existing set of masks, and imports it into a store.
#
# Published sets differ in the location of masks and in the meaning of their values. FVG-PT's values are 0
# and 255; DAPT's reader treats 255 as void, so all of FVG-PT's masks are empty to it, without an error.
# foveate refuses such a set.


def report_conventions(
    pictures: Pictures,
    root: Path,
    *,
    values: MaskValues = "auto",
    invert: bool = False,
    on_bad: OnBad = "error",
) -> Conventions:
    """Detect the layout and the values of a set of masks, and read each mask once.

    Args:
        pictures: The pictures that need masks.
        root: A folder of masks in any layout, packed masks, or a COCO file.
        values: Meaning of the masks' values; "auto" detects it.
        invert: Whether masks mark the background.
        on_bad: What to do with unreadable pictures.

    Raises:
        InputError: `root` cannot hold masks; two pictures would share a mask; under "error", a picture
            cannot be read.
    """
    return Survey(pictures, root, values, invert, on_bad).conventions


def import_masks(
    pictures: Pictures,
    root: Path,
    store: MaskStore,
    *,
    values: MaskValues = "auto",
    invert: bool = False,
    on_bad: OnBad = "error",
    on_count: OnCount | None = None,
) -> Conventions:
    """Import masks of any layout into a store, at the size of their pictures.

    A picture without a usable mask gets the whole picture, with score 0, and is marked as a fallback.
    All others have score 1. A mask of the same picture that is already in the store stays.

    Args:
        pictures: The pictures that need masks.
        root: A folder of masks in any layout, packed masks, or a COCO file.
        store: The store to write to.
        values: Meaning of the masks' values; "auto" detects it.
        invert: Whether masks mark the background.
        on_bad: What to do with unreadable pictures.
        on_count: Called with the progress.

    Raises:
        InputError: As in `report_conventions` and `Conventions.demand`.
        OSError: No space, or no permission; the message gives the path. Imported masks stay.
    """
    survey = Survey(pictures, root, values, invert, on_bad)
    survey.conventions.demand(on_bad)
    for number, (name, path, label) in enumerate(survey.good):
        sha256 = sha256_of(path)
        existing = store.finished.get(name)
        if existing is None or (existing.sha256, existing.label) != (sha256, label):
            mask, reason = survey.mask(number)
            meta = {"why": reason} if reason else {"from": survey.origin(number)}
            height, width = mask.shape
            record = MaskRecord(name, sha256, width, height, float(mask.mean()), float(not reason), label)
            store.put(replace(record, fallback=bool(reason), meta=meta), mask)
        if on_count is not None:
            on_count(number + 1, len(survey.good))
    return survey.conventions
