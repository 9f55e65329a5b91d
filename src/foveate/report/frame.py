"""All results of a sweep as one long table: a line for each run, test set, split and test condition.

`read_sweep` reads and checks the files. `groups_of` divides the lines into groups that may share a
table, and adds the label of their row. Different settings are never averaged into one number.
"""

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

import pandas as pd

from foveate.datasets.catalogue import DataSet, find
from foveate.errors import InputError
from foveate.readers import one_line
from foveate.report import published
from foveate.report.statistics import TrainingSet
from foveate.sweep.jobs import Protocol
from foveate.sweep.results import RESULT, Damaged, Measured, Result, read_result, results_in, unpacked

RAW = (
    *("key", "protocol", "row", "variant", "seed", "method", "recipe", "shots", "fraction", "select"),
    *("trained_on", "tested_on", "split", "condition", "accuracy", "right", "pictures", "classes", "trained"),
    *(
        "others",
        "shift",
        "shift_right",
        "shift_wrong",
        "gaze",
        "digest",
        "clip",
        "weights",
        "split_hash",
        "draw",
        "names",
        "masks",
        "precision",
    ),
    *(
        "learned_numbers",
        "learned_from",
        "train_seconds",
        "test_seconds",
        "peak_memory_mb",
        "device",
        "versions",
    ),
)
"""Columns of raw.csv."""
_MORE = ("per_class", "answers", "answered", "config", "folder", "name", "amount", "drawn", "group")
_ROUNDING = 0.01
_NOT_SETTINGS = ("seed", "bank_dir", "out", "workers", "device", "data", "masks", "root", "images", "threads")


@dataclass(frozen=True)
class SweepResults:
    """Results in a folder.

    Attributes:
        frame: The long table, sorted by run. Its columns are `RAW` (`versions` as a dict), and:
            `per_class` (right answers and pictures), `answers` (packed bits), `answered` (a fingerprint of
            all answers of the run), `config`, `folder`, `name` (row with variant), `amount` (shots or share,
            if it varies; otherwise 0), `drawn` (whether the pictures are drawn scenes) and `group` (the
            values that lines of one table share).
        runs: Number of results; some may be backbones without questions.
        damaged: Error of each file that was left out.
        unfinished: Folders of runs that are started and have no result.
    """

    frame: pd.DataFrame
    runs: int
    damaged: tuple[str, ...]
    unfinished: tuple[Path, ...]


def read_sweep(folder: Path) -> SweepResults:
    """Read and check all results below a folder.

    Raises:
        InputError: The folder does not exist, has no readable result, or has one of a newer foveate
            version.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give the one that foveate sweep wrote to")
    results: list[tuple[Result, Path]] = []
    damaged: list[str] = []
    for run in results_in(folder):
        try:
            result = read_result(run)
        except Damaged as error:
            damaged.append(one_line(error, None))
            continue
        fault = None if result is None else _fault(result)
        if fault is not None:
            damaged.append(f"{run / RESULT} {fault}")
        elif result is not None:
            results.append((result, run))
    if not any(result.measured for result, _ in results):
        raise InputError(_nothing(folder, results, damaged))
    results.sort(key=lambda item: (*(getattr(item[0], name) for name in _ORDER), str(item[1])))
    unfinished = [
        Path(path) for path, _, names in os.walk(folder) if "job.json" in names and RESULT not in names
    ]
    lines = [_line(result, measured, run) for result, run in results for measured in result.measured]
    frame = pd.DataFrame(lines, columns=[*RAW, *_MORE])
    return SweepResults(frame, len(results), tuple(sorted(damaged)), tuple(sorted(unfinished)))


_ORDER = ("protocol", "row", "dataset", "variant", "seed")


def _nothing(folder: Path, results: Sequence[object], damaged: Sequence[str]) -> str:
    if results:
        return f"no run in {folder} was tested yet, they are backbones of others: let foveate sweep go on"
    if damaged:
        return f"no result in {folder} can be read, first: {damaged[0]}; move it away and sweep again"
    return f"there is no {RESULT} in {folder}: run foveate sweep first, or give the folder that it wrote to"


def _line(result: Result, measured: Measured, folder: Path) -> dict[str, Any]:
    """Return one line of the long table."""
    return {
        **vars(result),
        **vars(measured),
        **{name: result.hashes.get(name, "") for name in ("weights", "draw", "names", "masks")},
        **{f"{name}_seconds": result.seconds.get(name) for name in ("train", "test")},
        "trained_on": result.dataset,
        "tested_on": measured.dataset.partition("@")[0],
        "condition": measured.dataset.partition("@")[2],  # "species@home" is another test split of "species"
        "right": sum(right for right, _ in measured.per_class.values()),
        "answers": measured.right,
        "answered": repr(result.measured),
        "learned_from": result.pictures,
        "split_hash": result.hashes.get("split", ""),
        "precision": str(result.config.get("precision", "")),
        "folder": folder,
        "name": _name(result),
        "amount": _amount(result),
        "drawn": is_drawn(result.dataset),
        "group": _group(result),
    }


def _name(result: Result) -> str:
    """Return the row's name; it includes the variant, unless the variant is the amount of training data."""
    if not result.variant or result.protocol == "few-shot":
        return result.row
    if result.protocol == "data-efficiency":
        return f"{result.row}, {result.select}" if result.select else result.row
    return f"{result.row}, {result.variant}"


