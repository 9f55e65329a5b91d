"""All results below a sweep's folder."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.errors import InputError
from foveate.sweep.results import RESULT, Damaged, Result, read_result, results_in, unpacked

_ROUNDING = 0.01
JOB = "job.json"


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        results: Whole results, in an order of their own, whatever that of the files.
        damaged: What is wrong with each file that is none.
        folders: Where each result lies.
        begun: Folders of jobs that have been begun and have no result.
    """

    results: tuple[Result, ...]
    damaged: tuple[str, ...]
    folders: tuple[Path, ...]
    begun: tuple[Path, ...] = ()


def read_sweep(folder: Path) -> Found:
    """Read all results below a folder.

    Raises:
        InputError: There is no such folder, no result in it that can be read, or one of a newer foveate.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give the one that foveate sweep wrote to")
    results: list[tuple[Result, Path]] = []
    damaged: list[str] = []
    for place in results_in(folder):
        try:
            result = read_result(place)
        except Damaged as error:
            damaged.append(" ".join(str(error).split()))
            continue
        if result is not None and _agrees(result):
            results.append((result, place))
        elif result is not None:
            damaged.append(f"{place / RESULT} is damaged: an accuracy is not that of its answers")
    if not results:
        raise InputError(_nothing(folder, damaged))
    results.sort(key=lambda pair: (_order(pair[0]), str(pair[1])))
    begun = tuple(
        sorted(Path(place) for place, _, names in os.walk(folder) if JOB in names and RESULT not in names)
    )
    return Found(
        tuple(one for one, _ in results), tuple(sorted(damaged)), tuple(at for _, at in results), begun
    )


def _agrees(result: Result) -> bool:
    """Return whether each accuracy is the share of right answers; in an edited file it may not be."""
    shares = (
        (one.accuracy, 100 * float(unpacked(one.right, one.pictures).double().mean()))
        for one in result.measured
    )
    return all(abs(said - found) < _ROUNDING for said, found in shares)


def _order(result: Result) -> tuple[str, str, str, str, int]:
    return (result.protocol, result.row, result.dataset, result.variant, result.seed)


def _nothing(folder: Path, damaged: Sequence[str]) -> str:
    if damaged:
        return f"no result in {folder} can be read, first: {damaged[0]}; move it away and sweep again"
    return f"there is no {RESULT} in {folder}: run foveate sweep first, or give the folder that it wrote to"
