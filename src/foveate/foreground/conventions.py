"""What an existing set of masks is like, in one report, and the way of any such set into a store of ours.

Published sets of masks differ in where masks lie and in what their numbers mean. FVG-PT's are 0 and 255;
DAPT's reader takes 255 for void, so that FVG-PT's masks are all empty to it, and no error tells. Here such a
set is refused.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from foveate.foreground.checks import OnBad
from foveate.foreground.cutting import digest
from foveate.foreground.records import MaskRecord
from foveate.foreground.store import MaskStore
from foveate.foreground.survey import Conventions as Conventions
from foveate.foreground.survey import Pictures, Survey
from foveate.foreground.values import MaskValues

OnCount = Callable[[int, int], None]
"""Told of how many pictures are done, and of how many there are."""


def report_conventions(
    pictures: Pictures,
    root: Path,
    *,
    values: MaskValues = "auto",
    invert: bool = False,
    on_bad: OnBad = "error",
) -> Conventions:
    """Find out how a set of masks is laid out and written, and read each mask once.

    Args:
        pictures: Whose masks are wanted.
        root: A folder of masks in any layout, packed masks, or a COCO file.
        values: What the masks' numbers mean; "auto" finds out.
        invert: Whether they mark the background.
        on_bad: What to do about pictures that cannot be read.

    Raises:
        InputError: `root` is nothing that masks can be in; two pictures would share a mask; under "error" a
            picture cannot be read.
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
    """Bring masks of any layout into a store, at their pictures' sizes.

    A picture without a usable mask gets the whole picture, with score 0 and marked as a fallback; all others
    have score 1. What is in the store already, of the same picture, stays.

    Args:
        pictures: Whose masks are wanted.
        root: A folder of masks in any layout, packed masks, or a COCO file.
        store: Where they are kept.
        values: What the masks' numbers mean; "auto" finds out.
        invert: Whether they mark the background.
        on_bad: What to do about pictures that cannot be read.
        on_count: Told of progress.

    Raises:
        InputError: As `report_conventions` and `Conventions.demand`.
        OSError: No space, no permission; names the path. What was brought in stays.
    """
    survey = Survey(pictures, root, values, invert, on_bad)
    survey.conventions.demand(on_bad)
    for number, (name, path, label) in enumerate(survey.good):
        sha256 = digest(path)
        held = store.finished.get(name)
        if held is None or (held.sha256, held.label) != (sha256, label):
            mask, why = survey.mask(number)
            said = {"why": why} if why else {"from": survey.origin(number)}
            height, width = mask.shape
            record = MaskRecord(name, sha256, width, height, float(mask.mean()), float(not why), label)
            store.put(replace(record, fallback=bool(why), meta=said), mask)
        if on_count is not None:
            on_count(number + 1, len(survey.good))
    return survey.conventions
