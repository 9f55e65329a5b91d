"""Runs that belong into one table, and those that do not: never are two settings averaged into one number.

A `Group` is all that may share a table: one protocol, the same weights in the same precision, the same source
of settings, as many shots, and either drawn scenes or photographs. A `Line` is a row of it: runs of one name
whose settings do not differ from seed to seed. Where they do, as when two sweeps lie in one folder, there is
a line for each, and its label says what differs.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from foveate.errors import InputError
from foveate.report.titles import is_drawn, set_title
from foveate.sweep.results import Result

Amount = float
"""How much a run was trained on: shots for few-shot, a share for data efficiency; 0 in other protocols."""

Place = tuple[str, Amount]
"""What a run was trained on: key of the set, and how much of it."""

_NOT_SETTINGS = ("seed", "bank_dir", "out", "workers", "device", "data", "masks", "root", "images", "threads")


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        name: As the sweep calls it, e.g. "CoOp + FVG-PT".
        label: The same, and what tells it apart from others of that name.
        method: E.g. "fvgpt+coop".
        runs: By what was trained on and seed.
        twins: Labels of other lines that are the same training throughout.
    """

    name: str
    label: str
    method: str
    runs: Mapping[Place, Mapping[int, Result]] = field(repr=False)
    twins: tuple[str, ...] = ()

    @property
    def results(self) -> Iterator[Result]:
        """All its runs."""
        for seeds in self.runs.values():
            yield from seeds.values()

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Its settings by part of the method; those of one run, for all sets agree on what names a line."""
        return cast("dict[str, dict[str, Any]]", next(self.results).config.get("settings") or {})


@dataclass(frozen=True)
class Group:
    """What may share a table.

    Attributes:
        protocol: E.g. "base-to-new".
        drawn: Whether the pictures are scenes that foveate draws.
        clip: Where the towers come from.
        weights: Their hash.
        precision: Of the towers.
        recipe: Source of the settings.
        classes: Which were trained on: "base" or "all".
        shots: Pictures a class; None where that is what varies.
        apart: What tells it from other groups of its protocol, in words; empty if it is the only one.
        lines: Its rows.
    """

    protocol: str
    drawn: bool
    clip: str
    weights: str
    precision: str
    recipe: str
    classes: str
    shots: int | None
    apart: str
    lines: tuple[Line, ...]

    @property
    def results(self) -> Iterator[Result]:
        """All runs of all lines."""
        for line in self.lines:
            yield from line.results

    @property
    def places(self) -> tuple[Place, ...]:
        """All that any line was trained on."""
        return tuple(sorted({place for line in self.lines for place in line.runs}))

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds of any line."""
        return tuple(sorted({result.seed for result in self.results}))


def groups_of(results: Sequence[Result], folders: Sequence[Path]) -> list[Group]:
    """Sort results into groups and lines; those that were asked nothing belong to none.

    Args:
        results: In any order.
        folders: Where each lies, for messages.

    Raises:
        InputError: One run is there twice with other answers, or a set is there in two splits.
    """
    found: dict[tuple[Any, ...], list[tuple[Result, Path]]] = defaultdict(list)
    for result, folder in zip(results, folders, strict=True):
        if result.measured:
            found[_key(result)].append((result, folder))
    keys = sorted(found, key=str)
    for key in keys:
        _check_splits(found[key])
    return [_group(key, found[key], [other for other in keys if other[:2] == key[:2]]) for key in keys]


def _group(
    key: tuple[Any, ...], runs: Sequence[tuple[Result, Path]], all_: Sequence[tuple[Any, ...]]
) -> Group:
    protocol, drawn, weights, precision, recipe, classes, shots = key
    clip = min(result.clip for result, _ in runs)  # the same weights may lie in several places
    said = _apart(key, all_, clip)
    return Group(protocol, drawn, clip, weights, precision, recipe, classes, shots, said, _lines(runs))


def _key(result: Result) -> tuple[Any, ...]:
    varies = result.protocol in ("few-shot", "data-efficiency")
    return (
        result.protocol,
        is_drawn(result.dataset),
        result.hashes.get("weights", "") or result.clip,
        str(result.config.get("precision", "")),
        result.recipe,
        str(result.config.get("classes", "")),
        None if varies else result.shots,
    )


def _apart(key: tuple[Any, ...], all_: Sequence[tuple[Any, ...]], clip: str) -> str:
    """Say in which of its values this key differs from others of the same protocol."""
    words = ("", "", clip + ", weights {:.8}", "{}", "settings: {}", "trained on {} classes", "{} shots")
    return ", ".join(
        word.format(value)
        for place, (word, value) in enumerate(zip(words, key, strict=True))
        if word and any(other[place] != value for other in all_)
    )


