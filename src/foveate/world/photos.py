"""Scenes as a labelled set of pictures with masks, like any other data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from PIL import Image

from foveate.data.samples import LazyPicture, Photos, Sample
from foveate.world.curriculum import random_scene
from foveate.world.scenes import PLACES, SIZE, Scene, render


class ScenePicture(LazyPicture):
    """A scene, or its mask, drawn when it is looked at."""

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
    """Draw so many scenes of each class.

    Args:
        names: Colour and shape of each class, e.g. "red star".
        per_class: Scenes a class.
        seed: Of everything.
        home: The one place each class goes together with; None puts every scene anywhere.
        radius: Least and largest radius; None takes those that the embedded CLIP was trained on.
        turn: Largest turn in radians, likewise.
        split: Which split they say they are.
    """
    samples: list[Sample] = []
    for label, name in enumerate(names):
        colour, shape = name.split()
        for index in range(per_class):
            rng = np.random.default_rng([seed, label, index])
            free = random_scene(rng)
            place = home[name] if home else str(rng.choice(list(PLACES)))
            scene = replace(free, shape=shape, colour=colour, place=place)
            if radius:
                scene = replace(scene, radius=float(rng.uniform(*radius)))
            if turn is not None:
                scene = replace(scene, angle=float(rng.uniform(-turn, turn)))
            samples.append(Sample(ScenePicture(scene), label, ScenePicture(scene, "mask"), split))
    return Photos(tuple(names), tuple(samples), "binary255")
