"""A method small enough to see through, and batches for it and for real ones."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from foveate.clip.model import Clip
from foveate.methods.base import Method
from foveate.seeds import stream
from foveate.types import Batch

NAMES = ["cat", "dog", "phone"]


class Toy(Method):
    """Two vectors pulled towards each batch's mean pixel; `spoil` may change the losses of a step."""

    tunes_vision = True  # so that there is no frozen feature

    def __init__(self, clip: Clip):
        super().__init__(clip)
        self.first = nn.Parameter(torch.tensor([3.0, -2.0]))
        self.second = nn.Parameter(torch.tensor([1.0, 4.0]))
        self.calls = 0
        self.spoil: Callable[[int, dict[str, torch.Tensor]], dict[str, torch.Tensor]] = lambda _, losses: (
            losses
        )

    def encode_text(self):
        return torch.zeros(len(self.names), 2)

    def encode_images(self, images):
        return torch.zeros(1, len(images), 2)

    def losses(self, features, batch):
        target = batch.images.mean()
        losses = {
            "pull": ((self.first - target) ** 2).sum(),
            "size": 0.5 * ((self.second - 2 * target) ** 2).sum(),
        }
        self.calls += 1
        return self.spoil(self.calls - 1, losses)


@pytest.fixture
def toy(tiny_clip: Clip) -> Toy:
    return Toy(tiny_clip)


@pytest.fixture
def batches() -> Callable[[int], Iterator[Batch]]:
    """Three batches an epoch, of four masked pictures; the same ones whenever the epoch is asked for."""

    def make(epoch: int) -> Iterator[Batch]:
        for index in range(3):
            g = stream(epoch, "batch", index)
            images = torch.randn(4, 3, 32, 32, generator=g)
            masks = (torch.rand(4, 1, 32, 32, generator=g) > 0.5).float()
            yield Batch(images, torch.arange(4) % len(NAMES), masks, masks.mean((1, 2, 3)))

    return make
