"""The view of a picture that predictions are made on, without PyTorch: exported models see with it too.

Everything happens on Pillow pictures, in Pillow's order of operations, because that is what the field's
numbers were made with: tensor resizing gives other pixels.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

Pair = tuple[Image.Image, Image.Image | None]
Size = tuple[int, int]  # width, height
Box = tuple[int, int, int, int]  # left, upper, right, lower
Channels = tuple[float, float, float]

_LARGE_CROP = 80_000_000  # pixels; a little below where Pillow begins to warn
_LARGE_RESIZE = 20_000_000  # pixels; at side 224, a picture 400 times as long as wide


@dataclass(frozen=True)
class View:
    """What part of a picture is seen, and how.

    Attributes:
        side: Side of the square that comes out.
        crop: Part of the picture that is resized to the square; None for all of it.
        resized: Where set, the picture is resized to this first and the square is cut from its middle.
        flip: Whether left and right change places.
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


def eval_view(size: Size, side: int) -> View:
    """Return the view predictions are made on: shorter side to `side`, then the middle square."""
    width, height = size
    shorter, longer = sorted(size)
    scaled = int(side * longer / shorter)
    return View(side, resized=(side, scaled) if width <= height else (scaled, side))


def normalised(picture: Image.Image, mean: Channels, std: Channels) -> np.ndarray:
    """Return an RGB picture as float32 `[3, height, width]`: in [0, 1], less the mean, by the deviation."""
    pixels = np.asarray(picture).transpose(2, 0, 1).astype(np.float32, order="C")
    pixels /= np.float32(255)
    pixels -= np.array(mean, np.float32)[:, None, None]
    pixels /= np.array(std, np.float32)[:, None, None]
    return pixels


def _crop(image: Image.Image, box: Box) -> Image.Image:
    left, upper, right, lower = box
    if (right - left) * (lower - upper) > _LARGE_CROP:
        return Image.fromarray(np.asarray(image)[upper:lower, left:right])
    return image.crop(box)


def _resize_and_cut(image: Image.Image, resized: Size, side: int, filter_: Image.Resampling) -> Image.Image:
    left, upper = round((resized[0] - side) / 2), round((resized[1] - side) / 2)
    if resized[0] * resized[1] > _LARGE_RESIZE:
        # A strip of 2 x 80,000 pixels would first grow to billions: resize only the part that stays. The same
        # pixels up to the rounding of where the part begins.
        across, down = image.width / resized[0], image.height / resized[1]
        part = (left * across, upper * down, (left + side) * across, (upper + side) * down)
        return image.resize((side, side), filter_, box=part)
    return _crop(image.resize(resized, filter_), (left, upper, left + side, upper + side))
