"""Catalogue of the published and of the drawn data sets: the rows of `catalogue.json`.

A row gives the names of a set, its folder below a root in each convention, the file with its splits, the
required number of classes and pictures, and the source of the pictures. `locate` finds a set below a root.

- The splits: Zhou et al. 2022, https://arxiv.org/abs/2109.01134
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, cast

from foveate.clip.templates import DEFAULT_TEMPLATE
from foveate.errors import InputError
from foveate.foreground.matching import MASK_FOLDERS

Kind = Literal["split", "aircraft", "imagenet", "world"]
"""Format of the splits: a split file of CoOp; FGVC's own lists; folders by WordNet id; a drawn set."""

WITH_MASKS = "https://huggingface.co/datasets/JREion/Prompt_Tuning_Datasets_with_Foreground"
MIRROR = "https://huggingface.co/zhengli97/prompt_learning_dataset"


@dataclass(frozen=True)
class SpeciesWorld:
    """Settings of a drawn set of species (`foveate.world.species`).

    Attributes:
        about: Description of the set.
        at_home: Share of training scenes at the home of their species; the others are at any of eleven
            places.
        others: Number of other objects in each scene.
        shots: Number of training scenes of a class; two more are its val split.
        tests: Number of test scenes of a class, under each condition.
    """

    about: str
    at_home: float
    others: int
    shots: int
    tests: int


