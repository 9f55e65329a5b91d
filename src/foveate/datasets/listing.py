"""What is in a set on disk: its names, its pictures, and those that its list names and the disk has not."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.data.samples import Sample
from foveate.datasets.catalogue import DataSet
from foveate.datasets.places import Place
from foveate.datasets.splits import SPLITS, Split, official_split, read_split, read_variants
from foveate.datasets.wordnet import clips_names, list_folders
from foveate.errors import InputError

_TRIED = 64


@dataclass(frozen=True)
class Listing:
    """A set on disk.

    Attributes:
        place: Where it was found.
        split: The list of its pictures.
        base: Folder that the list's paths are relative to.
        samples: Its pictures, in the list's order, without masks.
        absent: Paths in the list that are no files.
    """

    place: Place
    split: Split
    base: Path
    samples: tuple[Sample, ...]
    absent: tuple[str, ...]


def list_set(one: DataSet, place: Place, splits: Collection[str] = SPLITS) -> Listing:
    """List a set's pictures, and look which are there.

    Args:
        one: The set.
        place: Where it is.
        splits: Which of its splits.

    Raises:
        InputError: There is no list of its pictures, or one that cannot be read.
    """
    if one.kind == "imagenet":
        split, base = list_folders(one, place, splits), place.home
        samples = [Sample(base / row.path, row.label, None, row.split) for row in split.rows]
        return Listing(place, split, base, tuple(samples), ())
    split = split_of(one, place)
    wanted = [row for row in split.rows if row.split in splits]
    base = _base(one, place, [row.path for row in wanted])
    there = _looker()
    samples, absent = [], list[str]()
    for row in wanted:
        if there(base / row.path):
            samples.append(Sample(base / row.path, row.label, None, row.split))
        else:
            absent.append(row.path)
    return Listing(place, split, base, tuple(samples), tuple(absent))


def split_of(one: DataSet, place: Place) -> Split:
    """Return the list of a set's pictures: its split file, else the official one, never a new one.

    Raises:
        InputError: There is none; says where it can be had.
    """
    if one.kind == "aircraft":
        return read_variants(place.home)
    if place.split_file is not None:
        return read_split(place.split_file)
    official = official_split(one)
    if official is None:
        raise InputError(
            f"{place.home / one.split_file}: no such file, and no other split will do; {one.where}"
        )
    return official


def official_names(one: DataSet) -> tuple[str, ...] | None:
    """Return the official class names in their order, where foveate knows them."""
    if one.kind == "imagenet":
        return tuple(clips_names().values()) if one.classes == len(clips_names()) else None
    official = official_split(one)
    return official.names if official else None


def in_another_order(names: Sequence[str], official: Sequence[str]) -> bool:
    """Whether the names that both lists have stand in different orders: then base and new classes differ."""
    row = {name: number for number, name in enumerate(official)}
    places = [row[name] for name in names if name in row]
    return places != sorted(places)


def _base(one: DataSet, place: Place, paths: Sequence[str]) -> Path:
    """Find out what the list's paths are relative to; lists differ in how many folders they repeat."""
    assert place.pictures is not None
    usual = place.home / one.relative_to if one.relative_to else place.pictures
    tried = paths[:: max(1, len(paths) // _TRIED)]
    candidates = list(dict.fromkeys([usual, place.pictures, place.home, place.home.parent]))
    return max(candidates, key=lambda base: sum((base / path).is_file() for path in tried))


def _looker() -> Callable[[Path], bool]:
    """Return what says whether a file is there; it reads each folder once, which is quicker on a network."""
    known: dict[Path, frozenset[str]] = {}

    def there(path: Path) -> bool:
        folder = path.parent
        if folder not in known:
            try:
                known[folder] = frozenset(os.listdir(folder))  # noqa: PTH208  (names alone are wanted)
            except OSError:
                known[folder] = frozenset()
        return path.name in known[folder]

    return there
