"""Check every picture and every mask before a run starts."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

from foveate.data.listing import decode_all
from foveate.data.samples import Photos, Sample
from foveate.foreground import checks as foreground
from foveate.foreground.checks import MaskEntry, MaskReport
from foveate.foreground.opening import BadPicture
from foveate.foreground.options import OnBad
from foveate.foreground.pictures import measure
from foveate.foreground.values import detect_values

Progress = Callable[[int], None]

_COMPARED = 20_000


def check_pictures(
    photos: Photos, on_bad: OnBad = "error", progress: Progress | None = None, workers: int = 2
) -> tuple[Photos, list[tuple[str, str]]]:
    """Decode every picture once.

    Args:
        photos: The set to check.
        on_bad: "error" refuses the set, "skip" leaves out bad pictures.
        progress: Called with 1 after each picture.
        workers: Number of threads.

    Returns:
        The set without bad pictures; name and reason of each picture that is left out.

    Raises:
        BadPicture: Under "error". The message names the first bad picture and gives the number of
            others.
    """
    bad: list[tuple[str, str]] = []
    kept: list[Sample] = []
    decoded = decode_all((sample.picture for sample in photos.samples), workers)
    for sample, (_, error) in zip(photos.samples, decoded, strict=True):
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
    """Read every mask of a set, before training with masks.

    The pictures must be checked already (see `check_pictures`); only their headers are read here.

    Returns:
        The set without unusable masks (all pictures stay), and the report.

    Raises:
        InputError: Under "error": a mask is missing, unreadable, of another shape, empty or full, or
            most masks look inverted. Always: more than half of the masks are empty, or no mask is usable.
    """
    mask_sources = [sample.mask for sample in photos.samples if sample.mask is not None]
    values = photos.mask_values
    if values == "auto":
        values = detect_values(mask_sources) if mask_sources else "binary255"
    report = foreground.check_masks(
        _entries(photos.samples), values, invert=photos.invert_masks, workers=workers
    )
    report.demand(on_bad)
    unusable = {fault.index for fault in report.faults}
    samples = [
        replace(sample, mask=None) if index in unusable else sample
        for index, sample in enumerate(photos.samples)
    ]
    return replace(photos, samples=tuple(samples), mask_values=values), report


def repeated(photos: Photos) -> list[str]:
    """Return a note if two files have equal bytes but different labels or splits.

    Only files of equal size are read. Sets of more than 20,000 pictures are not checked.
    """
    if len(photos) > _COMPARED:
        return []
    by_size: dict[int, list[Sample]] = {}
    for sample in photos.samples:
        if isinstance(sample.picture, Path) and sample.picture.is_file():
            by_size.setdefault(sample.picture.stat().st_size, []).append(sample)
    groups = (group for group in by_size.values() if len({(s.label, s.split) for s in group}) > 1)
    by_digest: dict[bytes, Sample] = {}
    pairs: list[tuple[Sample, Sample]] = []
    for sample in (s for group in groups for s in group if isinstance(s.picture, Path)):
        try:
            digest = hashlib.sha256(cast("Path", sample.picture).read_bytes()).digest()
        except OSError:  # the decoder reports it
            continue
        previous = by_digest.setdefault(digest, sample)
        if (previous.label, previous.split) != (sample.label, sample.split):
            pairs.append((previous, sample))
    if not pairs:
        return []
    first, second = pairs[0]
    how = "two labels" if first.label != second.label else f"{first.split} and in {second.split}"
    return [
        f"{first.name} and {second.name} are the same picture, in {how}; there are {len(pairs)} such pairs"
    ]


def _entries(samples: Iterable[Sample]) -> Iterator[MaskEntry]:
    for sample in samples:
        size, orientation = measure(sample.picture)
        yield MaskEntry(sample.name, sample.mask, size, orientation)
