"""The field's data sets, and the drawn ones, as rows of one table: `catalogue.json`.

What a set is called, where it lies below a root in each convention, which file tells its splits, how many
pictures of how many classes it must have, and where it can be had.

- The splits: Zhou et al. 2022, https://arxiv.org/abs/2109.01134
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal, cast

from foveate.clip.templates import DEFAULT_TEMPLATE
from foveate.errors import InputError

Kind = Literal["split", "aircraft", "imagenet", "world"]
"""How a set tells its splits: a split file of CoOp's; FGVC's own lists; folders by WordNet id; drawn."""

WITH_MASKS = "https://huggingface.co/datasets/JREion/Prompt_Tuning_Datasets_with_Foreground"
MIRROR = "https://huggingface.co/zhengli97/prompt_learning_dataset"


@dataclass(frozen=True)
class SpeciesWorld:
    """How a set of species is drawn (`foveate.world.species`).

    Attributes:
        about: What is particular about it.
        at_home: Share of training scenes on their species' home; the others stand on any of eleven places.
        others: Number of other objects in each scene.
        shots: Training scenes of a class; two more are its val split.
        tests: Test scenes of a class, under each condition.
    """

    about: str
    at_home: float
    others: int
    shots: int
    tests: int


@dataclass(frozen=True)
class World:
    """How a set of scenes with plain names is drawn.

    Attributes:
        about: What is particular about it.
        colours: Those of its classes; all of the world's, where there are none.
        shapes: Likewise.
        homes: On how many places each class stands in training; 0 puts it anywhere.
        places: Which places homes are chosen from; all, where there are none. Test scenes stand anywhere.
        radius: Least and largest half size of objects, as a share of the picture.
        turn: Largest turn, in radians.
        shots: Training scenes of a class; two more are its val split.
        tests: Test scenes of a class.
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
        key: What it is called in settings and folders of results.
        title: What papers' tables call it.
        config: Its name in the field's configurations, by which templates and mask prompts are found.
        kind: How its splits are told.
        template: The sentence around a class name.
        kgcoop_template: The one that KgCoOp pulls towards.
        homes: The conventions it is known in, and its folder below the root in each.
        pictures: Folder of (training) pictures below its own, by any of these names.
        tests: Folder of test pictures, where it is another one (ImageNet).
        relative_to: What paths in the split file are relative to; empty means the folder of pictures.
        split_file: Its name; empty where the set needs none.
        classes: How many there must be.
        train: Pictures of the official split; 0 where there is no such split.
        val: Likewise.
        test: Likewise.
        source: Where its pictures can be had.
        world: How it is drawn, if it is.
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
        """Where it can be had, in words."""
        if self.world is not None:
            return f"draw it: foveate data world ROOT {self.key}"
        if self.kind == "imagenet":
            return self.source if self.key == "imagenet" else f"{self.source}; {MIRROR}"
        return f"{self.source}; with its split file {MIRROR}; with masks {WITH_MASKS}"


CONDITIONS = ("home", "any", "sibling", "unseen")
"""Test splits of each set of species, by where their scenes stand; its own list has "any" as test split."""


def find(name: str) -> DataSet:
    """Return a set by its key, its title or its name in configurations; case, "-" and "_" do not matter.

    A set of species has several test splits: "species@home" is "species" with its test scenes at home.

    Raises:
        InputError: There is none of that name, or it has no such test split.
    """
    name, at, condition = name.partition("@")
    if at:
        return _under(find(name), condition)
    known = _by_name()
    found = known.get(_plain(name))
    if found is not None:
        return found
    near = difflib.get_close_matches(_plain(name), known, n=1)
    hint = f"did you mean {known[near[0]].key!r}?" if near else f"there are {', '.join(keys())}"
    raise InputError(f"there is no data set {name!r}; {hint}")


def _under(one: DataSet, condition: str) -> DataSet:
    """Return a set of species with another test split.

    Raises:
        InputError: It has none of this name.
    """
    if not isinstance(one.world, SpeciesWorld):
        raise InputError(f"{one.key} has one test split: leave out @{condition}")
    if condition not in CONDITIONS:
        raise InputError(f"{one.key} has no test split {condition!r}: take {', '.join(CONDITIONS)}")
    file = one.split_file.replace(".json", f"_{condition}.json")
    return replace(one, key=f"{one.key}@{condition}", split_file=file)


def keys() -> tuple[str, ...]:
    """Return the keys of the field's fifteen sets, ImageNet first and its variants last."""
    return tuple(one.key for one in _table().values() if one.world is None)


def world_keys() -> tuple[str, ...]:
    """Return the keys of the drawn sets of plain names: "world-source", then "world-1" to "world-11"."""
    return tuple(one.key for one in _table().values() if isinstance(one.world, World))


def species_keys() -> tuple[str, ...]:
    """Return the keys of the drawn sets of species, "species" first."""
    return tuple(one.key for one in _table().values() if isinstance(one.world, SpeciesWorld))


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


@cache
def _table() -> Mapping[str, DataSet]:
    text = files("foveate.datasets").joinpath("catalogue.json").read_text(encoding="utf-8")
    rows = cast("Mapping[str, list[dict[str, Any]]]", json.loads(text))
    found = [*map(_real, rows["sets"]), *map(_species, rows["species"]), *map(_plainly_named, rows["world"])]
    return {one.key: one for one in found}


@cache
def _by_name() -> Mapping[str, DataSet]:
    return {
        _plain(name): one for one in _table().values() for name in (one.key, one.title, one.config) if name
    }


def _real(row: dict[str, Any]) -> DataSet:
    homes = tuple((str(layout), str(place)) for layout, place in row.pop("homes"))
    tuples = {name: tuple(row.pop(name, ())) for name in ("pictures", "tests")}
    kgcoop = row.pop("kgcoop_template", row["template"])
    return DataSet(homes=homes, kgcoop_template=kgcoop, **tuples, **row)


def _species(row: dict[str, Any]) -> DataSet:
    key, classes = str(row.pop("key")), int(row.pop("classes"))
    return _drawn(key, classes, SpeciesWorld(**row))


def _plainly_named(row: dict[str, Any]) -> DataSet:
    key, classes = str(row.pop("key")), int(row.pop("classes"))
    plain = {name: tuple(row.pop(name) or ()) for name in ("colours", "shapes", "places", "radius")}
    return _drawn(key, classes, World(**plain, **row))


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
"""Scenes of each class in a drawn set's val split."""
