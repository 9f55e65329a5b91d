"""Metrics of heat maps, one number per picture.

`masks` belong to the view that the method receives. A picture without foreground in its view gets NaN.
If a heat map is 0 everywhere, energy, lift, pointing and overlap are 0.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from foveate.explain.passes import Heat
from foveate.foreground.views import area
from foveate.methods.guidance import kl
from foveate.types import Logits, Masks, PerImage


def shift_index(full: Logits, foreground: Logits, tau: float = 2.0) -> PerImage:
    """Return D_fg = KL(p_full ‖ p_foreground), the foreground shift index (FVG-PT, App. A.1), in nats.

    It measures the change of a prediction when the background is removed. The paper leaves three choices
    open: the temperature (here that of FVG-PT's distributions, 2), the classes (here all columns of the
    logits) and the replacement of the background (see `foveate.foreground.views.foreground_view`).

    Args:
        full: `[B, C]` logits of whole pictures.
        foreground: `[B, C]` logits of the same views without their background.
        tau: Temperature of both softmax functions.

    Returns:
        `[B]`, 0 or more.
    """
    return kl(full / tau, foreground / tau).clamp_min(0)  # rounding may give a tiny negative number


def gaze_on_object(heat: Heat, masks: Masks) -> PerImage:
    """Return the share of the heat map on the foreground ("energy inside the mask"), in [0, 1].

    Args:
        heat: `[B, grid, grid]` result of `gaze`.
        masks: `[B, 1, S, S]` foreground of the same views.

    Returns:
        `[B]`.
    """
    share = F.adaptive_avg_pool2d(masks, heat.shape[-1])[:, 0]
    return (heat * share).sum(dim=(1, 2))


def lift(heat: Heat, masks: Masks) -> PerImage:
    """Return the energy inside the mask divided by the mask's area; 1 if the gaze ignores the object.

    A large object gets a large share of any heat map; this ratio removes the effect. Arguments as for
    `gaze_on_object`.

    Returns:
        `[B]`; NaN without foreground.
    """
    share = area(masks)
    return torch.where(share > 0, gaze_on_object(heat, masks) / share, torch.nan)


def pointing(heat: Heat, masks: Masks) -> PerImage:
    """Return 1 if the maximum of the heat map lies on the object, else 0 (the pointing game).

    The heat map is resized to the picture by linear interpolation; of several maxima the first in
    reading order is used. Zhang et al. 2016, https://arxiv.org/abs/1608.00507, without their tolerance
    of 15 pixels. Arguments as for `gaze_on_object`.

    Returns:
        `[B]`; NaN without foreground.
    """
    fine, inside = _fine(heat, masks), masks[:, 0].flatten(1)
    hit = inside.gather(1, fine.argmax(dim=1, keepdim=True))[:, 0] > 0.5
    on_object = (hit & (fine.amax(dim=1) > 0)).to(heat.dtype)
    return torch.where(area(masks) > 0, on_object, torch.nan)


def top_overlap(heat: Heat, masks: Masks) -> PerImage:
    """Return IoU of the mask and an equal number of pixels with the highest heat.

    The heat map is resized to the picture by linear interpolation; pixels with heat 0 never count.
    Arguments as for `gaze_on_object`.

    Returns:
        `[B]` in [0, 1]; NaN without foreground.
    """
    fine, inside = _fine(heat, masks), masks[:, 0].flatten(1) > 0.5
    order = fine.argsort(dim=1, descending=True, stable=True)
    positions = torch.arange(fine.shape[1], device=fine.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, positions)
    size = inside.sum(dim=1, keepdim=True)
    top = (rank < size) & (fine > 0)
    common, either = (top & inside).sum(dim=1), (top | inside).sum(dim=1)
    return torch.where(size[:, 0] > 0, common / either, torch.nan).to(heat.dtype)


def _fine(heat: Heat, masks: Masks) -> Float[Tensor, "batch pixels"]:
    """Return the heat map at each pixel."""
    return F.interpolate(heat[:, None], masks.shape[-2:], mode="bilinear", align_corners=False).flatten(1)