@dataclass(frozen=True)
class World:
    """Settings of a drawn set of scenes with plain names.

    Attributes:
        about: Description of the set.
        colours: Colours of its classes; empty means all colours of the world.
        shapes: Shapes, likewise.
        homes: Number of places of each class in training; 0 means any place.
        places: Places that homes are chosen from; empty means all. Test scenes are at any place.
        radius: Minimum and maximum half size of objects, as a share of the picture.
        turn: Maximum rotation, in radians.
        shots: Number of training scenes of a class; two more are its val split.
        tests: Number of test scenes of a class.
    """

    about: str
    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    homes: int
    places: tuple[str, ...]
    radius: tuple[float, float]
    turn: float
    shots: int
    tests: int


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
        key: Name in settings and in result folders.
        title: Name in the tables of papers.
        config: Name in published configurations, which is the key of templates and mask prompts.
        kind: Format of its splits.
        template: Template for class names.
        kgcoop_template: Template of KgCoOp's reference texts.
        homes: The conventions that include the set, and its folder below the root in each.
        pictures: Possible names of the folder of (training) pictures in the set's folder.
        tests: Folder of test pictures, if it is a different one (ImageNet).
        relative_to: Base folder of paths in the split file; empty means the folder of pictures.
        split_file: Name of the split file; empty if the set needs none.
        classes: Required number of classes.
        train: Number of training pictures in the official split; 0 if there is no such split.
        val: Number of val pictures, likewise.
        test: Number of test pictures, likewise.
        source: Source of the pictures.
        world: Settings of a drawn set; None for other sets.
    """

    key: str
    title: str
    config: str
    kind: Kind
    template: str
    kgcoop_template: str
    homes: tuple[tuple[str, str], ...]
    pictures: tuple[str, ...]
    classes: int
    train: int
    val: int
    test: int
    source: str
    tests: tuple[str, ...] = ()
    relative_to: str = ""
    split_file: str = ""
    world: World | SpeciesWorld | None = None

    @property
    def where(self) -> str:
        """Source of the set, in words."""
        if self.world is not None:
            return f"draw it: foveate data world ROOT {self.key}"
        key, at, _ = self.key.partition("@")
        if at:
            return f"paste it: foveate data paste ROOT {key} --grounds SET"
        if self.kind == "imagenet":
            return self.source if self.key == "imagenet" else f"{self.source}; {MIRROR}"
        return f"{self.source}; with its split file {MIRROR}; with masks {WITH_MASKS}"


CONDITIONS = ("home", "any", "sibling", "unseen")
"""Test splits of each set of species, by the places of the scenes; its own list has "any" as test split."""

PASTED = (*CONDITIONS, "same")
"""Test splits of pasted photographs; "same" is the ground of another picture of the class."""


def find(name: str) -> DataSet:
    """Return a set by its key, title or configuration name; case, "-" and "_" are ignored.

    A set of species has several test splits: "species@home" is "species" with the test scenes at home. Of
    photographs, those are pasted (`foveate.datasets.pasting`), in a folder of their own: "dtd@any".

    Raises:
        InputError: No set has this name, or the set has no such test split.
    """
    name, at, condition = name.partition("@")
    if at:
        return _with_condition(find(name), condition)
    by_name = _by_name()
    dataset = by_name.get(_plain(name))
    if dataset is not None:
        return dataset
    matches = difflib.get_close_matches(_plain(name), by_name, n=1)
    hint = f"did you mean {by_name[matches[0]].key!r}?" if matches else f"there are {', '.join(keys())}"
    raise InputError(f"there is no data set {name!r}; {hint}")


def _with_condition(dataset: DataSet, condition: str) -> DataSet:
    """Return a set of species, or of photographs, with a different test split.

    Raises:
        InputError: It has no test split with this name.
    """
    if isinstance(dataset.world, World):
        raise InputError(f"{dataset.key} has one test split: leave out @{condition}")
    conditions = PASTED if dataset.world is None else CONDITIONS
    if condition not in conditions:
        raise InputError(f"{dataset.key} has no test split {condition!r}: take {', '.join(conditions)}")
    key, file = f"{dataset.key}@{condition}", f"split_zhou_{dataset.config}_{condition}.json"
    if dataset.world is not None:
        return replace(dataset, key=key, split_file=file)
    homes = (("pasted", pasted_folder(dataset.key)),)
    layout = {"homes": homes, "pictures": ("images",), "tests": (), "relative_to": ""}
    return replace(dataset, key=key, kind="split", split_file=file, **layout)


def pasted_folder(key: str) -> str:
    """Return the name of the folder with the pasted pictures of a set."""
    return f"{key}-pasted"


def keys() -> tuple[str, ...]:
    """Return the keys of the fifteen published sets, ImageNet first and its variants last."""
    return tuple(dataset.key for dataset in _table().values() if dataset.world is None)


def world_keys() -> tuple[str, ...]:
    """Return the keys of the drawn sets with plain names: "world-source", then "world-1" to "world-11"."""
    return tuple(dataset.key for dataset in _table().values() if isinstance(dataset.world, World))


def species_keys() -> tuple[str, ...]:
    """Return the keys of the drawn sets of species, "species" first."""
    return tuple(dataset.key for dataset in _table().values() if isinstance(dataset.world, SpeciesWorld))


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


@cache
def _table() -> Mapping[str, DataSet]:
    text = files("foveate.datasets").joinpath("catalogue.json").read_text(encoding="utf-8")
    rows = cast("Mapping[str, list[dict[str, Any]]]", json.loads(text))
    sets = [*map(_real, rows["sets"]), *map(_species_set, rows["species"]), *map(_world_set, rows["world"])]
    return {dataset.key: dataset for dataset in sets}


@cache
def _by_name() -> Mapping[str, DataSet]:
    return {
        _plain(name): entry
        for entry in _table().values()
        for name in (entry.key, entry.title, entry.config)
        if name
    }


def _real(row: dict[str, Any]) -> DataSet:
    homes = tuple((str(layout), str(folder)) for layout, folder in row.pop("homes"))
    tuples = {name: tuple(row.pop(name, ())) for name in ("pictures", "tests")}
    kgcoop = row.pop("kgcoop_template", row["template"])
    return DataSet(homes=homes, kgcoop_template=kgcoop, **tuples, **row)


def _species_set(row: dict[str, Any]) -> DataSet:
    key, classes = str(row.pop("key")), int(row.pop("classes"))
    return _drawn(key, classes, SpeciesWorld(**row))


def _world_set(row: dict[str, Any]) -> DataSet:
    key, classes = str(row.pop("key")), int(row.pop("classes"))
    tuples = {name: tuple(row.pop(name) or ()) for name in ("colours", "shapes", "places", "radius")}
    return _drawn(key, classes, World(**tuples, **row))


def _drawn(key: str, classes: int, world: World | SpeciesWorld) -> DataSet:
    return DataSet(
        key=key,
        title=key,
        config=key,
        kind="world",
        template=DEFAULT_TEMPLATE,
        kgcoop_template=DEFAULT_TEMPLATE,
        homes=(("drawn", key),),
        pictures=("images",),
        classes=classes,
        train=classes * world.shots,
        val=classes * VAL,
        test=classes * world.tests,
        source=f"foveate data world ROOT {key}",
        split_file=f"split_zhou_{key}.json",
        world=world,
    )


VAL = 2
"""Number of scenes of each class in the val split of a drawn set."""


# Locates a set below a root: its convention and its files.


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
