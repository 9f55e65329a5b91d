"""Locates a set below a root: its convention and its files."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from foveate.datasets.catalogue import DataSet, find
from foveate.errors import InputError
from foveate.foreground.layouts import MASK_FOLDERS

NAMES = "classnames.txt"
"""Common file of ImageNet's class names: each line has a folder, a space and a name."""


@dataclass(frozen=True)
class FoundSet:
    """Location of a set.

    Attributes:
        layout: Convention of its folder layout.
        home: The set's own folder.
        pictures: The folder of its (training) pictures; None if ImageNet's training pictures are
            missing.
        tests: The folder of test pictures, if it is a different one.
        split_file: The existing split file.
        names_file: File with ImageNet's class names, if there is one.
        masks: The folder for its masks.
    """

    layout: str
    home: Path
    pictures: Path | None
    tests: Path | None = None
    split_file: Path | None = None
    names_file: Path | None = None
    masks: Path | None = None


def locate(root: Path, one: DataSet) -> FoundSet | None:
    """Find a set below a root, in the first convention that fits; return None if none fits."""
    # By names first: of sun397/sun397/SUN397, only the last folder holds pictures.
    for names in zip_longest(one.pictures, one.tests, fillvalue=""):
        for layout, below in one.homes:
            if _first_folder(root / below, filter(None, names)) is not None:
                return _place(root, layout, below, one)
    return None


def _place(root: Path, layout: str, below: str, one: DataSet) -> FoundSet:
    home = root / below
    pictures = _first_folder(home, one.pictures)
    split_file = _split_file(root, home, pictures, one) if one.split_file else None
    return FoundSet(
        layout if split_file else _other_name(layout, below, one),
        home,
        pictures,
        _first_folder(home, one.tests),
        split_file,
        _names_file(root, home, one),
        _masks(root, home),
    )


def demand(root: Path, one: DataSet) -> FoundSet:
    """Find a set as `locate` does, or raise an error.

    Raises:
        InputError: The root is not a folder, or does not contain the set; the message lists the searched
            folders.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that the data sets are in")
    place = locate(root, one)
    if place is None:
        raise InputError(f"{one.title} is not in {root}: expected {expected(one)}; {one.where}")
    return place


def expected(one: DataSet) -> str:
    """Return the searched folders, as text."""
    inner = one.pictures[0]
    folders = dict.fromkeys(f"{below}/{inner}".removeprefix("./") for _, below in one.homes)
    return " or ".join(folders)


def _other_name(layout: str, below: str, one: DataSet) -> str:
    """A folder that two conventions share belongs to CoOp's if it contains the split file."""
    others = [name for name, place in one.homes if place == below]
    return others[-1] if one.split_file else layout


def _first_folder(home: Path, names: Iterable[str]) -> Path | None:
    return next((home / name for name in names if (home / name).is_dir()), None)


def _masks(root: Path, home: Path) -> Path | None:
    """Find masks in the set's folder, or beside it as in FVG-PT's archive."""
    outer = None if home == root else _first_folder(home.parent, MASK_FOLDERS)
    return _first_folder(home, MASK_FOLDERS) or outer


def _split_file(root: Path, home: Path, pictures: Path | None, one: DataSet) -> Path | None:
    near = [home, *([pictures] if pictures else [])]
    # In torchvision's layouts, a set's folder may be one level deeper than in CoOp's.
    places = [*near, *([home.parent] if home.is_relative_to(root) and home != root else [])]
    return next((place / one.split_file for place in places if (place / one.split_file).is_file()), None)


def _names_file(root: Path, home: Path, one: DataSet) -> Path | None:
    """Find ImageNet's names beside the set; for its variants, beside ImageNet itself."""
    if one.kind != "imagenet":
        return None
    places = [home, home.parent] if home != root else [home]
    own = next((place / NAMES for place in places if (place / NAMES).is_file()), None)
    if own is not None or one.key == "imagenet":
        return own
    imagenet = locate(root, find("imagenet"))
    return imagenet.names_file if imagenet else None
