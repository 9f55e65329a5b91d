"""Look at every picture and every mask once, before a run depends on them."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from foveate.data.pictures import BadPicture, measure, open_picture
from foveate.data.samples import Photos, Sample
from foveate.foreground import masks as foreground
from foveate.foreground.masks import MaskEntry, MaskReport, OnBad, detect_values

Progress = Callable[[int], None]


def check_pictures(
    photos: Photos, on_bad: OnBad = "error", progress: Progress | None = None, workers: int = 2
) -> tuple[Photos, list[tuple[str, str]]]:
    """Decode every picture once.

    Args:
        photos: What to look at.
        on_bad: "error" refuses the set, "skip" leaves bad pictures out.
        progress: Called with 1 after each picture.
        workers: Threads.

    Returns:
        The set without bad pictures, and the name and the reason of each one left out.

    Raises:
        BadPicture: Under "error": names the first bad picture and counts the others.
    """
    bad: list[tuple[str, str]] = []
    kept: list[Sample] = []
    for sample, error in _look(photos.samples, workers):
        if error is None:
            kept.append(sample)
        else:
            bad.append((error.name, error.reason))
        if progress is not None:
            progress(1)
    if bad and on_bad == "error":
        name, reason = bad[0]
        others = f" (and {len(bad) - 1} more of {len(photos)} pictures are bad)" if len(bad) > 1 else ""
        raise BadPicture(name, f"{reason}{others}")
    return photos.with_samples(kept), bad


def check_masks(photos: Photos, on_bad: OnBad = "error", workers: int = 2) -> tuple[Photos, MaskReport]:
    """Read every mask of a set that is to be trained with masks.

    Pictures must be good already (see `check_pictures`); of them only the header is read.

    Returns:
        The set with unusable masks taken away (its pictures all stay), and what was found.

    Raises:
        InputError: Under "error": any mask missing, unreadable, of another shape, empty or full, or most of
        them
            look inverted. Always: more than half empty, or none usable.
    """
    found = [sample.mask for sample in photos.samples if sample.mask is not None]
    values = photos.mask_values
    if values == "auto":
        values = detect_values(found) if found else "binary255"
    report = foreground.check_masks(
        _entries(photos.samples), values, invert=photos.invert_masks, workers=workers
    )
    report.demand(on_bad)
    without = {fault.index for fault in report.faults}
    samples = [
        replace(sample, mask=None) if index in without else sample
        for index, sample in enumerate(photos.samples)
    ]
    return replace(photos, samples=tuple(samples), mask_values=values), report


def _entries(samples: Iterable[Sample]) -> Iterator[MaskEntry]:
    for sample in samples:
        size, orientation = measure(sample.picture)
        yield MaskEntry(sample.name, sample.mask, size, orientation)


def _look(samples: Iterable[Sample], workers: int) -> Iterator[tuple[Sample, BadPicture | None]]:
    def attempt(sample: Sample) -> tuple[Sample, BadPicture | None]:
        try:
            open_picture(sample.picture)
        except BadPicture as error:
            return sample, error
        return sample, None

    with ThreadPoolExecutor(max(1, workers)) as pool:
        yield from pool.map(attempt, samples)
