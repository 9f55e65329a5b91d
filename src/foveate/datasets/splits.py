"""Official splits: CoOp's split files, files that come with foveate, FGVC's own lists.

- Zhou et al. 2022, https://arxiv.org/abs/2109.01134. Files: `official/NOTICE`.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import cast

from foveate.data.naming import clean_names
from foveate.data.tables import split_classes, split_rows
from foveate.datasets.catalogue import DataSet
from foveate.errors import InputError
from foveate.readers import parse_json, read_text, text_lines

SPLITS = ("train", "val", "test")
VARIANTS = "variants.txt"


@dataclass(frozen=True)
class SplitRow:
    """One picture of a split.

    Attributes:
        path: Path as written in the list.
        label: Index of its class in the set's names.
        split: "train", "val" or "test".
    """

    path: str
    label: int
    split: str


@dataclass(frozen=True)
class Split:
    """A list of pictures with labels.

    Attributes:
        names: The class names, cleaned; a label is an index into them.
        rows: Pictures in the list's order, which few-shot draws depend on.
        source: File that it was read from, for messages.
        numbers: The labels as written in the list, by index in `names`; empty if the list has none.
    """

    names: tuple[str, ...]
    rows: tuple[SplitRow, ...]
    source: str
    numbers: tuple[int, ...] = ()

    def counts(self) -> dict[str, int]:
        """Number of pictures of each split."""
        splits = [row.split for row in self.rows]
        return {split: splits.count(split) for split in SPLITS}

    def digest(self) -> str:
        """Fingerprint of names, order, paths and labels."""
        state = hashlib.sha256(repr(self.names).encode())
        for row in self.rows:
            state.update(repr((row.split, row.path, row.label)).encode())
        return state.hexdigest()


def names_hash(names: Sequence[str]) -> str:
    """Return the fingerprint of class names, in order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def read_split(path: Path) -> Split:
    """Read `{train, val, test: [[path, label, name], ...]}`.

    `names`, if it is there, is the list of all class names; some of them may have no picture.

    Raises:
        InputError: The structure is different, labels and names contradict each other, or a picture
            occurs twice.
        OSError: Permission to read is missing.
    """
    return _parse(read_text(path), str(path))


def official_split(dataset: DataSet) -> Split | None:
    """Return the official split of a set if foveate contains it, which it does for seven sets."""
    return _shipped(dataset.split_file) if dataset.split_file and dataset.world is None else None


@cache
def _shipped(name: str) -> Split | None:
    file = files("foveate.datasets").joinpath("official", f"{name}.gz")
    if not file.is_file():
        return None
    return _parse(gzip.decompress(file.read_bytes()).decode(), f"foveate's own {name}")


@cache
def listed_names(key: str) -> tuple[str, ...] | None:
    """Return the official class names of a set without a split in foveate, if the names are known."""
    text = files("foveate.datasets").joinpath("official", "names.json").read_text(encoding="utf-8")
    names = cast("Mapping[str, list[str]]", json.loads(text)).get(key)
    return tuple(names) if names else None


def _parse(text: str, where: str) -> Split:
    content = parse_json(text, where)
    entries = split_rows(content, where)
    unfit = next((entry for entry in entries if not entry.name or not _is_below(entry.image)), None)
    if unfit is not None:
        raise InputError(f"{unfit.where} is not [path, label, name], a path below the set's folder")
    names, index_of = split_classes(content, entries, where)
    rows = [SplitRow(entry.image, index_of[entry.label], entry.split) for entry in entries]
    return Split(names, _check_unique(rows, where), where, tuple(map(int, index_of)))


def _check_unique(rows: Sequence[SplitRow], where: str) -> tuple[SplitRow, ...]:
    """Check that no picture is listed twice: a training picture in the test split makes it easier."""
    split_of: dict[str, str] = {}
    for row in rows:
        if row.path in split_of:
            both = (
                f"in {split_of[row.path]} and in {row.split}"
                if split_of[row.path] != row.split
                else "there twice"
            )
            raise InputError(f"{where}: {row.path} is {both}; keep one, or get the list again")
        split_of[row.path] = row.split
    return tuple(rows)


def _is_below(path: str) -> bool:
    """Whether a path stays in the set's folder, and is text."""
    is_text = "\0" not in path and not re.search("[\ud800-\udfff]", path)
    return is_text and not path.startswith("/") and ".." not in path.split("/")


def read_variants(home: Path) -> Split:
    """Read FGVC-Aircraft's own lists: `variants.txt` and `images_variant_{train,val,test}.txt`.

    Raises:
        InputError: A list is missing or not text, names a variant that is not in `variants.txt`, or has
            a picture twice.
        OSError: Permission to read a list is missing.
    """
    names = _lines(home / VARIANTS)
    label_of = {name: index for index, name in enumerate(names)}
    if len(label_of) < len(names):
        duplicate = next(name for index, name in enumerate(names) if label_of[name] != index)
        raise InputError(f"{home / VARIANTS}: {duplicate!r} is there twice; get the list again")
    rows: list[SplitRow] = []
    for split in SPLITS:
        path = home / f"images_variant_{split}.txt"
        for number, line in enumerate(_lines(path), 1):
            picture, _, name = line.partition(" ")
            if name not in label_of:
                raise InputError(f"{path}, line {number}: {name!r} is not in {home / VARIANTS}")
            rows.append(SplitRow(f"{picture}.jpg", label_of[name], split))
    cleaned = clean_names({name: name for name in names}, str(home / VARIANTS))
    return Split(cleaned, _check_unique(rows, str(home)), str(home / VARIANTS))


def _lines(path: Path) -> list[str]:
    try:
        return [line for _, line in text_lines(read_text(path))]
    except InputError as error:
        raise InputError(f"{error}; it comes with FGVC-Aircraft's pictures") from error
