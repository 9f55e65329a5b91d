"""Drawn worlds that trust is measured on: a pool of pictures, and pictures of things that have no name.

Shots are drawn from the pool, and all others of the pool are the test, so that both are alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from foveate.clip.model import Clip
from foveate.clip.weights import load_clip
from foveate.data.samples import MemoryPicture, Photos, Sample
from foveate.methods.registry import REFERENCE, build
from foveate.train.banking import clip_features
from foveate.train.shots import without_masks
from foveate.world.photos import scene_photos, species_photos
from foveate.world.species import BASE, NEW

SHOTS = 16
COLOURS = ("red", "blue", "green", "yellow")
KNOWN = [f"{colour} {shape}" for colour in COLOURS for shape in ("star", "ring", "cross")]
NEAR = [f"{colour} {shape}" for colour in COLOURS for shape in ("heart", "moon", "triangle")]
SMALL = (0.1, 0.18)
PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "colorwheel", "retina", "immunohistochemistry",
          "hubble_deep_field", "logo")  # fmt: skip


@dataclass(frozen=True, eq=False)
class World:
    """Names, and pictures of them.

    Attributes:
        key: Its name.
        names: What is learned.
        new: Near unknowns: the same colours and other shapes, or other species.
        keep: Folder of encoded pictures.
    """

    key: str
    names: Sequence[str]
    new: Sequence[str]
    keep: Path

    @cached_property
    def clip(self) -> Clip:
        """The CLIP that looks at it."""
        return load_clip("tiny-mild" if self.key == "mild" else "tiny")

    @cached_property
    def photos(self) -> dict[str, Photos]:
        """Pictures by kind: the pool, near unknowns, noise and photographs."""
        rng = np.random.default_rng(0)
        if self.key == "mild":
            drawn = {
                "pool": species_photos(self.names, 60, 5, at_home=0.96),
                "near": species_photos(self.new, 10, 7, at_home=0.96),
            }
        else:
            radius = SMALL if self.key == "small" else None
            drawn = {
                "pool": scene_photos(self.names, 80, 5, radius=radius),
                "near": scene_photos(self.new, 20, 7, radius=radius),
            }
        return drawn | {"noise": noise(40, rng), "photo": photographs(8, rng)}

    @cached_property
    def features(self) -> dict[str, Tensor]:
        """Raw features of the untouched CLIP, by kind of picture."""
        bank = self.keep / "bank"
        return {kind: clip_features(without_masks(one), self.clip, bank) for kind, one in self.photos.items()}

    @cached_property
    def texts(self) -> Tensor:
        """Raw features of all names, the known ones first."""
        reference = build(REFERENCE, self.clip)
        reference.set_classes([*self.names, *self.new])
        with torch.no_grad():
            return reference.text_features()

    def labels(self, kind: str) -> Tensor:
        """Return the labels of a kind of picture."""
        return torch.tensor([sample.label for sample in self.photos[kind].samples])

    def draw(self, seed: int) -> Tensor:
        """Return the rows of a draw of shots in the pool."""
        generator, labels = torch.Generator().manual_seed(seed), self.labels("pool")
        own = [(labels == label).nonzero()[:, 0] for label in range(len(self.names))]
        return torch.cat([rows[torch.randperm(len(rows), generator=generator)[:SHOTS]] for rows in own])

    def rest(self, seed: int) -> Tensor:
        """Return the rows of the pool that were not drawn: the test."""
        left = torch.ones(len(self.photos["pool"]), dtype=torch.bool)
        left[self.draw(seed)] = False
        return left.nonzero()[:, 0]

    def shots(self, rows: Tensor) -> Photos:
        """Return drawn shots with their masks."""
        pool = self.photos["pool"]
        return pool.with_samples([pool.samples[row] for row in rows.tolist()])


def worlds(keep: Path) -> list[World]:
    """Return all of them."""
    scenes = [World(key, KNOWN, NEAR, keep) for key in ("scenes", "small")]
    return [*scenes, World("mild", BASE, NEW, keep)]


def noise(number: int, rng: np.random.Generator) -> Photos:
    """Draw pictures of noise."""
    drawn = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(number)]
    return unlabelled([Image.fromarray(one) for one in drawn])


def photographs(crops: int, rng: np.random.Generator) -> Photos:
    """Cut squares out of the photographs that scikit-image brings."""
    found: list[Image.Image] = []
    for name in PHOTOS:
        picture = Image.fromarray(np.asarray(getattr(skimage.data, name)())[..., :3])
        for _ in range(crops):
            side = int(min(picture.size) * rng.uniform(0.5, 1))
            left, top = (int(rng.integers(0, edge - side + 1)) for edge in picture.size)
            found.append(picture.crop((left, top, left + side, top + side)))
    return unlabelled(found)


def unlabelled(pictures: list[Image.Image]) -> Photos:
    """Return pictures of nothing that has a name here."""
    return Photos(("one", "other"), tuple(Sample(MemoryPicture(one), 0) for one in pictures))
