"""Exchange the background: put the masked object of one picture on the ground of another.

x_{i←j} = m̃_i ⊙ x_i + (1 − m̃_i) ⊙ B_j, with m̃_i the mask of picture i, its edge softened, and B_j the ground
of picture j: the picture with its object painted over, smoothly, from what surrounds it.
"""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.nn import functional as F

SOFTNESS = 0.01
"""Deviation of the blur of a mask's edge, as a share of the picture's shorter side."""

LEAST_GROUND = 0.05
"""Minimum background share of a picture whose ground is given to another picture."""

_FILL_SIDE = 128  # longer side of the small copy in which the hole is filled; the fill is smooth
_HOLE_MARGIN = 3  # pixels of that copy by which the hole is widened, so that the object's edge is not used


def exchange(
    picture: Image.Image,
    mask: Image.Image,
    other: Image.Image,
    other_mask: Image.Image | None,
    flat: tuple[int, int, int] | None = None,
) -> Image.Image:
    """Return a picture's object on the ground of another picture; the object stays where it is.

    Args:
        picture: RGB, shows the object.
        mask: Its foreground: mode "L", 255 on the object and 0 elsewhere.
        other: RGB, of any size; gives its ground: scaled to cover the picture, cropped at the centre.
        other_mask: Foreground of `other`, which is painted over; None: all of `other` is ground.
        flat: Colour in [0, 255] to paint with; None: a smooth fill from the surrounding colours.
    """
    size = picture.size
    ground = ImageOps.fit(other, size, Image.Resampling.BICUBIC)
    if other_mask is not None:
        ground = paint_over(ground, ImageOps.fit(other_mask, size, Image.Resampling.NEAREST), flat)
    edge = mask.filter(ImageFilter.GaussianBlur(SOFTNESS * min(size)))
    return Image.composite(picture, ground, edge)


def paint_over(
    picture: Image.Image, mask: Image.Image, flat: tuple[int, int, int] | None = None
) -> Image.Image:
    """Return a picture whose foreground is filled smoothly from the colours around it, or with one colour.

    Args:
        picture: RGB.
        mask: Of the same size; 255 on the part to fill. If it covers everything, the picture is unchanged.
        flat: Colour in [0, 255] to fill with; None: a smooth fill from the surrounding colours.
    """
    small = picture.copy()
    small.thumbnail((_FILL_SIDE, _FILL_SIDE))
    hole = mask.resize(small.size, Image.Resampling.BOX).point(lambda value: 255 if value else 0)
    hole = hole.filter(ImageFilter.MaxFilter(2 * _HOLE_MARGIN + 1))
    known = torch.tensor(np.asarray(hole) == 0).float()[None, None]
    if not known.any():
        return picture
    if flat is None:
        colour = torch.tensor(np.asarray(small)).permute(2, 0, 1).float()[None]
        pixels = _push_pull_fill(colour, known)[0].permute(1, 2, 0).round().clamp(0, 255)
        painted = Image.fromarray(pixels.byte().numpy()).resize(picture.size, Image.Resampling.BICUBIC)
    else:
        painted = Image.new("RGB", picture.size, flat)
    return Image.composite(painted, picture, hole.resize(picture.size, Image.Resampling.BILINEAR))


def _push_pull_fill(
    colour: Float[Tensor, "1 3 height width"], known: Float[Tensor, "1 1 height width"]
) -> Float[Tensor, "1 3 height width"]:
    """Fill unknown pixels from means over squares of 2, 4, 8, ... pixels: the smallest with a known pixel."""
    if known.all():
        return colour
    share = F.avg_pool2d(known, 2, ceil_mode=True)
    means = F.avg_pool2d(colour * known, 2, ceil_mode=True) / share.clamp(min=1e-6)
    coarse = _push_pull_fill(means, (share > 0).float())
    filled = F.interpolate(coarse, size=colour.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(known > 0, colour, filled)
