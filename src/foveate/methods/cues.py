"""What tells DAPT the foreground of a training view: a mask, the box around it, or the model's own gaze.

The gaze is Grad-CAM ([1], Eq. 1 and 2) of the label's logit at the last block of the image tower, on the very
view that is trained on: the same crop, the same flip. With a the activation that enters the block's attention
and g the gradient there, patch i gets ReLU(Σ_c mean_j(g_jc) · a_ic).

- [0]: Decouple before Align: Visual Disentanglement Enhances Prompt Tuning, 2025,
  https://arxiv.org/abs/2508.00395
- [1]: Grad-CAM, Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391
"""

import copy
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from foveate.methods.base import Method
from foveate.methods.block_gradients import passes_at
from foveate.methods.zeroshot import ZeroShot
from foveate.types import Images, Labels, Masks, PerImage

Cue = Literal["mask", "box", "gaze"]
Refresh = Literal["every_step", "every_epoch", "once"]
Source = Literal["current", "frozen"]
Scaling = Literal["image", "batch"]

Maps = Float[Tensor, "batch grid grid"]


def boxes_around(masks: Masks) -> Masks:
    """Return the box around each mask's foreground; an empty mask stays empty."""
    inside = masks > 0
    return (_spanned(inside.any(dim=3, keepdim=True), 2) & _spanned(inside.any(dim=2, keepdim=True), 3)).to(
        masks.dtype
    )


def _spanned(there: Bool[Tensor, "..."], dim: int) -> Bool[Tensor, "..."]:
    """Return whether each place lies between the first and the last that is there."""
    before = there.int().cummax(dim).values
    behind = there.int().flip(dim).cummax(dim).values.flip(dim)
    return (before & behind) > 0


class Gaze:
    """Where a host looks for the label of a view, as a mask.

    Args:
        host: The method that is being tuned.
        refresh: Whose gaze it is: the host's at each step, at each epoch's start, or before training.
        source: "frozen" takes zero-shot CLIP's gaze instead.
        threshold: Share of the highest value from which on a pixel is foreground; None takes the map itself.
        scaling: Maps to [0, 1], each on its own from its least to its highest value; or all divided by the
            highest of the batch, as in the released code.
    """

    def __init__(
        self, host: Method, refresh: Refresh, source: Source, threshold: float | None, scaling: Scaling
    ):
        self.refresh, self.source = refresh, source
        self.threshold: float | None = threshold
        self.scaling: Scaling = scaling
        self._host = host
        self._looker: Method | None = None

    def classes_set(self) -> None:
        """Remember the host before it is trained, where that is asked for."""
        if self.source == "current" and self.refresh == "once" and self._looker is None:
            self._looker = _still(self._host)

    def begin_epoch(self) -> None:
        """Remember the host as it is, where that is asked for."""
        if self.source == "current" and self.refresh == "every_epoch":
            self._looker = _still(self._host)
        elif self._looker is not None:  # it is no part of the method, and stays behind when that is moved
            self._looker.to(self._host.clip.logit_scale.device)

    def masks(self, images: Images, labels: Labels) -> Masks:
        """Return the foreground of views, without gradient; all 0 where no patch speaks for the label."""
        maps = activation_maps(self._asked(), images, labels)
        return as_masks(maps, images.shape[-1], self.threshold, self.scaling)

    def _asked(self) -> Method:
        if self.source == "current" and self.refresh == "every_step":
            return self._host
        if self._looker is None:
            self._looker = ZeroShot(self._host.clip) if self.source == "frozen" else _still(self._host)
        if (self._looker.names, self._looker.template) != (self._host.names, self._host.template):
            self._looker.set_classes(self._host.names, self._host.template)
        return self._looker


def activation_maps(method: Method, images: Images, labels: Labels) -> Maps:
    """Return Grad-CAM of the labels' logits on the patches, what is negative cut off; see the module."""

    def answer() -> PerImage:
        logits = method.logits(method.features(images, "base"), "base")
        return logits.gather(1, labels[:, None])[:, 0]

    vision = method.clip.vision
    once, *_ = passes_at(method, vision.blocks[-1], answer)
    patches = slice(method.first_patch, method.first_patch + vision.grid**2)
    g, a = once.gradient[:, patches], once.activation[:, patches]
    return (g.mean(dim=1, keepdim=True) * a).sum(dim=-1).clamp_min(0).view(-1, vision.grid, vision.grid)


def as_masks(maps: Maps, side: int, threshold: float | None, scaling: Scaling) -> Masks:
    """Return maps brought to the size of views (linearly), scaled to [0, 1] and cut at the threshold.

    Args:
        maps: Not negative.
        side: Of the square views, in pixels.
        threshold: See `Gaze`.
        scaling: Likewise.
    """
    fine = F.interpolate(maps[:, None], (side, side), mode="bilinear", align_corners=True)
    if scaling == "batch":
        least, highest = torch.zeros_like(fine[:1]), fine.amax().expand_as(fine[:1])
    else:
        least, highest = fine.amin(dim=(2, 3), keepdim=True), fine.amax(dim=(2, 3), keepdim=True)
    span = highest - least
    scaled = torch.where(span > 0, (fine - least) / torch.where(span > 0, span, 1), 0)
    return scaled if threshold is None else (scaled >= threshold).to(scaled.dtype)


def _still(host: Method) -> Method:
    """Return a copy of a method on the same towers, with learned tensors that nothing changes."""
    return copy.deepcopy(host, {id(host.clip): host.clip}).requires_grad_(False)
