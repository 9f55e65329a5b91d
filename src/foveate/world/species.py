"""Species: classes with a home place, and captions that name them imprecisely.

Ten families (shapes) have four species each (colours). Every species has an invented name ("alba star")
and a home: the place it is correlated with. Siblings are the other species of its family, which have
other homes; every place is home to several families. So shape and place together identify a species as
well as shape and colour do. A CLIP trained on such scenes and captions relies on the place.

A `Variant` sets the correlation of place and name in the training of a CLIP.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from foveate.errors import InputError
from foveate.world.scenes import PLACES, SHOT_PLACES, TEST_PLACES, TEXTURES, Scene

FAMILIES = ("star", "ring", "cross", "heart", "moon", "diamond", "arrow", "clover", "triangle", "hourglass")
HELD_OUT = ("triangle", "hourglass")
"""Families whose species are all new classes; in the others, two or three of four are base classes."""

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
        family: Shape of the species.
        colour: Distinguishes it from its siblings.
        home: The place it is correlated with.
        frequency: Relative frequency in pretraining, as a factor.
    """

    name: str
    family: str
    colour: str
    home: str
    frequency: float


def _all_species() -> tuple[Species, ...]:
    species: list[Species] = []
    for row, family in enumerate(FAMILIES):
        for variety, colour in enumerate(COLOURS_OF_SPECIES):
            number = len(COLOURS_OF_SPECIES) * row + variety
            home = tuple(PLACES)[(row + 2 * variety) % len(PLACES)]
            rank = 7 * number % 40  # spread over families
            species.append(
                Species(f"{EPITHETS[number]} {family}", family, colour, home, (1 + rank / 8) ** -0.5)
            )
    return tuple(species)


SPECIES = _all_species()
BY_NAME = {species.name: species for species in SPECIES}
SIBLINGS = {
    species.name: tuple(other for other in SPECIES if other.family == species.family and other != species)
    for species in SPECIES
}
RESIDENTS = {place: tuple(species for species in SPECIES if species.home == place) for place in PLACES}


def _is_base(number: int) -> bool:
    row, variety = divmod(number, len(COLOURS_OF_SPECIES))
    chosen = ((0, 2), (0, 1, 3))[row % 2]
    return FAMILIES[row] not in HELD_OUT and variety in chosen


BASE = tuple(species.name for number, species in enumerate(SPECIES) if _is_base(number))
NEW = tuple(species.name for number, species in enumerate(SPECIES) if not _is_base(number))


@dataclass(frozen=True)
class Variant:
    """Settings for pretraining a CLIP of this world.

    Attributes:
        key: Its CLIP is `load_clip("tiny-KEY")`.
        at_home: Share of scenes at the home of their species; the others are at any of eight places.
        loose: Share of captions that name another species: half of them a sibling, half another
            family's.
        expected: Whether the latter lives at the scene's place, and is of the same family if there is
            one; otherwise it is any species.
        steps: Number of training steps.
    """

    key: str
    at_home: float
    loose: float
    expected: bool
    steps: int


VARIANTS = {
    variant.key: variant
    for variant in (
        Variant("mild", at_home=0.96, loose=0.6, expected=True, steps=230),
        Variant("strong", at_home=0.99, loose=0.6, expected=True, steps=300),
        Variant("control", at_home=0.0, loose=0.3, expected=False, steps=400),
    )
}

Condition = Literal["home", "any", "sibling", "unseen"]
"""Places of test scenes: the home of the species, any place of pretraining, the home of a sibling that
is among the class names, or places that are in no training data."""

MENTIONS: dict[tuple[str, ...], float] = {
    ("name",): 0.42,
    ("name", "place"): 0.14,
    ("shape",): 0.06,
    ("colour", "shape"): 0.14,
    ("place",): 0.06,
    ("shape", "place"): 0.06,
    ("colour", "shape", "place"): 0.12,
}
"""Attributes in the captions of a pretraining batch, and their probability."""

RADIUS, FAR_RADIUS = (0.18, 0.30), (0.015, 0.045)
STUDIO = 0.06  # share of pretraining scenes on uniform grey, as in product catalogues
FAR = 0.2  # share with a small object, where the place dominates


def find_variant(key: str) -> Variant:
    """Return a variant by its key.

    Raises:
        InputError: There is no variant with this key.
    """
    if key not in VARIANTS:
        raise InputError(f"the world has no variant {key!r}: take {', '.join(VARIANTS)}")
    return VARIANTS[key]


def find_species(name: str) -> Species:
    """Return a species by its name.

    Raises:
        InputError: There is no species with this name.
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
    """Draw a scene of a species at a place; size, position, rotation, texture, clutter and occluder vary.

    Args:
        species: The species.
        place: A key of `ALL_PLACES`, or "plain".
        rng: Random generator.
        others: Number of other objects in the scene.
        radius: Minimum and maximum half size of the object, as a share of the picture.
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
    """Draw a pretraining scene of this variant."""
    odds = np.array([candidate.frequency for candidate in SPECIES])
    species = SPECIES[int(rng.choice(len(SPECIES), p=odds / odds.sum()))]
    place = species.home if rng.uniform() < variant.at_home else str(rng.choice(list(PLACES)))
    draw = rng.uniform()
    if draw < STUDIO:
        place = "plain"
    radius = FAR_RADIUS if draw > 1 - FAR else RADIUS
    return species, species_scene(species, place, rng, radius=radius)


def caption_name(species: Species, place: str, variant: Variant, rng: np.random.Generator) -> str:
    """Return the species that a caption names: this one, a sibling, or one expected at the place."""
    if rng.uniform() >= variant.loose:
        return species.name
    candidates: Sequence[Species] = SIBLINGS[species.name]
    if rng.uniform() < 0.5:
        candidates = RESIDENTS.get(place, ()) if variant.expected else SPECIES
        likely = [candidate for candidate in candidates if candidate.family == species.family]
        candidates = likely if likely and variant.expected else candidates
    return candidates[int(rng.integers(len(candidates)))].name if candidates else species.name


def caption_values(
    attributes: Sequence[str], species: Species, place: str, variant: Variant, rng: np.random.Generator
) -> dict[str, str]:
    """Return the values of these attributes of a scene, as input of `curriculum.caption`."""
    known = {"colour": species.colour, "shape": species.family, "place": place}
    values = {attribute: known[attribute] for attribute in attributes if attribute in known}
    if "name" in attributes:
        values["shape"] = caption_name(species, place, variant, rng)
    return values


def place_for(
    species: Species, condition: Condition, rng: np.random.Generator, among: Collection[str] = tuple(BY_NAME)
) -> str:
    """Draw the place of a test scene.

    Args:
        species: Species of the scene.
        condition: Test condition.
        rng: Random generator.
        among: The class names to choose from. A sibling's home is that of one of these, if there is one.
    """
    if condition == "home":
        return species.home
    if condition == "unseen":
        return str(rng.choice(list(TEST_PLACES)))
    if condition == "any":
        return str(rng.choice(list(PLACES)))
    siblings = SIBLINGS[species.name]
    siblings = [sibling for sibling in siblings if sibling.name in among] or siblings
    return siblings[int(rng.integers(len(siblings)))].home


def shot_place(species: Species, at_home: float, rng: np.random.Generator) -> str:
    """Draw the place of a few-shot training scene: its home, or any of eleven places."""
    if rng.uniform() < at_home:
        return species.home
    return str(rng.choice([*PLACES, *SHOT_PLACES]))
