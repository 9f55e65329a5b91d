"""The official splits: split files of CoOp's, those that come with foveate, FGVC's own lists.

- Zhou et al. 2022, https://arxiv.org/abs/2109.01134. Files: `official/NOTICE`.
"""

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from foveate.data.naming import clean_names
from foveate.datasets.catalogue import DataSet
from foveate.errors import InputError

SPLITS = ("train", "val", "test")
VARIANTS = "variants.txt"


@dataclass(frozen=True)
class Row:
    """One picture of a split.

    Attributes:
        path: As the list writes it.
        label: Row of its class in the set's names.
        split: "train", "val" or "test".
    """

    path: str
    label: int
    split: str


@dataclass(frozen=True)
class Split:
    """A list of pictures and what they show.

    Attributes:
        names: The class names, cleaned; a label is a row of it.
        rows: Pictures, in the list's order: few-shot draws depend on it.
        source: Where it was read, for messages.
    """

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    source: str

    def counts(self) -> dict[str, int]:
        """Pictures of each split."""
        found = [row.split for row in self.rows]
        return {split: found.count(split) for split in SPLITS}

    def digest(self) -> str:
        """Fingerprint of names, order, paths and labels."""
        state = hashlib.sha256(repr(self.names).encode())
        for row in self.rows:
            state.update(repr((row.split, row.path, row.label)).encode())
        return state.hexdigest()


def names_hash(names: Sequence[str]) -> str:
    """Fingerprint of class names in their order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def read_split(path: Path) -> Split:
    """Read `{train, val, test: [[path, label, name], ...]}`.

    Raises:
        InputError: It has another shape, or labels and names contradict each other.
    """
    try:
        return _parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text; get the split file again") from error


def official_split(one: DataSet) -> Split | None:
    """Return the official split of a set if it comes with foveate; it does for seven of them."""
    return _shipped(one.split_file) if one.split_file and one.world is None else None


@cache
def _shipped(name: str) -> Split | None:
    file = files("foveate.datasets").joinpath("official", f"{name}.gz")
    if not file.is_file():
        return None
    return _parse(gzip.decompress(file.read_bytes()).decode(), f"foveate's own {name}")


def _parse(text: str, where: str) -> Split:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error}); get the split file again") from error
    called: dict[int, str] = {}
    found = [row for split in SPLITS for row in _rows(content, split, called, where)]
    if not found:
        raise InputError(f"{where}: no pictures; expected train, val and test lists of [path, label, name]")
    order = {label: row for row, label in enumerate(sorted(called))}
    names = clean_names({str(label): called[label] for label in order}, where)
    return Split(names, tuple(Row(path, order[label], split) for path, label, split in found), where)


def _rows(content: Any, split: str, called: dict[int, str], where: str) -> Iterable[tuple[str, int, str]]:
    items = cast("Mapping[str, Any]", content).get(split, []) if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise InputError(f"{where}: expected train, val and test lists of [path, label, name]")
    for number, item in enumerate(cast("list[Any]", items)):
        match item:
            case [str(path), int(label), str(name)]:
                if called.setdefault(label, name) != name:
                    other = called[label]
                    raise InputError(
                        f"{where}: {split}[{number}]: label {label} is {name!r} here and {other!r} before"
                    )
                yield path, label, split
            case _:
                raise InputError(f"{where}: {split}[{number}] is not [path, label, name]")


def read_variants(home: Path) -> Split:
    """Read FGVC-Aircraft's own lists: `variants.txt` and `images_variant_{train,val,test}.txt`.

    Raises:
        InputError: A list is missing, or names a variant that `variants.txt` has not.
    """
    names = _lines(home / VARIANTS)
    label = {name: row for row, name in enumerate(names)}
    rows: list[Row] = []
    for split in SPLITS:
        path = home / f"images_variant_{split}.txt"
        for number, line in enumerate(_lines(path), 1):
            picture, _, name = line.partition(" ")
            if name not in label:
                raise InputError(f"{path}, line {number}: {name!r} is not in {home / VARIANTS}")
            rows.append(Row(f"{picture}.jpg", label[name], split))
    return Split(clean_names({name: name for name in names}, str(home / VARIANTS)), tuple(rows), str(home))


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; it comes with FGVC-Aircraft's pictures") from error
    return [line.strip() for line in lines if line.strip()]