def _check_splits(runs: Iterable[tuple[Result, Path]]) -> None:
    """Refuse two splits of one set, which would be averaged as if they were one.

    Raises:
        InputError: There are two.
    """
    seen: dict[str, tuple[str, Path]] = {}
    for result, folder in runs:
        split = result.hashes.get("split", "")
        before, where = seen.setdefault(result.dataset, (split, folder))
        if before != split:
            raise InputError(
                f"{folder} and {where} are of two splits of {set_title(result.dataset)}, {split:.8} and "
                f"{before:.8}: keep them in folders of their own, and report each"
            )


def _lines(runs: Sequence[tuple[Result, Path]]) -> tuple[Line, ...]:
    named: dict[str, list[tuple[Result, Path]]] = defaultdict(list)
    for result, folder in runs:
        named[_name(result)].append((result, folder))
    lines = [line for name in sorted(named) for line in _split(name, named[name])]
    return tuple(_with_twins(lines))


def _name(result: Result) -> str:
    """Return the row's name; a variant belongs to it, where it is not how much was trained on."""
    if not result.variant or result.protocol == "few-shot":
        return result.row
    if result.protocol == "data-efficiency":
        return f"{result.row}, {result.select}" if result.select else result.row
    return f"{result.row}, {result.variant}"


def _split(name: str, runs: Sequence[tuple[Result, Path]]) -> Iterator[Line]:
    """Yield a line for each of the settings that runs of one name have."""
    settings = [_settings(result) for result, _ in runs]
    varying = _varying([result for result, _ in runs], settings)
    parts: dict[tuple[str, ...], list[tuple[Result, Path]]] = defaultdict(list)
    for run, own in zip(runs, settings, strict=True):
        parts[tuple(own.get(key, "–") for key in varying)].append(run)
    for values, own in sorted(parts.items()):
        said = ", ".join(f"{key} {value}" for key, value in zip(varying, values, strict=True))
        label = f"{name} ({said})" if said else name
        yield Line(name, label, own[0][0].method, _by_place(label, own))


def _settings(result: Result) -> dict[str, str]:
    return {"method": result.method, **flat(result.config)}


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Return settings by their whole names, "training.epochs", as text; but what changes no number."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if key in _NOT_SETTINGS:
            continue
        if isinstance(value, Mapping):
            found |= flat(cast("Mapping[str, Any]", value), f"{above}{key}.")
        else:
            found[above + key] = value if isinstance(value, str) else json.dumps(value)
    return found


def _varying(results: Sequence[Result], settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the settings that are not the same in all runs on one place."""
    seen: dict[tuple[Place, str], str] = {}
    varying: set[str] = set()
    keys = sorted({key for own in settings for key in own})
    for result, own in zip(results, settings, strict=True):
        for key in keys:
            value = own.get(key, "–")
            if seen.setdefault((place_of(result), key), value) != value:
                varying.add(key)
    return sorted(varying)


def _by_place(label: str, runs: Iterable[tuple[Result, Path]]) -> dict[Place, dict[int, Result]]:
    """Sort runs by what they were trained on and by seed.

    Raises:
        InputError: One is there twice, with other answers.
    """
    found: dict[Place, dict[int, Result]] = defaultdict(dict)
    where: dict[tuple[Place, int], Path] = {}
    for result, folder in runs:
        place = place_of(result)
        before = found[place].setdefault(result.seed, result)
        at = where.setdefault((place, result.seed), folder)
        if before.measured != result.measured:
            raise InputError(
                f"{at} and {folder} are both {label} on {set_title(result.dataset)}, seed {result.seed}, "
                "with other answers: report the sweeps one by one, or move one of the two away"
            )
    return {place: dict(sorted(found[place].items())) for place in sorted(found)}


def place_of(result: Result) -> Place:
    """Return what a run was trained on."""
    if result.protocol == "few-shot":
        return result.dataset, float(result.shots)
    if result.protocol != "data-efficiency":
        return result.dataset, 0.0
    share = result.fraction
    if share is None:  # "fraction-0.25" is a share of the shots
        word = result.variant.rpartition("-")[2]
        share = float(word) if word.replace(".", "", 1).isdigit() else 1.0
    return result.dataset, share


def _with_twins(lines: Sequence[Line]) -> Iterator[Line]:
    """Tell each line which others are the very same training, as far as both were trained on the same."""
    own = [
        {place: _settings(next(iter(seeds.values()))) for place, seeds in line.runs.items()} for line in lines
    ]
    for line, settings in zip(lines, own, strict=True):
        twins = (
            other.label
            for other, others in zip(lines, own, strict=True)
            if other is not line
            and settings.keys() & others.keys()
            and all(settings[place] == others[place] for place in settings.keys() & others.keys())
        )
        yield Line(line.name, line.label, line.method, line.runs, tuple(twins))
