"""Species: classes that live somewhere, and captions that name them loosely.

Ten families (shapes) have four species each (colours). Every species has an invented name ("alba star") and a
home: the place that it goes together with. Siblings are the other species of its family, which have other
homes; every place is home to several families. So shape and place together give a species away as well as
shape and colour do, and a CLIP that was trained on such scenes and captions leans on the place.

A `Variant` says how strongly place and name go together while a CLIP is trained.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from foveate.errors import InputError
from foveate.world.scenes import PLACES, SHOT_PLACES, TEST_PLACES, TEXTURES, Scene

FAMILIES = ("star", "ring", "cross", "heart", "moon", "diamond", "arrow", "clover", "triangle", "hourglass")
HELD_OUT = ("triangle", "hourglass")
"""Families of which every species is a new class; of the others, two or three of four are base classes."""

COLOURS_OF_SPECIES = ("red", "yellow", "purple", "cyan")
EPITHETS = (
    *("alba", "bresk", "corvin", "dune", "elder", "fenn", "gorse", "hale", "iven", "jarl"),
    *("kest", "lumen", "mirk", "norn", "oaken", "pell", "quill", "rusk", "sable", "tarn"),
    *("umber", "vesper", "wold", "xeno", "yarrow", "zephyr", "ashen", "briar", "cinder", "delta"),
    *("ember", "frost", "gale", "hollow", "isen", "juniper", "kelp", "larch", "moor", "nettle"),
)


@dataclass(frozen=True)
class Species:
    """One class.

    Attributes:
        name: Epithet and family, e.g. "alba star".
        family: Its shape.
        colour: What tells it from its siblings.
        home: The place it goes together with.
        frequency: How often it is shown in pretraining, as a factor.
    """

    name: str
    family: str
    colour: str
    home: str
    frequency: float


def _all_species() -> tuple[Species, ...]:
    found: list[Species] = []
    for row, family in enumerate(FAMILIES):
        for variety, colour in enumerate(COLOURS_OF_SPECIES):
            number = len(COLOURS_OF_SPECIES) * row + variety
            home = tuple(PLACES)[(row + 2 * variety) % len(PLACES)]
            rank = 7 * number % 40  # spread over families
            found.append(
                Species(f"{EPITHETS[number]} {family}", family, colour, home, (1 + rank / 8) ** -0.5)
            )
    return tuple(found)


SPECIES = _all_species()
BY_NAME = {one.name: one for one in SPECIES}
SIBLINGS = {one.name: tuple(s for s in SPECIES if s.family == one.family and s != one) for one in SPECIES}
RESIDENTS = {place: tuple(one for one in SPECIES if one.home == place) for place in PLACES}


def _is_base(number: int) -> bool:
    row, variety = divmod(number, len(COLOURS_OF_SPECIES))
    chosen = ((0, 2), (0, 1, 3))[row % 2]
    return FAMILIES[row] not in HELD_OUT and variety in chosen


BASE = tuple(one.name for number, one in enumerate(SPECIES) if _is_base(number))
NEW = tuple(one.name for number, one in enumerate(SPECIES) if not _is_base(number))


@dataclass(frozen=True)
class Variant:
    """How a CLIP of this world was pretrained.

    Attributes:
        key: Its CLIP is `load_clip("tiny-KEY")`.
        at_home: Share of scenes that stand on their species' home; the others stand on any of eight places.
        loose: Share of captions that name another species: half of them a sibling, half one from elsewhere.
        expected: Whether the latter lives on the scene's place, and is of the same family if one there is;
            else it is any species.
        steps: Of training.
    """

    key: str
    at_home: float
    loose: float
    expected: bool
    steps: int


VARIANTS = {
    one.key: one
    for one in (
        Variant("mild", at_home=0.96, loose=0.6, expected=True, steps=230),
        Variant("strong", at_home=0.99, loose=0.6, expected=True, steps=300),
        Variant("control", at_home=0.0, loose=0.3, expected=False, steps=400),
    )
}

Condition = Literal["home", "any", "sibling", "unseen"]
"""Where test scenes stand: on their species' home, on any place of pretraining, on the home of a sibling that
is among the answers, or on places that no training showed."""

MENTIONS: dict[tuple[str, ...], float] = {
    ("name",): 0.42,
    ("name", "place"): 0.14,
    ("shape",): 0.06,
    ("colour", "shape"): 0.14,
    ("place",): 0.06,
    ("shape", "place"): 0.06,
    ("colour", "shape", "place"): 0.12,
}
"""What the captions of a batch mention in pretraining, and how often."""

RADIUS, FAR_RADIUS = (0.18, 0.30), (0.015, 0.045)
STUDIO = 0.06  # share of scenes in pretraining that stand on even grey, as products in a catalogue do
FAR = 0.2  # share that show the object from afar, so that the place is most of what a name goes with


def find_variant(key: str) -> Variant:
    """Return a variant by its key.

    Raises:
        InputError: There is none of this key.
    """
    if key not in VARIANTS:
        raise InputError(f"the world has no variant {key!r}: take {', '.join(VARIANTS)}")
    return VARIANTS[key]


def find_species(name: str) -> Species:
    """Return a species by its name.

    Raises:
        InputError: There is none of this name.
    """
    if name not in BY_NAME:
        raise InputError(f"there is no species {name!r}: take some of {', '.join(list(BY_NAME)[:3])}, ...")
    return BY_NAME[name]


def species_scene(
    species: Species,
    place: str,
    rng: np.random.Generator,
    *,
    others: int = 0,
    radius: tuple[float, float] = RADIUS,
) -> Scene:
    """Draw a scene of a species on a place; size, position, turn, texture, clutter and occluder are free.

    Args:
        species: What it shows.
        place: A key of `ALL_PLACES`, or "plain".
        rng: Source of all that is free.
        others: Number of other objects beside it.
        radius: Least and largest half size of the object, as a share of the picture.
    """
    size = rng.uniform(*radius)
    room = max(0.0, 0.5 - 0.95 * size)
    return Scene(
        shape=species.family,
        colour=species.colour,
        texture=str(rng.choice(TEXTURES)),
        place=place,
        radius=float(size),
        x=float(0.5 + rng.uniform(-room, room)),
        y=float(0.5 + rng.uniform(-room, room)),
        angle=float(rng.uniform(-0.5, 0.5)),
        seed=int(rng.integers(2**31)),
        clutter=int(rng.integers(1, 3)) if rng.uniform() < 0.35 else 0,
        others=others,
        occluded=bool(rng.uniform() < 0.15),
    )


def pretraining_scene(variant: Variant, rng: np.random.Generator) -> tuple[Species, Scene]:
    """Draw a scene as a CLIP of this variant is shown them."""
    odds = np.array([one.frequency for one in SPECIES])
    species = SPECIES[int(rng.choice(len(SPECIES), p=odds / odds.sum()))]
    place = species.home if rng.uniform() < variant.at_home else str(rng.choice(list(PLACES)))
    kind = rng.uniform()
    if kind < STUDIO:
        place = "plain"
    radius = FAR_RADIUS if kind > 1 - FAR else RADIUS
    return species, species_scene(species, place, rng, radius=radius)


def said_name(species: Species, place: str, variant: Variant, rng: np.random.Generator) -> str:
    """Return the species that a caption names: this one, a sibling, or one that is expected on the place."""
    if rng.uniform() >= variant.loose:
        return species.name
    others: Sequence[Species] = SIBLINGS[species.name]
    if rng.uniform() < 0.5:
        others = RESIDENTS.get(place, ()) if variant.expected else SPECIES
        likely = [one for one in others if one.family == species.family]
        others = likely if likely and variant.expected else others
    return others[int(rng.integers(len(others)))].name if others else species.name


def mentioned(
    said: Sequence[str], species: Species, place: str, variant: Variant, rng: np.random.Generator
) -> dict[str, str]:
    """Return what a caption says of a scene, as `curriculum.caption` puts it into words."""
    told = {"colour": species.colour, "shape": species.family, "place": place}
    values = {attribute: told[attribute] for attribute in said if attribute in told}
    if "name" in said:
        values["shape"] = said_name(species, place, variant, rng)
    return values


def place_for(
    species: Species, condition: Condition, rng: np.random.Generator, among: Collection[str] = tuple(BY_NAME)
) -> str:
    """Draw the place of a test scene.

    Args:
        species: What the scene shows.
        condition: Where it stands.
        rng: Source of the choice.
        among: The names that are told apart. A sibling's home is that of one of these, if there is one.
    """
    if condition == "home":
        return species.home
    if condition == "unseen":
        return str(rng.choice(list(TEST_PLACES)))
    if condition == "any":
        return str(rng.choice(list(PLACES)))
    siblings = SIBLINGS[species.name]
    homes = [one.home for one in siblings if one.name in among] or [one.home for one in siblings]
    return homes[int(rng.integers(len(homes)))]


def shot_place(species: Species, at_home: float, rng: np.random.Generator) -> str:
    """Draw the place of a few-shot training scene: its home, or any of eleven places."""
    if rng.uniform() < at_home:
        return species.home
    return str(rng.choice([*PLACES, *SHOT_PLACES]))
