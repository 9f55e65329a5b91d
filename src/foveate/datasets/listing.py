"""Lists a set on disk: its class names, its pictures, and listed pictures that do not exist."""

import os
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from foveate.data.naming import SECOND_NAMES, clean_name, imagenet_names
from foveate.data.samples import Sample
from foveate.datasets.catalogue import MIRROR, NAMES, DataSet, FoundSet
from foveate.datasets.splits import (
    SPLITS,
    Split,
    SplitRow,
    listed_names,
    official_split,
    read_split,
    read_variants,
)
from foveate.errors import InputError
from foveate.foreground.matching import files_in, folders_in, suffix_of
from foveate.foreground.opening import PICTURE_SUFFIXES
from foveate.readers import read_text, text_lines

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
        matches = [name for name in _entries(current) if _folded(name) == _folded(part)]
        if not matches:
            return ""
        current /= part if part in matches else matches[0]
    return current.relative_to(base).as_posix()


def _folded(name: str) -> str:
    return _composed(name).casefold()


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _entries(folder: Path) -> list[str]:
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


# ImageNet and its variants: a folder for each class, named by WordNet id; class names from a list.
#
# Labels follow the order of ids, and files of a folder are sorted, so a draw does not depend on the file
# system. (The reference code's draw does: it keeps the order in which the disk lists files.)
#
# - Names: Radford et al. 2021, https://arxiv.org/abs/2103.00020


_INSTEAD = "get it again, or remove it to take CLIP's own names"
_WRONG = 0.1
"""Maximum share of names whose id differs from CLIP's list; in lists in use, one name differs."""


def read_names(path: Path | None) -> dict[str, str]:
    """Return the name of each WordNet id, in the order of ids; without a file, CLIP's own names.

    Raises:
        InputError: A line has no id and name, a class occurs twice, two classes have the same name, or
            the names belong to other ids.
        OSError: Permission to read is missing.
    """
    if path is None:
        return dict(imagenet_names())
    names = _named(read_text(path), str(path))
    _refuse_shuffled(names, path)
    return names


def _refuse_shuffled(names: Mapping[str, str], path: Path) -> None:
    """Refuse a shuffled list, which would give pictures wrong names."""
    wnid_of = {name: wnid for wnid, name in imagenet_names().items()}
    wrong = [wnid for wnid, name in names.items() if wnid_of.get(name, wnid) != wnid]
    if len(wrong) > _WRONG * len(names):
        first = names[wrong[0]]
        raise InputError(
            f"{path}: {len(wrong)} of its names stand behind other ids than theirs, first {first!r} behind "
            f"{wrong[0]} and not {wnid_of[first]}; {_INSTEAD}"
        )


def _named(text: str, where: str) -> dict[str, str]:
    listed: dict[str, str] = {}
    for number, line in text_lines(text):
        wnid, _, raw = line.partition(" ")
        if not clean_name(raw):
            raise InputError(f"{where}, line {number}: expected a WordNet id, a space and a name")
        if wnid in listed:
            raise InputError(f"{where}, line {number}: {wnid} is there a second time; keep one line of it")
        listed[wnid] = clean_name(raw)
    wnid_of: dict[str, str] = {}
    for wnid in sorted(listed):
        name = listed[wnid] if listed[wnid] not in wnid_of else SECOND_NAMES.get(wnid, listed[wnid])
        if name in wnid_of:
            raise InputError(f"{where}: {wnid_of[name]} and {wnid} are both called {name!r}; rename one")
        wnid_of[name] = wnid
    return {wnid: name for name, wnid in wnid_of.items()}


def list_folders(dataset: DataSet, location: FoundSet, splits: Collection[str]) -> Split:
    """List the pictures of ImageNet or one of its variants.

    Raises:
        InputError: There is no class folder, or a class folder has no name.
    """
    names = read_names(location.names_file)
    train_folder = location.pictures if dataset.tests else None
    test_folder = location.tests if dataset.tests else location.pictures
    classes = _classes(location, names, train_folder or test_folder)
    labels = {wnid: row for row, wnid in enumerate(classes)}
    rows: list[SplitRow] = []
    for split, folder in (("train", train_folder), ("test", test_folder)):
        if folder is not None and split in splits:
            rows += [
                SplitRow(path, labels[wnid], split) for wnid, path in _pictures(location, folder, labels)
            ]
    source = str(location.names_file or f"foveate's own {NAMES}")
    return Split(tuple(names[wnid] for wnid in classes), tuple(rows), source)


def _classes(location: FoundSet, names: Mapping[str, str], folder: Path | None) -> list[str]:
    """Return the WordNet ids that have a folder, in order."""
    assert folder is not None
    wnids = sorted(map(_wnid, folders_in(folder)))
    unknown = [wnid for wnid in wnids if wnid not in names]
    if unknown:
        source = location.names_file or f"foveate's own {NAMES}"
        raise InputError(f"{folder / unknown[0]}: {source} has no name for this folder; is it a class?")
    if not wnids:
        raise InputError(f"{folder}: no class folders; each is called by a WordNet id, such as n01440764")
    return wnids


def _wnid(folder: str) -> str:
    """Return the WordNet id of a folder; ImageNet-V2 numbers its folders in the order of all ids."""
    return _ids()[int(folder)] if folder.isdecimal() and int(folder) < len(_ids()) else folder


@cache
def _ids() -> tuple[str, ...]:
    return tuple(sorted(imagenet_names()))


def _pictures(location: FoundSet, folder: Path, wnids: Collection[str]) -> Iterator[tuple[str, str]]:
    below = folder.relative_to(location.home)
    for wnid, class_folder in sorted((_wnid(name), name) for name in folders_in(folder)):
        if wnid in wnids:
            for file in files_in(folder / class_folder):
                if not file.startswith(".") and suffix_of(file) in PICTURE_SUFFIXES:
                    yield wnid, (below / class_folder / file).as_posix()


def uneven(location: FoundSet) -> list[str]:
    """Return a note on classes with a folder in only one of ImageNet's splits, if both splits exist."""
    if location.pictures is None or location.tests is None:
        return []
    trained, tested = set(folders_in(location.pictures)), set(folders_in(location.tests))
    lines: list[str] = []
    if untested := sorted(trained - tested):
        lines.append(f"classes without test pictures: {len(untested)}, first {location.tests / untested[0]}")
    if untrained := sorted(tested - trained):
        first = location.pictures / untrained[0]
        lines.append(f"classes whose test pictures are left out: {len(untrained)}, for there is no {first}")
    return lines
