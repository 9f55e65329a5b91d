"""Reports the conventions of an existing set of masks, and imports it into a store.

Published sets differ in the location of masks and in the meaning of their values. FVG-PT's values are 0
and 255; DAPT's reader treats 255 as void, so all of FVG-PT's masks are empty to it, without an error.
foveate refuses such a set.
"""

from dataclasses import replace
from pathlib import Path

from foveate.files import sha256_of
from foveate.foreground.options import MaskValues, OnBad, OnCount
from foveate.foreground.records import MaskRecord
from foveate.foreground.store import MaskStore
from foveate.foreground.survey import Conventions as Conventions
from foveate.foreground.survey import Pictures, Survey


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
