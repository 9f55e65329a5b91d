"""ImageNet and its variants: a folder a class, called by WordNet id; names from a list.

Labels are the ids' order, and files of a folder are sorted, so a draw does not depend on the file system (the
field's own does: it keeps the order in which the disk lists them).

- Names: Radford et al. 2021, https://arxiv.org/abs/2103.00020
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from foveate.data.naming import clean_name
from foveate.datasets.catalogue import DataSet
from foveate.datasets.places import NAMES, Place
from foveate.datasets.splits import Row, Split
from foveate.errors import InputError
from foveate.foreground.opening import PICTURE_SUFFIXES

# Lists of ImageNet's names have two classes of one name. Here the second one gets another of its names, since
# of equal texts only the first could ever be the answer.
SECOND_NAMES = {
    "n03126707": "construction crane",
    "n03710721": "one-piece bathing suit",
    "n04008634": "projectile",
    "n04356056": "dark glasses",
}


def read_names(path: Path | None) -> dict[str, str]:
    """Return the name of each WordNet id, in the ids' order; CLIP's own names where there is no file.

    Raises:
        InputError: A line has no id and name, or two classes have one name.
    """
    if path is None:
        return dict(clips_names())
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text; remove it to take CLIP's own names") from error
    return _named(text, str(path))


@cache
def clips_names() -> Mapping[str, str]:
    """Return CLIP's names of ImageNet's classes, by WordNet id."""
    file = files("foveate.datasets").joinpath("official", f"imagenet_{NAMES}")
    return _named(file.read_text(encoding="utf-8"), f"foveate's own {NAMES}")


def _named(text: str, where: str) -> dict[str, str]:
    called: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        wnid, _, raw = line.strip().partition(" ")
        if not wnid:
            continue
        if not clean_name(raw):
            raise InputError(f"{where}, line {number}: expected a WordNet id, a space and a name")
        called[wnid] = clean_name(raw)
    taken: dict[str, str] = {}
    for wnid in sorted(called):
        name = called[wnid] if called[wnid] not in taken else SECOND_NAMES.get(wnid, called[wnid])
        if name in taken:
            raise InputError(f"{where}: {taken[name]} and {wnid} are both called {name!r}; rename one")
        taken[name] = wnid
    return {wnid: name for name, wnid in taken.items()}


def list_folders(one: DataSet, place: Place, splits: Collection[str]) -> Split:
    """List the pictures of ImageNet, or of a variant of it.

    Raises:
        InputError: No class folder, or one that the names do not know.
    """
    names = read_names(place.names_file)
    trained = place.pictures if one.tests else None
    tested = place.tests if one.tests else place.pictures
    classes = _classes(place, names, trained or tested)
    label = {wnid: row for row, wnid in enumerate(classes)}
    rows: list[Row] = []
    for split, folder in (("train", trained), ("test", tested)):
        if folder is not None and split in splits:
            rows += [Row(path, label[wnid], split) for wnid, path in _pictures(place, folder, names, label)]
    source = str(place.names_file or f"foveate's own {NAMES}")
    return Split(tuple(names[wnid] for wnid in classes), tuple(rows), source)


def _classes(place: Place, names: Mapping[str, str], folder: Path | None) -> list[str]:
    """Return the WordNet ids that have a folder, in their order."""
    assert folder is not None
    found = sorted(_wnid(one, names) for one in _folders(folder))
    unknown = [wnid for wnid in found if wnid not in names]
    if unknown:
        listed = place.names_file or f"foveate's own {NAMES}"
        raise InputError(f"{folder / unknown[0]}: {listed} has no name for this folder; is it a class?")
    if not found:
        raise InputError(f"{folder}: no class folders; each is called by a WordNet id, such as n01440764")
    return found


def _wnid(folder: str, names: Mapping[str, str]) -> str:
    """ImageNet-V2 numbers its folders in the ids' order."""
    if folder.isdecimal() and int(folder) < len(names):
        return sorted(names)[int(folder)]
    return folder


def _pictures(
    place: Place, folder: Path, names: Mapping[str, str], label: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    below = folder.relative_to(place.home)
    for wnid, own in sorted((_wnid(one, names), one) for one in _folders(folder)):
        if wnid in label:
            for file in _files(folder / own):
                yield wnid, (below / own / file).as_posix()


def _folders(folder: Path) -> Sequence[str]:
    with os.scandir(folder) as found:
        return sorted(one.name for one in found if one.is_dir() and not one.name.startswith("."))


def _files(folder: Path) -> Sequence[str]:
    with os.scandir(folder) as found:
        names = sorted(one.name for one in found if not one.name.startswith("."))
    return [name for name in names if os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES]  # noqa: PTH122
