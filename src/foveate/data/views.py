"""Views of a picture, in particular the one for predictions, without PyTorch: exported models use it too.

All operations are Pillow's, because published results were computed with Pillow: resizing tensors gives
other pixels.
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
    """A square view: a part of a picture, and how it is resized.

    Attributes:
        side: Side of the square output, in pixels.
        crop: Part of the picture that is resized to the square; None for all of it.
        resized: If set, the picture is first resized to this size and the square is cut from its middle.
        flip: Whether to flip left and right.
    """

    side: int
    crop: Box | None = None
    resized: Size | None = None
    flip: bool = False

    def apply(self, picture: Image.Image, mask: Image.Image | None = None) -> Pair:
        """Return the view of a picture (bicubic) and of its mask (nearest), both `side` x `side`."""
        square = self._see(picture, Image.Resampling.BICUBIC)
        return square, None if mask is None else self._see(mask, Image.Resampling.NEAREST)

    def _see(self, image: Image.Image, filter_: Image.Resampling) -> Image.Image:
        square = (self.side, self.side)
        if self.resized is not None:
            view = _resize_and_cut(image, self.resized, self.side, filter_)
        else:
            part = image if self.crop is None else _crop(image, self.crop)
            view = part.resize(square, filter_)
        return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else view


def eval_view(size: Size, side: int) -> View:
    """Return the view for predictions: resize the shorter side to `side`, then cut the middle square."""
    width, height = size
    shorter, longer = sorted(size)
    scaled = int(side * longer / shorter)
    return View(side, resized=(side, scaled) if width <= height else (scaled, side))


def normalised(picture: Image.Image, mean: Channels, std: Channels) -> np.ndarray:
    """Return an RGB picture as float32 `[3, height, width]`: (x / 255 - mean) / std."""
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
        # A strip of 2 x 80,000 pixels would first grow to billions, so only the part that is kept is resized.
        # The pixels are the same, up to the rounding of the part's edges.
        scale_x, scale_y = image.width / resized[0], image.height / resized[1]
        box = (left * scale_x, upper * scale_y, (left + side) * scale_x, (upper + side) * scale_y)
        return image.resize((side, side), filter_, box=box)
    return _crop(image.resize(resized, filter_), (left, upper, left + side, upper + side))
