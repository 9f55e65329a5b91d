"""Setup of the speed benchmark: random towers, drawn picture files, methods in both implementations."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fieldway import FIELD, FieldMethod
from fieldway_stage import FieldFvgPt, read_views
from fieldway_towers import FieldClip
from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.model import Clip
from foveate.costs.measuring import draw_photos, made_up_names
from foveate.data.bank import Bank
from foveate.data.feature_store import FeatureStore
from foveate.data.loader import PictureSet
from foveate.data.transforms import train_view
from foveate.methods.base import Method
from foveate.methods.frozen import extract, frozen_specs, training_losses
from foveate.methods.fvgpt import FvgPt
from foveate.methods.registry import build, wrap
from foveate.seeds import stream
from foveate.train.banking import chunk_on
from foveate.train.together import backward
from foveate.types import Batch

VIT_B16 = ClipConfig()
SCALE = (0.08, 1.0)
"""Minimum and maximum area of a training crop."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of all parts.

    Attributes:
        clip: Size of both towers.
        classes: Number of classes in the tuning rows (51 is the base half of Flowers102).
        many: Number of classes in the rows with many classes (500 is the base half of ImageNet).
        batch: Pictures in a step; `wide` is for PromptSRC.
        group: Number of classes that the reference encodes at once, if there are many: the memory of one
            group.
        shots: Pictures of each class in the stage; `epochs` is its number of epochs.
        test_pictures: Pictures of the evaluation; `test_classes` is its number of classes, `test_batch`
            its batch size.
        bank_batch: Pictures that are encoded together to fill a bank.
        scales: Class counts of the memory rows.
        drawn: Number of picture files.
        probes: Number of steps timed together if one takes milliseconds.
    """

    clip: ClipConfig = VIT_B16
    classes: int = 51
    many: int = 500
    batch: int = 4
    wide: int = 32
    group: int = 64
    shots: int = 16
    epochs: int = 10
    test_pictures: int = 1000
    test_classes: int = 1000
    test_batch: int = 100
    scales: tuple[int, ...] = (51, 1000, 10000)
    drawn: int = 32
    probes: int = 20

    @property
    def steps(self) -> int:
        """Number of steps of the whole stage; an incomplete last batch of an epoch is left out."""
        return self.classes * self.shots // self.batch * self.epochs


QUICK = Sizes(
    ClipConfig(TowerConfig(64, 3, 2), TowerConfig(32, 3, 2), image_size=32, patch_size=8, embed=16),
    classes=6,
    many=20,
    wide=8,
    group=8,
    test_pictures=16,
    test_classes=20,
    test_batch=8,
    scales=(6, 60),
    drawn=8,
    probes=2,
)
"""Tiny sizes that only check that everything runs; the figures are meaningless."""


def random_clip(config: ClipConfig) -> Clip:
    """Return frozen towers with random weights: speed does not depend on the values."""
    clip = Clip(config).initialise(torch.Generator().manual_seed(0))
    return clip.eval().requires_grad_(False)


class Bench:
    """Towers, pictures, and all methods in both implementations.

    Args:
        sizes: Sizes of all parts.
        folder: Output folder of the pictures.
        names: Class names to use before synthetic ones; synthetic ones follow if they are too few.
    """

    def __init__(self, sizes: Sizes, folder: Path, names: list[str] | None = None):
        self.sizes, self.folder, self.own_names = sizes, folder, names or []

    @cached_property
    def clip(self) -> Clip:
        """Foveate's towers."""
        return random_clip(self.sizes.clip)

    @cached_property
    def field_clip(self) -> FieldClip:
        """The reference towers, with the same weights."""
        return FieldClip(self.clip)

    @cached_property
    def pictures(self) -> PictureSet:
        """Training views of the drawn pictures."""
        photos = draw_photos(self.folder, self.sizes.drawn, self.names(self.sizes.classes))
        return PictureSet(photos, self.sizes.clip.image_size, augment="rrc-flip", scale=SCALE)

    def names(self, number: int) -> list[str]:
        """Return this many class names."""
        more = [name for name in made_up_names(number) if name not in self.own_names]
        return [*self.own_names, *more][:number]

    def both(self, name: str, classes: int) -> tuple[Method, FieldMethod]:
        """Build a backbone in both implementations."""
        ours = build(name, self.clip)
        ours.set_classes(self.names(classes))
        return ours, FIELD[name](self.field_clip, ours)

    def both_stages(self, backbone: str, classes: int, prior: FieldClip | None) -> tuple[FvgPt, FieldFvgPt]:
        """Build FVG-PT over a backbone in both implementations."""
        ours, field = self.both(backbone, classes)
        stage = wrap("fvgpt", ours)
        assert isinstance(stage, FvgPt)
        return stage, FieldFvgPt(field, stage, prior)

    def batch(self, size: int, epoch: int = 0) -> Batch:
        """Return the first pictures of an epoch, decoded by foveate in this thread."""
        return next(iter(self.pictures.batches(epoch, size, workers=0)))

    def field_batch(self, size: int, epoch: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same views, decoded by the reference implementation: pictures, masks, labels."""
        samples = self.pictures.photos.samples[:size]
        files = [(sample.picture, sample.mask) for sample in samples]
        config = self.sizes.clip
        views = []
        for index, (photo, _) in enumerate(files):
            with Image.open(photo) as opened:
                generator = stream(0, "view", epoch, index)
                views.append(train_view(generator, opened.size, config.image_size, "rrc-flip", SCALE))
        images, masks = read_views(files, views, config.mean, config.std)
        return images, masks, torch.tensor([sample.label for sample in samples])

    def banked(self, method: Method, size: int, store: FeatureStore | None = None) -> Iterator[Batch]:
        """Fill a bank, and yield the batches of its epoch repeatedly."""
        bank = Bank(self.pictures, "random", store or FeatureStore(), chunk=chunk_on(self.clip))
        specs = frozen_specs(method)
        pixels = method.tunes_vision and not isinstance(method, FvgPt)
        made = {"specs": specs, "make": partial(extract, method)}
        epoch = partial(bank.batches, 0, size, **made, pixels=pixels, workers=0)
        for _ in epoch():
            pass
        return itertools.chain.from_iterable(epoch() for _ in itertools.count())


def tune(method: Method, batch: Batch) -> None:
    """Run one step of foveate, without the optimiser."""
    for parameter in method.trainable().values():
        parameter.grad = None
    backward(method, training_losses(method, batch))
