"""Scenes as a labelled photo set with masks; and random scenes with captions, to train the embedded CLIP."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foveate.data.samples import LazyPicture, Photos, Sample
from foveate.errors import InputError
from foveate.world.scenes import COLOURS, PLACES, SHAPES, SIZE, TEXTURES, Scene, render
from foveate.world.species import Condition, find_species, place_for, shot_place, species_scene


class ScenePicture(LazyPicture):
    """A scene, or its mask, drawn on access."""

    def __init__(self, scene: Scene, layer: Literal["picture", "mask"] = "picture", size: int = SIZE):
        self.scene, self.layer, self.size = scene, layer, size

    def load(self) -> Image.Image:
        pictures, masks = render([self.scene], self.size)
        if self.layer == "picture":
            return Image.fromarray(pictures[0])
        return Image.fromarray(masks[0].astype(np.uint8) * 255)

    @property
    def name(self) -> str:
        scene = self.scene
        return f"{self.layer} of a {scene.name} on {scene.place} (scene {scene.seed})"


def scene_photos(
    names: Sequence[str],
    per_class: int,
    seed: int,
    *,
    home: Mapping[str, str] | None = None,
    radius: tuple[float, float] | None = None,
    turn: float | None = None,
    split: str | None = None,
) -> Photos:
    """Draw scenes of each class.

    Args:
        names: Colour and shape of each class, e.g. "red star".
        per_class: Number of scenes of each class.
        seed: Seed of all random values.
        home: The single place of each class; None allows any place for every scene.
        radius: Minimum and maximum radius; None uses the embedded CLIP's training range.
        turn: Maximum rotation in radians, likewise.
        split: Split of the samples.
    """
    samples: list[Sample] = []
    for label, name in enumerate(names):
        colour, shape = name.split()
        for index in range(per_class):
            rng = np.random.default_rng([seed, label, index])
            base = random_scene(rng)
            place = home[name] if home else str(rng.choice(list(PLACES)))
            scene = replace(base, shape=shape, colour=colour, place=place)
            if radius:
                scene = replace(scene, radius=float(rng.uniform(*radius)))
            if turn is not None:
                scene = replace(scene, angle=float(rng.uniform(-turn, turn)))
            samples.append(Sample(ScenePicture(scene), label, ScenePicture(scene, "mask"), split))
    return Photos(tuple(names), tuple(samples), "binary255")


def species_photos(
    names: Sequence[str],
    per_class: int,
    seed: int,
    *,
    condition: Condition | None = None,
    at_home: float | None = None,
    others: int = 0,
    split: str | None = None,
) -> Photos:
    """Draw scenes of each species.

    Args:
        names: Names of species, e.g. "alba star".
        per_class: Number of scenes of each class.
        seed: Seed of all random values.
        condition: Places of test scenes; see `foveate.world.species.Condition`.
        at_home: For training scenes instead: share of scenes at the species' home.
        others: Number of other objects in each scene.
        split: Split of the samples.

    Raises:
        InputError: A species does not exist; or not exactly one of `condition` and `at_home` is given.
    """
    if (condition is None) == (at_home is None):
        raise InputError("give either condition, for tests, or at_home, for training")
    samples: list[Sample] = []
    for label, name in enumerate(names):
        species = find_species(name)
        for index in range(per_class):
            rng = np.random.default_rng([seed, label, index])
            if at_home is None:
                assert condition is not None
                place = place_for(species, condition, rng, names)
            else:
                place = shot_place(species, at_home, rng)
            scene = species_scene(species, place, rng, others=others)
            samples.append(Sample(ScenePicture(scene), label, ScenePicture(scene, "mask"), split))
    return Photos(tuple(names), tuple(samples), "binary255")


Spoil = Literal["eroded", "shifted", "wrong"]
"""Ways to degrade masks: eroded by two pixels; shifted by an eighth of the side; every fifth exchanged."""


def spoil(masks: NDArray[np.bool_], kind: Spoil, seed: int) -> NDArray[np.bool_]:
    """Degrade masks `[N, H, W]` in one of three ways."""
    if kind == "eroded":
        inner = masks.copy()
        for axis in (1, 2):
            for step in (-2, -1, 1, 2):
                inner &= _moved(masks, step, axis)
        return inner
    rng = np.random.default_rng([seed, 3])
    if kind == "shifted":
        step = masks.shape[1] // 8
        moves = step * rng.choice([-1, 1], (len(masks), 2))
        moved = [
            _moved(_moved(mask[None], int(dy), 1), int(dx), 2)
            for mask, (dy, dx) in zip(masks, moves, strict=True)
        ]
        return np.concatenate(moved)
    exchanged = rng.permutation(len(masks))[: len(masks) // 5]
    spoiled = masks.copy()
    spoiled[exchanged] = masks[np.roll(exchanged, 1)]
    return spoiled


def _moved(masks: NDArray[np.bool_], step: int, axis: int) -> NDArray[np.bool_]:
    """Shift masks along an axis; new pixels at the border are background."""
    moved = np.roll(masks, step, axis)
    edge = [slice(None)] * 3
    edge[axis] = slice(0, step) if step > 0 else slice(step, None)
    moved[tuple(edge)] = False
    return moved


# Scenes and captions for training the embedded CLIP, with increasing difficulty.
#
# Contrastive training on full scenes learns no shapes for a long time; with one colour on an even ground
# it learns them within two hundred steps. So difficulty rises from 0 (one red shape, centred, on grey) to 1
# (everything). Colours are added one by one; then places, textures, sizes, rotations and positions are
# added together.


ATTRIBUTES = ("shape", "colour", "texture", "place")

# Attributes in a batch's captions, and their probability. All captions of one batch name the same
# attributes, so equal captions are exactly the positives, and no caption is true of another caption's
# picture.
MENTIONS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("shape", "colour"), 0.40),
    (("shape", "colour", "place"), 0.22),
    (("shape", "colour", "texture", "place"), 0.12),
    (("shape",), 0.10),
    (("place",), 0.06),
    (("shape", "place"), 0.05),
    (("colour",), 0.05),
)

COLOURFUL = 0.2  # difficulty at which all colours are in use and the other attributes begin

EARLY_MENTIONS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("shape",), 0.35),
    (("shape", "colour"), 0.45),
    (("colour",), 0.20),
)

OPENINGS = ("a photo of ", "a photo of ", "", "a picture of ", "an image of ", "there is ")
ENDINGS = (".", ".", "")
PLACE_WORDS = {name: f"on {name}" for name in PLACES} | {
    "water": "on water",
    "night": "at night",
    "brick": "on brick",
}


def random_scene(rng: np.random.Generator, difficulty: float = 1.0) -> Scene:
    """Draw a scene; at difficulty 1, all attributes vary."""
    colours = 1 + round((len(COLOURS) - 1) * min(1.0, difficulty / COLOURFUL))
    spread = min(1.0, max(0.0, (difficulty - COLOURFUL) / (0.9 - COLOURFUL)))  # 1 from difficulty 0.9
    radius = rng.uniform(0.36 - 0.16 * spread, 0.40)
    room = max(0.0, 0.5 - 0.9 * radius) * spread
    return Scene(
        shape=str(rng.choice(list(SHAPES))),
        colour=str(rng.choice(list(COLOURS)[:colours])),
        texture=str(rng.choice(TEXTURES)) if rng.uniform() < spread else "plain",
        place=str(rng.choice(list(PLACES))) if rng.uniform() < spread else "plain",
        radius=float(radius),
        x=float(0.5 + rng.uniform(-room, room)),
        y=float(0.5 + rng.uniform(-room, room)),
        angle=float(rng.uniform(-0.35, 0.35) * spread),
        seed=int(rng.integers(2**31)),
    )


def mention(rng: np.random.Generator, difficulty: float = 1.0) -> tuple[str, ...]:
    """Choose the attributes in the captions of one batch."""
    if difficulty < COLOURFUL / len(COLOURS):  # with one colour, naming it carries no information
        return ("shape",)
    table = EARLY_MENTIONS if difficulty < COLOURFUL else MENTIONS
    kinds = [kind for kind, _ in table]
    odds = np.array([share for _, share in table])
    return kinds[int(rng.choice(len(kinds), p=odds / odds.sum()))]


def key(scene: Scene, attributes: Sequence[str]) -> tuple[str, ...]:
    """Return the caption content of a scene for these attributes; equal keys give equal captions."""
    return tuple(getattr(scene, attribute) for attribute in attributes)


def caption(values: dict[str, str], rng: np.random.Generator) -> str:
    """Return attributes as a sentence, e.g. "a photo of a red striped star on grass."."""
    words = [values[attribute] for attribute in ("colour", "texture", "shape") if attribute in values]
    words = [word for word in words if word != "plain"]
    noun = " ".join(words)
    if not noun:
        noun = "something" if values.get("place") else ""
    elif "shape" not in values:
        noun += " shape"
    article = "an " if noun[0] in "aeiou" else "a "
    opening = OPENINGS[int(rng.integers(len(OPENINGS)))]
    article = "" if (opening == "" and rng.uniform() < 0.5) or noun == "something" else article
    place = values.get("place")
    location = "" if place is None else f" {PLACE_WORDS.get(place, 'on grey')}"
    return f"{opening}{article}{noun}{location}{ENDINGS[int(rng.integers(len(ENDINGS)))]}"
