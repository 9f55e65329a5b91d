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


def locate(root: Path, dataset: DataSet) -> FoundSet | None:
    """Find a set below a root, in the first convention that fits; return None if none fits."""
    # By names first: of sun397/sun397/SUN397, only the last folder holds pictures.
    for names in zip_longest(dataset.pictures, dataset.tests, fillvalue=""):
        for layout, below in dataset.homes:
            if _first_folder(root / below, filter(None, names)) is not None:
                return _found_set(root, layout, below, dataset)
    return None


def _found_set(root: Path, layout: str, below: str, dataset: DataSet) -> FoundSet:
    home = root / below
    pictures = _first_folder(home, dataset.pictures)
    split_file = _split_file(root, home, pictures, dataset) if dataset.split_file else None
    return FoundSet(
        layout if split_file else _layout_name(layout, below, dataset),
        home,
        pictures,
        _first_folder(home, dataset.tests),
        split_file,
        _names_file(root, home, dataset),
        _masks(root, home),
    )


def demand(root: Path, dataset: DataSet) -> FoundSet:
    """Find a set as `locate` does, or raise an error.

    Raises:
        InputError: The root is not a folder, or does not contain the set; the message lists the searched
            folders.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that the data sets are in")
    location = locate(root, dataset)
    if location is None:
        raise InputError(f"{dataset.title} is not in {root}: expected {expected(dataset)}; {dataset.where}")
    return location


def expected(dataset: DataSet) -> str:
    """Return the searched folders, as text."""
    inner = dataset.pictures[0]
    folders = dict.fromkeys(f"{below}/{inner}".removeprefix("./") for _, below in dataset.homes)
    return " or ".join(folders)


def _layout_name(layout: str, below: str, dataset: DataSet) -> str:
    """Return the layout of a folder that lacks the split file: if layouts share the folder, not CoOp's."""
    layouts = [name for name, folder in dataset.homes if folder == below]
    return layouts[-1] if dataset.split_file else layout


def _first_folder(home: Path, names: Iterable[str]) -> Path | None:
    return next((home / name for name in names if (home / name).is_dir()), None)


def _masks(root: Path, home: Path) -> Path | None:
    """Find masks in the set's folder, or beside it as in FVG-PT's archive."""
    outer = None if home == root else _first_folder(home.parent, MASK_FOLDERS)
    return _first_folder(home, MASK_FOLDERS) or outer


def _split_file(root: Path, home: Path, pictures: Path | None, dataset: DataSet) -> Path | None:
    inner = [home, *([pictures] if pictures else [])]
    # In torchvision's layouts, a set's folder may be one level deeper than in CoOp's.
    folders = [*inner, *([home.parent] if home.is_relative_to(root) and home != root else [])]
    return next(
        (folder / dataset.split_file for folder in folders if (folder / dataset.split_file).is_file()), None
    )


def _names_file(root: Path, home: Path, dataset: DataSet) -> Path | None:
    """Find ImageNet's names beside the set; for its variants, beside ImageNet itself."""
    if dataset.kind != "imagenet":
        return None
    folders = [home, home.parent] if home != root else [home]
    file = next((folder / NAMES for folder in folders if (folder / NAMES).is_file()), None)
    if file is not None or dataset.key == "imagenet":
        return file
    imagenet = locate(root, find("imagenet"))
    return imagenet.names_file if imagenet else None
