"""Scenes and captions for training the embedded CLIP, with increasing difficulty.

Contrastive training on full scenes learns no shapes for a long time; with one colour on an even ground
it learns them within two hundred steps. So difficulty rises from 0 (one red shape, centred, on grey) to 1
(everything). Colours are added one by one; then places, textures, sizes, rotations and positions are
added together.
"""

from collections.abc import Sequence

import numpy as np

from foveate.world.scenes import COLOURS, PLACES, SHAPES, TEXTURES, Scene

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
