"""ImageNet and its variants: a folder for each class, named by WordNet id; class names from a list.

Labels follow the order of ids, and files of a folder are sorted, so a draw does not depend on the file
system. (The reference code's draw does: it keeps the order in which the disk lists files.)

- Names: Radford et al. 2021, https://arxiv.org/abs/2103.00020
"""

from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

from foveate.data.naming import SECOND_NAMES, clean_name, imagenet_names
from foveate.datasets.catalogue import DataSet
from foveate.datasets.places import NAMES, FoundSet
from foveate.datasets.splits import Split, SplitRow
from foveate.errors import InputError
from foveate.foreground.layouts import files_in, folders_in, suffix_of
from foveate.foreground.opening import PICTURE_SUFFIXES
from foveate.readers import read_text, text_lines

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
