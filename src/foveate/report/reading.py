"""All results below a sweep's folder."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from foveate.errors import InputError
from foveate.sweep.jobs import Protocol
from foveate.sweep.results import RESULT, Damaged, Measured, Result, read_result, results_in, unpacked

_ROUNDING = 0.01
JOB = "job.json"
_RESULT, _MEASURED = get_type_hints(Result), get_type_hints(Measured)


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
        wrong = None if result is None else _wrong(result)
        if wrong is not None:
            damaged.append(f"{place / RESULT} {wrong}")
        elif result is not None:
            results.append((result, place))
    if not results:
        raise InputError(_nothing(folder, damaged))
    if not any(result.measured for result, _ in results):
        raise InputError(
            f"no run in {folder} was tested yet, they are backbones of others: let foveate sweep go on"
        )
    results.sort(key=lambda pair: (_order(pair[0]), str(pair[1])))
    begun = tuple(
        sorted(Path(place) for place, _, names in os.walk(folder) if JOB in names and RESULT not in names)
    )
    return Found(
        tuple(one for one, _ in results), tuple(sorted(damaged)), tuple(at for _, at in results), begun
    )


def _wrong(result: Result) -> str | None:
    """Return in words what keeps a result out: it was edited, or is of a protocol unknown here."""
    for one, kinds in ((result, _RESULT), *((one, _MEASURED) for one in result.measured)):
        odd = next((name for name, hint in kinds.items() if not is_a(getattr(one, name), hint)), None)
        if odd is not None:
            return f"is damaged: {odd} is {str(getattr(one, odd))[:40]!r}"
    if result.protocol not in get_args(Protocol):
        return f"is of the protocol {result.protocol!r}, which this foveate does not know"
    for one in result.measured:
        right = int(unpacked(one.right, one.pictures).sum())
        if not one.pictures or abs(one.accuracy - 100 * right / one.pictures) >= _ROUNDING:
            return "is damaged: an accuracy is not that of its answers"
        if [sum(counts) for counts in zip(*one.per_class.values(), strict=True)] != [right, one.pictures]:
            return "is damaged: its classes' right answers are not those of its answers"
    return None


def is_a(value: object, hint: Any) -> bool:
    """Return whether a value is what a field of a result is declared as; numbers are finite."""
    inner = get_args(hint)
    if get_origin(hint) is UnionType:
        return any(is_a(value, one) for one in inner)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(
            is_a(one, inner[1]) for one in cast("dict[str, Any]", value).values()
        )
    if get_origin(hint) is tuple or hint is Any:
        return hint is Any or isinstance(value, tuple)
    if hint in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (hint is float and isinstance(value, float) and math.isfinite(value))
    return isinstance(value, hint)


def _order(result: Result) -> tuple[str, str, str, str, int]:
    return (result.protocol, result.row, result.dataset, result.variant, result.seed)


def _nothing(folder: Path, damaged: Sequence[str]) -> str:
    if damaged:
        return f"no result in {folder} can be read, first: {damaged[0]}; move it away and sweep again"
    return f"there is no {RESULT} in {folder}: run foveate sweep first, or give the folder that it wrote to"