def _amount(result: Result) -> float:
    if result.protocol == "few-shot":
        return float(result.shots)
    if result.protocol != "data-efficiency":
        return 0.0
    if result.fraction is not None:
        return float(result.fraction)
    word = result.variant.rpartition("-")[2]  # "fraction-0.25" is a share of the shots
    return float(word) if word.replace(".", "", 1).isdigit() else 1.0


def _group(result: Result) -> tuple[Any, ...]:
    varies = result.protocol in ("few-shot", "data-efficiency")
    weights = result.hashes.get("weights", "") or result.clip
    settings = (str(result.config.get("precision", "")), result.recipe, str(result.config.get("classes", "")))
    return result.protocol, is_drawn(result.dataset), weights, *settings, None if varies else result.shots


def _fault(result: Result) -> str | None:
    """Return why a result is left out: it was edited, or its protocol is unknown."""
    hints = {Result: get_type_hints(Result), Measured: get_type_hints(Measured)}
    for record in (result, *result.measured):
        wrong = next(
            (name for name, hint in hints[type(record)].items() if not is_a(getattr(record, name), hint)),
            None,
        )
        if wrong is not None:
            return f"is damaged: {wrong} is {str(getattr(record, wrong))[:40]!r}"
    if result.protocol not in get_args(Protocol):
        return f"is of the protocol {result.protocol!r}, which this foveate does not know"
    for test in result.measured:
        right = int(unpacked(test.right, test.pictures).sum())
        if not test.pictures or abs(test.accuracy - 100 * right / test.pictures) >= _ROUNDING:
            return "is damaged: an accuracy is not that of its answers"
        if [sum(counts) for counts in zip(*test.per_class.values(), strict=True)] != [right, test.pictures]:
            return "is damaged: its classes' right answers are not those of its answers"
    return None


def is_a(value: object, hint: Any) -> bool:
    """Return whether a value has the declared type of a result's field; numbers must be finite."""
    inner = get_args(hint)
    if get_origin(hint) is UnionType:
        return any(is_a(value, option) for option in inner)
    if get_origin(hint) is dict:
        mapping = cast("dict[str, Any]", value)
        return isinstance(value, dict) and all(is_a(item, inner[1]) for item in mapping.values())
    if get_origin(hint) is tuple or hint is Any:
        return hint is Any or isinstance(value, tuple)
    if hint in (int, float):
        is_int = isinstance(value, int) and not isinstance(value, bool)
        return is_int or (hint is float and isinstance(value, float) and math.isfinite(value))
    return isinstance(value, hint)


@dataclass(frozen=True)
class ResultGroup:
    """Results that may share a table: same protocol, weights, precision, and so on.

    Attributes:
        frame: Lines of the long table, each run once; `label` is the name of the row, with the settings
            that differ from other rows of that name.
        protocol: Protocol, e.g. "base-to-new".
        drawn: Whether the pictures are drawn scenes.
        clip: Source of the towers.
        weights: Hash of the weights.
        precision: Precision of the towers.
        recipe: Source of the settings.
        apart: Difference from other groups of the protocol, in words; empty if it is the only group.
        twins: By label, the other rows with identical training wherever both have a run.
    """

    frame: pd.DataFrame
    protocol: str
    drawn: bool
    clip: str
    weights: str
    precision: str
    recipe: str
    apart: str
    twins: Mapping[str, tuple[str, ...]]

    def titled(self, title: str) -> str:
        """Return a section's title, with the difference from other groups of the protocol."""
        return f"{title} ({self.apart})" if self.apart else title


def groups_of(frame: pd.DataFrame) -> list[ResultGroup]:
    """Divide the long table into groups.

    Raises:
        InputError: A run occurs twice with different answers, or a set occurs with two splits.
    """
    keys: list[tuple[Any, ...]] = sorted(set(frame["group"]), key=str)
    parts = {key: frame[[group == key for group in frame["group"]]] for key in keys}
    for part in parts.values():
        _check_splits(part)
    groups: list[ResultGroup] = []
    for key, part in parts.items():
        labelled, twins = _labelled(part)
        clip = min(labelled["clip"])  # equal weights may have several paths
        texts = ("", "", clip + ", weights {:.8}", "{}", "settings: {}", "trained on {} classes", "{} shots")
        related = [other for other in keys if other[:2] == key[:2]]
        differs = [len({other[i] for other in related}) > 1 for i in range(len(texts))]
        apart = [text.format(key[index]) for index, text in enumerate(texts) if text and differs[index]]
        groups.append(ResultGroup(labelled, key[0], key[1], clip, *key[2:5], ", ".join(apart), twins))
    return groups


