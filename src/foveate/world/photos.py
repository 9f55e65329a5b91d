"""Scenes as a labelled photo set with masks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foveate.data.samples import LazyPicture, Photos, Sample
from foveate.errors import InputError
from foveate.world.curriculum import random_scene
from foveate.world.scenes import PLACES, SIZE, Scene, render
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
