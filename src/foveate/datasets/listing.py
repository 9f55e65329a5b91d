"""Lists a set on disk: its class names, its pictures, and listed pictures that do not exist."""

import os
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from foveate.data.samples import Sample
from foveate.datasets.catalogue import MIRROR, DataSet
from foveate.datasets.places import FoundSet
from foveate.datasets.splits import SPLITS, Split, listed_names, official_split, read_split, read_variants
from foveate.datasets.wordnet import clips_names, list_folders
from foveate.errors import InputError

_TRIED = 64


@dataclass(frozen=True)
class Listing:
    """A set on disk.

    Attributes:
        place: Location of the set.
        split: List of its pictures.
        base: Base folder of the list's paths.
        samples: Existing pictures, in the list's order, without masks.
        absent: Paths in the list that are not files.
    """

    place: FoundSet
    split: Split
    base: Path
    samples: tuple[Sample, ...]
    absent: tuple[str, ...]


def list_set(one: DataSet, place: FoundSet, splits: Collection[str] = SPLITS) -> Listing:
    """List the pictures of a set and check which exist.

    Args:
        one: The set.
        place: Location of the set.
        splits: Splits to list.

    Raises:
        InputError: There is no list of pictures, or it cannot be read.
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
        picture = base / row.path
        if there(picture):
            samples.append(Sample(picture, row.label, None, row.split))
        else:
            absent.append(row.path)
    return Listing(place, split, base, tuple(samples), tuple(absent))


def split_of(one: DataSet, place: FoundSet) -> Split:
    """Return the list of a set's pictures: its split file, otherwise the official one, never a new one.

    Raises:
        InputError: There is no list; the message gives the source of the set.
    """
    if one.kind == "aircraft":
        return read_variants(place.home)
    if place.split_file is not None:
        return read_split(place.split_file)
    official = official_split(one)
    if official is None:
        file = place.home / one.split_file
        raise InputError(f"{file}: no such file, and no other split will do; it is in {MIRROR}")
    return official


def official_names(one: DataSet) -> tuple[str, ...] | None:
    """Return the official class names in order, if foveate knows them."""
    if one.kind == "imagenet":
        return tuple(clips_names().values()) if one.classes == len(clips_names()) else None
    official = official_split(one)
    return official.names if official else listed_names(one.key)


def in_another_order(names: Sequence[str], official: Sequence[str]) -> bool:
    """Whether the common names of both lists have different orders: then base and new classes differ."""
    row = {name: number for number, name in enumerate(official)}
    places = [row[name] for name in names if name in row]
    return places != sorted(places)


def in_its_place(listing: Listing) -> str:
    """Return what exists in the place of the first absent picture, as text that starts with ": "; or ""."""
    first = listing.absent[0]
    near = _in_its_place(listing.base, first)
    if near == first:
        return ": a broken link, or no file"
    form = " in another Unicode form" if _composed(near) == _composed(first) else ""
    return f": there it is {near}{form}, so rename the files as the list has them" if near else ""


def _in_its_place(base: Path, path: str) -> str:
    """Find a file whose name differs in case, or in the Unicode form of accents; empty if there is none."""
    here = base
    for part in PurePosixPath(path).parts:
        same = [name for name in _names(here) if _folded(name) == _folded(part)]
        if not same:
            return ""
        here /= part if part in same else same[0]
    return here.relative_to(base).as_posix()


def _folded(name: str) -> str:
    return _composed(name).casefold()


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208  (names alone are wanted)


def _base(one: DataSet, place: FoundSet, paths: Sequence[str]) -> Path:
    """Determine the base folder of the list's paths; lists repeat different numbers of folders."""
    assert place.pictures is not None
    usual = place.home / one.relative_to if one.relative_to else place.pictures
    tried = paths[:: max(1, len(paths) // _TRIED)]
    candidates = list(dict.fromkeys([usual, place.pictures, place.home, place.home.parent]))
    return max(candidates, key=lambda base: sum((base / path).is_file() for path in tried))


def _looker() -> Callable[[Path], bool]:
    """Return a function that checks if a file exists; it lists each folder once, for network drives."""
    known: dict[Path, frozenset[str]] = {}

    def there(path: Path) -> bool:
        folder = path.parent
        if folder not in known:
            known[folder] = frozenset(_files(folder))
        return path.name in known[folder]

    return there


def _files(folder: Path) -> list[str]:
    """Return the names of a folder's files, including links to files: such data are often links."""
    try:
        with os.scandir(folder) as found:
            return [one.name for one in found if one.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []
