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
"""Share of a picture that its object must leave free for it to lend a ground."""

_PAINTED = 128  # longer side at which the hole is painted: what is painted is smooth
_SPREAD = 3  # pixels of that by which the hole is widened, so that no edge of the object colours it


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
        other: RGB, lends its ground; of any size: it is scaled to cover the picture, and cut at its middle.
        other_mask: Its foreground, which is painted over; None takes all of it as ground.
        flat: Colour in [0, 255] that it is painted over with; None takes what surrounds it, smoothly.
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
        mask: Of its size: 255 on what is painted over. Where it leaves nothing, the picture stays as it is.
        flat: The one colour, in [0, 255].
    """
    small = picture.copy()
    small.thumbnail((_PAINTED, _PAINTED))
    hole = mask.resize(small.size, Image.Resampling.BOX).point(lambda value: 255 if value else 0)
    hole = hole.filter(ImageFilter.MaxFilter(2 * _SPREAD + 1))
    known = torch.tensor(np.asarray(hole) == 0).float()[None, None]
    if not known.any():
        return picture
    if flat is None:
        colour = torch.tensor(np.asarray(small)).permute(2, 0, 1).float()[None]
        pixels = _pushed_and_pulled(colour, known)[0].permute(1, 2, 0).round().clamp(0, 255)
        painted = Image.fromarray(pixels.byte().numpy()).resize(picture.size, Image.Resampling.BICUBIC)
    else:
        painted = Image.new("RGB", picture.size, flat)
    return Image.composite(painted, picture, hole.resize(picture.size, Image.Resampling.BILINEAR))


def _pushed_and_pulled(
    colour: Float[Tensor, "1 3 height width"], known: Float[Tensor, "1 1 height width"]
) -> Float[Tensor, "1 3 height width"]:
    """Fill what is not known from means over squares of 2, 4, 8, ... pixels: the first that know anything."""
    if known.all():
        return colour
    share = F.avg_pool2d(known, 2, ceil_mode=True)
    means = F.avg_pool2d(colour * known, 2, ceil_mode=True) / share.clamp(min=1e-6)
    below = _pushed_and_pulled(means, (share > 0).float())
    filled = F.interpolate(below, size=colour.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(known > 0, colour, filled)