def _check_splits(frame: pd.DataFrame) -> None:
    """Refuse two splits of one set: they must not be averaged together."""
    splits: dict[str, tuple[str, Path]] = {}
    for key, split, folder in zip(frame["trained_on"], frame["split_hash"], frame["folder"], strict=True):
        first, first_run = splits.setdefault(key, (split, folder))
        if first != split:
            raise InputError(
                f"{folder} and {first_run} are of two splits of {set_title(key)}, {split:.8} and {first:.8}: "
                "keep them in folders of their own, and report each"
            )


def _labelled(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, tuple[str, ...]]]:
    """Return a group's lines with labels, each run once, and the rows with identical training.

    Raises:
        InputError: A run occurs twice, with different answers.
    """
    runs = frame.drop_duplicates("folder").set_index("folder")
    settings = {
        folder: {"method": method, **flat(config)}
        for folder, method, config in zip(runs.index, runs["method"], runs["config"], strict=True)
    }
    wide = pd.DataFrame.from_dict(settings, orient="index").fillna("–")
    labels: dict[Path, str] = {}
    trained: dict[str, dict[TrainingSet, Mapping[str, str]]] = defaultdict(dict)
    for name, group in runs.groupby("name"):
        values = wide.loc[group.index]
        varies = values.groupby([group["trained_on"], group["amount"]]).nunique().gt(1).any()
        varying = sorted(varies.index[varies])
        for folder, training in zip(
            group.index, zip(group["trained_on"], group["amount"], strict=True), strict=True
        ):
            difference = ", ".join(f"{key} {values.at[folder, key]}" for key in varying)
            labels[folder] = f"{name} ({difference})" if difference else str(name)
            trained[labels[folder]].setdefault(training, settings[folder])
    lines = frame.assign(label=[labels[folder] for folder in frame["folder"]])
    keys = ["label", "trained_on", "amount", "seed"]
    for (label, key, _, seed), repeated in lines[
        lines.groupby(keys)["answered"].transform("nunique") > 1
    ].groupby(keys):
        first, second = repeated.drop_duplicates("answered")["folder"].iloc[:2]
        raise InputError(
            f"{first} and {second} are both {label} on {set_title(key)}, seed {seed}, with other answers: "
            "report the sweeps one by one, or move one of the two away"
        )
    unique = lines[lines["folder"] == lines.groupby(keys)["folder"].transform("first")]
    return unique.sort_values(keys, kind="stable"), {label: _twins(label, trained) for label in trained}


def _twins(label: str, trained: Mapping[str, Mapping[TrainingSet, Mapping[str, str]]]) -> tuple[str, ...]:
    def alike(other: str) -> bool:
        common = trained[label].keys() & trained[other].keys()
        return bool(common) and all(trained[label][key] == trained[other][key] for key in common)

    return tuple(other for other in sorted(trained) if other != label and alike(other))


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Return settings by dotted name ("training.epochs") as text, without those that change no number."""
    settings: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and key not in _NOT_SETTINGS:
            settings |= flat(cast("Mapping[str, Any]", value), f"{above}{key}.")
        elif key not in _NOT_SETTINGS:
            settings[above + key] = value if isinstance(value, str) else json.dumps(value)
    return settings


def _known(key: str) -> DataSet | None:
    try:
        return find(key)
    except InputError:
        return None


def set_title(key: str) -> str:
    """Return the title of a set; its key, if it is not in the catalogue."""
    entry = _known(key)
    return key if entry is None else entry.title


def set_order(key: str) -> tuple[int, list[str | int], str]:
    """Return the sort key of a set: its position in Table 1; "world-2" comes before "world-10"."""
    head, _, number = key.rpartition("-")
    rank = published.set_rank(set_title(key))
    return rank, [head, int(number)] if number.isdigit() else [key, 0], key


def is_drawn(key: str) -> bool:
    """Return whether the pictures of a set are drawn scenes."""
    entry = _known(key)
    return key.startswith("world") if entry is None else entry.world is not None


def about(key: str) -> str:
    """Return the description of a drawn set; empty for other sets."""
    entry = _known(key)
    return "" if entry is None or entry.world is None else f"{entry.classes} classes, {entry.world.about}"


def class_count(key: str, split: str) -> int | None:
    """Return the number of classes in a split of the complete set; None if it is not in the catalogue.

    Args:
        key: Key of the set.
        split: "base" is the first half, rounded up; "new" is the rest; "all" is both.
    """
    entry = _known(key)
    if entry is None:
        return None
    base = -(-entry.classes // 2)
    return {"base": base, "new": entry.classes - base}.get(split, entry.classes)
