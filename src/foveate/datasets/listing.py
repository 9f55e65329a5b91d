"""Lists a set on disk: its class names, its pictures, and listed pictures that do not exist."""

import os
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from foveate.data.naming import imagenet_names
from foveate.data.samples import Sample
from foveate.datasets.catalogue import MIRROR, DataSet
from foveate.datasets.places import FoundSet
from foveate.datasets.splits import SPLITS, Split, listed_names, official_split, read_split, read_variants
from foveate.datasets.wordnet import list_folders
from foveate.errors import InputError
from foveate.foreground.layouts import files_in

_TRIED = 64


@dataclass(frozen=True)
class Listing:
    """A set on disk.

    Attributes:
        location: Location of the set.
        split: List of its pictures.
        base: Base folder of the list's paths.
        samples: Existing pictures, in the list's order, without masks.
        absent: Paths in the list that are not files.
    """

    location: FoundSet
    split: Split
    base: Path
    samples: tuple[Sample, ...]
    absent: tuple[str, ...]


def list_set(dataset: DataSet, location: FoundSet, splits: Collection[str] = SPLITS) -> Listing:
    """List the pictures of a set and check which exist.

    Args:
        dataset: The set.
        location: Location of the set.
        splits: Splits to list.

    Raises:
        InputError: There is no list of pictures, or it cannot be read.
    """
    if dataset.kind == "imagenet":
        split, base = list_folders(dataset, location, splits), location.home
        samples = [Sample(base / row.path, row.label, None, row.split) for row in split.rows]
        return Listing(location, split, base, tuple(samples), ())
    split = split_of(dataset, location)
    rows = [row for row in split.rows if row.split in splits]
    base = _base(dataset, location, [row.path for row in rows])
    exists = _looker()
    samples, absent = [], list[str]()
    for row in rows:
        picture = base / row.path
        if exists(picture):
            samples.append(Sample(picture, row.label, None, row.split))
        else:
            absent.append(row.path)
    return Listing(location, split, base, tuple(samples), tuple(absent))


def split_of(dataset: DataSet, location: FoundSet) -> Split:
    """Return the list of a set's pictures: its split file, otherwise the official one, never a new one.

    Raises:
        InputError: There is no list; the message gives the source of the set.
    """
    if dataset.kind == "aircraft":
        return read_variants(location.home)
    if location.split_file is not None:
        return read_split(location.split_file)
    official = official_split(dataset)
    if official is None:
        file = location.home / dataset.split_file
        raise InputError(f"{file}: no such file, and no other split will do; it is in {MIRROR}")
    return official


def official_names(dataset: DataSet) -> tuple[str, ...] | None:
    """Return the official class names in order, if foveate knows them."""
    if dataset.kind == "imagenet":
        return tuple(imagenet_names().values()) if dataset.classes == len(imagenet_names()) else None
    official = official_split(dataset)
    return official.names if official else listed_names(dataset.key)


def in_another_order(names: Sequence[str], official: Sequence[str]) -> bool:
    """Whether the common names of both lists have different orders: then base and new classes differ."""
    position_of = {name: index for index, name in enumerate(official)}
    positions = [position_of[name] for name in names if name in position_of]
    return positions != sorted(positions)


def in_its_place(listing: Listing) -> str:
    """Return what exists instead of the first absent picture, as text that starts with ": "; or ""."""
    first = listing.absent[0]
    actual = _in_its_place(listing.base, first)
    if actual == first:
        return ": a broken link, or no file"
    form_note = " in another Unicode form" if _composed(actual) == _composed(first) else ""
    return f": there it is {actual}{form_note}, so rename the files as the list has them" if actual else ""


def _in_its_place(base: Path, path: str) -> str:
    """Find a file whose name differs in case, or in the Unicode form of accents; empty if there is none."""
    current = base
    for part in PurePosixPath(path).parts:
        matches = [name for name in _names(current) if _folded(name) == _folded(part)]
        if not matches:
            return ""
        current /= part if part in matches else matches[0]
    return current.relative_to(base).as_posix()


def _folded(name: str) -> str:
    return _composed(name).casefold()


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208  (only names are needed)


def _base(dataset: DataSet, location: FoundSet, paths: Sequence[str]) -> Path:
    """Determine the base folder of the list's paths; lists repeat different numbers of folders."""
    assert location.pictures is not None
    default = location.home / dataset.relative_to if dataset.relative_to else location.pictures
    sampled = paths[:: max(1, len(paths) // _TRIED)]
    candidates = list(dict.fromkeys([default, location.pictures, location.home, location.home.parent]))
    return max(candidates, key=lambda base: sum((base / path).is_file() for path in sampled))


def _looker() -> Callable[[Path], bool]:
    """Return a function that checks if a file exists; it lists each folder once, for network drives."""
    names_by_folder: dict[Path, frozenset[str]] = {}

    def exists(path: Path) -> bool:
        folder = path.parent
        if folder not in names_by_folder:
            # With links to files: such data are often links.
            names_by_folder[folder] = frozenset(files_in(folder) if folder.is_dir() else ())
        return path.name in names_by_folder[folder]

    return exists
