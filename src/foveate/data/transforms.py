"""Views of a picture and its mask, with the same crop and flip for both.

The draws ask the generator for the same numbers in the same order as torchvision's `RandomResizedCrop` and
`RandomHorizontalFlip`, so equally seeded generators give equal views.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from foveate.data.views import Box, Channels, Pair, Size, View, normalised
from foveate.data.views import eval_view as eval_view

Augment = Literal["rrc-flip", "squash"]
PairTransform = Callable[[Image.Image, Image.Image | None], Pair]
Picture = Float[Tensor, "3 height width"]
Mask = Float[Tensor, "1 height width"]

RATIO = (3 / 4, 4 / 3)
_TRIES = 10


def train_view(
    generator: torch.Generator,
    size: Size,
    side: int,
    kind: Augment = "rrc-flip",
    scale: tuple[float, float] = (0.08, 1.0),
) -> View:
    """Draw a training view for a picture size.

    Args:
        generator: Random generator; "squash" draws nothing.
        size: The picture's (width, height).
        side: Side of the square output, in pixels.
        kind: "rrc-flip": a random part with an area within `scale` and an aspect ratio from 3:4 to 4:3,
            flipped with probability 0.5. "squash": the whole picture, without its aspect ratio.
        scale: Minimum and maximum area of the part, as shares of the picture.
    """
    if kind == "squash":
        return View(side)
    crop = _random_part(generator, size, scale)
    return View(side, crop=crop, flip=_draw(generator, 0.0, 1.0) < 0.5)


def to_tensor(picture: Image.Image, mean: Channels, std: Channels) -> Picture:
    """Scale an RGB picture to [0, 1] and normalise its channels."""
    return torch.from_numpy(normalised(picture, mean, std))


def mask_to_tensor(mask: Image.Image) -> Mask:
    """Convert a mask picture of 0 and 255 to 0 and 1."""
    return torch.tensor(np.asarray(mask) >= 128).float().unsqueeze(0)


def _draw(generator: torch.Generator, low: float, high: float) -> float:
    return torch.empty(1).uniform_(low, high, generator=generator).item()


def _random_part(generator: torch.Generator, size: Size, scale: tuple[float, float]) -> Box:
    width, height = size
    low, high = (float(bound) for bound in torch.log(torch.tensor(RATIO)))
    for _ in range(_TRIES):
        area = width * height * _draw(generator, *scale)
        ratio = torch.exp(torch.empty(1).uniform_(low, high, generator=generator)).item()
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            upper = int(torch.randint(0, height - tall + 1, (1,), generator=generator))
            left = int(torch.randint(0, width - wide + 1, (1,), generator=generator))
            return left, upper, left + wide, upper + tall
    return _middle_part(size)


def _middle_part(size: Size) -> Box:
    """Return the largest central part with an allowed aspect ratio: the fallback for very long pictures."""
    width, height = size
    wide, tall = width, height
    if width / height < RATIO[0]:
        tall = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        wide = round(height * RATIO[1])
    left, upper = (width - wide) // 2, (height - tall) // 2
    return left, upper, left + wide, upper + tall
