"""Pictures in three splits, for methods that look at training and validation pictures and at no others."""

from collections.abc import Callable, Sequence

import pytest
import torch
from PIL import Image

from foveate.data.samples import LazyPicture, MemoryPicture, Photos, Sample
from foveate.seeds import stream


class Untouchable(LazyPicture):
    """A picture that nobody may open."""

    @property
    def name(self) -> str:
        return "test picture"

    def load(self) -> Image.Image:
        raise AssertionError("a test picture was opened")


@pytest.fixture(scope="session")
def split_photos() -> Callable[..., Photos]:
    """Pictures of noise, so many a class; those of the test split cannot be opened."""

    def draw(train: int, val: int, names: Sequence[str] = ("cat", "dog")) -> Photos:
        samples: list[Sample] = []
        for label in range(len(names)):
            for split, number in (("train", train), ("val", val)):
                for i in range(number):
                    noise = torch.rand(32, 32, 3, generator=stream(0, split, label, i)).mul(255).byte()
                    picture = MemoryPicture(Image.fromarray(noise.numpy()), f"{split} {label} {i}")
                    samples.append(Sample(picture, label, split=split))
            samples.append(Sample(Untouchable(), label, split="test"))
        return Photos(tuple(names), tuple(samples))

    return draw
