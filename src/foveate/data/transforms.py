"""Views of a picture and its mask, with the same crop and flip for both.

All operations use Pillow, in Pillow's order, because the published numbers were made with it: resizing
of tensors gives other pixels. The random draws request the same numbers from the generator, in the same
order, as torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`. So generators with equal seeds
give equal views.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

Augment = Literal["rrc-flip", "squash"]
Pair = tuple[Image.Image, Image.Image | None]
PairTransform = Callable[[Image.Image, Image.Image | None], Pair]
Picture = Float[Tensor, "3 height width"]
Mask = Float[Tensor, "1 height width"]
Size = tuple[int, int]  # width, height
Box = tuple[int, int, int, int]  # left, upper, right, lower
Channels = tuple[float, float, float]

RATIO = (3 / 4, 4 / 3)
_TRIES = 10
_LARGE_CROP = 80_000_000  # pixels; slightly below the limit at which Pillow warns
_LARGE_RESIZE = 20_000_000  # pixels; at side 224, a picture 400 times as long as wide


@dataclass(frozen=True)
class View:
    """Crop, resize and flip of a picture.

    Attributes:
        side: Side of the square output, in pixels.
        crop: Part of the picture that is resized to the square; None for the whole picture.
        resized: If set, the picture is first resized to this size, and the square is cut from its
            middle.
        flip: Whether to flip left and right.
    """

    side: int
    crop: Box | None = None
    resized: Size | None = None
    flip: bool = False

    def apply(self, picture: Image.Image, mask: Image.Image | None = None) -> Pair:
        """Return the view of a picture (bicubic) and of its mask (nearest), both `side` x `side`."""
        seen = self._see(picture, Image.Resampling.BICUBIC)
        return seen, None if mask is None else self._see(mask, Image.Resampling.NEAREST)

    def _see(self, image: Image.Image, filter_: Image.Resampling) -> Image.Image:
        square = (self.side, self.side)
        if self.resized is not None:
            seen = _resize_and_cut(image, self.resized, self.side, filter_)
        else:
            part = image if self.crop is None else _crop(image, self.crop)
            seen = part.resize(square, filter_)
        return seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else seen


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


def eval_view(size: Size, side: int) -> View:
    """Return the evaluation view: resize the shorter side to `side`, then cut the middle square."""
    width, height = size
    shorter, longer = sorted(size)
    scaled = int(side * longer / shorter)
    return View(side, resized=(side, scaled) if width <= height else (scaled, side))


def to_tensor(picture: Image.Image, mean: Channels, std: Channels) -> Picture:
    """Scale an RGB picture to [0, 1] and normalise its channels."""
    pixels = torch.tensor(np.asarray(picture)).permute(2, 0, 1).contiguous().float().div_(255)
    return pixels.sub_(torch.tensor(mean).view(3, 1, 1)).div_(torch.tensor(std).view(3, 1, 1))


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


def _crop(image: Image.Image, box: Box) -> Image.Image:
    left, upper, right, lower = box
    if (right - left) * (lower - upper) > _LARGE_CROP:
        return Image.fromarray(np.asarray(image)[upper:lower, left:right])
    return image.crop(box)


def _resize_and_cut(image: Image.Image, resized: Size, side: int, filter_: Image.Resampling) -> Image.Image:
    left, upper = round((resized[0] - side) / 2), round((resized[1] - side) / 2)
    if resized[0] * resized[1] > _LARGE_RESIZE:
        # A strip of 2 x 80,000 pixels would grow to billions of pixels. So only the part that stays is
        # resized. Pixels are equal up to the rounding of the start of the part.
        across, down = image.width / resized[0], image.height / resized[1]
        part = (left * across, upper * down, (left + side) * across, (upper + side) * down)
        return image.resize((side, side), filter_, box=part)
    return _crop(image.resize(resized, filter_), (left, upper, left + side, upper + side))
