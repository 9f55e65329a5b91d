"""Views by a mask: foreground or background alone, a crop, the object on another ground; foreground share.

Views are normalised tensors, so zero is the mean colour of CLIP's pictures, not black. The
published code of FVG-PT (spec A10) and DAPT (spec 2.3) removes pixels in this way; `fill` offers
alternatives. `exchange` works on RGB pictures.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.config import CLIP_MEAN, CLIP_STD
from foveate.foreground.options import Fill
from foveate.types import Images, Masks, PerImage

Channels = tuple[float, float, float]

MARGIN = 0.1
"""Margin of a crop on each side, as a share of the longer side of the object's box."""

_BLUR = 0.05  # deviation as a share of the shorter side: keeps colours, removes shapes


def foreground_view(
    images: Images, masks: Masks, fill: Fill = "mean", mean: Channels = CLIP_MEAN, std: Channels = CLIP_STD
) -> Images:
    """Keep the foreground and fill the rest.

    Args:
        images: Normalised pictures.
        masks: 1 on the part to keep.
        fill: `mean`: the mean colour of the normalisation, exactly `images * masks`. `black`: black
            pixels. `blur`: the blurred picture. `image_mean`: the picture's own mean colour.
        mean: Channel means of the normalisation of `images` (needed only for `black`).
        std: Channel standard deviations, likewise.
    """
    if fill == "mean":
        return images * masks
    if fill == "black":
        rest = -(images.new_tensor(mean) / images.new_tensor(std)).view(1, 3, 1, 1)
    elif fill == "image_mean":
        rest = images.mean((2, 3), keepdim=True)
    else:
        rest = _blurred(images)
    return images * masks + rest * (1 - masks)


def background_view(
    images: Images, masks: Masks, fill: Fill = "mean", mean: Channels = CLIP_MEAN, std: Channels = CLIP_STD
) -> Images:
    """Keep the background and fill the foreground; see `foreground_view` for the arguments."""
    return foreground_view(images, 1 - masks, fill, mean, std)


def crop_view(images: Images, masks: Masks, margin: float = MARGIN) -> Images:
    """Crop to a square around the foreground, and enlarge it to the size of the picture.

    The square has the centre of the foreground's box, and side (1 + 2 margin) times the box's longer side. If
    it crosses the picture's border, it is moved inside. Without a foreground the picture is unchanged.

    Args:
        images: Square pictures.
        masks: Above 0 on the foreground.
        margin: Margin on each side, as a share of the box's longer side.
    """
    side, views = images.shape[-1], list[Tensor]()
    for image, mask in zip(images, masks[:, 0] > 0, strict=True):
        if not mask.any():
            views.append(image)
            continue
        spans = [
            (int(positions[0]), int(positions[-1]) + 1)
            for positions in (mask.any(axis).nonzero() for axis in (1, 0))
        ]
        longest = max(end - start for start, end in spans)
        size = min(side, math.ceil(longest * (1 + 2 * margin)))
        top, left = (min(max((start + end - size) // 2, 0), side - size) for start, end in spans)
        crop = image[None, :, top : top + size, left : left + size]
        # With `antialias`, PyTorch uses Pillow's cubic kernel, which keeps linear ramps.
        views.append(F.interpolate(crop, (side, side), mode="bicubic", antialias=True)[0])
    return torch.stack(views)


def area(masks: Masks) -> PerImage:
    """Return the foreground share of each view."""
    return masks.mean((1, 2, 3))


def _blurred(images: Images) -> Images:
    """Blur with a separable Gaussian, mirrored at the border."""
    shorter = min(images.shape[2:])
    deviation = max(_BLUR * shorter, 0.5)
    radius = min(math.ceil(3 * deviation), shorter - 1)  # mirror padding cannot be wider than the picture
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(images, (radius, radius, radius, radius), mode="reflect")
    rows = F.conv2d(padded, kernel.unsqueeze(2), groups=3)
    return F.conv2d(rows, kernel.unsqueeze(3), groups=3)


# Exchange of backgrounds: put the masked object of one picture on the ground of another.
#
# x_{i←j} = m̃_i ⊙ x_i + (1 − m̃_i) ⊙ B_j, with m̃_i the mask of picture i, its edge softened, and B_j the ground
# of picture j: the picture with its object painted over, smoothly, from what surrounds it.


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
