"""Foreground and background views of a batch, for DAPT's terms.

The foreground of a training view comes from its mask, from the box around the mask, or from the host's
own gaze. The gaze is Grad-CAM ([1], Eq. 1 and 2) of the label's logit at the last block of the image
tower, on the same training view. With a the input of the block's attention and g its gradient, patch i
gets ReLU(Σ_c mean_j(g_jc) · a_ic).

- [0]: Decouple before Align: Visual Disentanglement Enhances Prompt Tuning, T-PAMI 47(11), 2025,
  https://arxiv.org/abs/2508.00395
- [1]: Grad-CAM, Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from foveate.errors import InputError
from foveate.foreground.views import Fill, area, background_view, foreground_view
from foveate.methods.base import Method
from foveate.methods.capabilities import first_patch
from foveate.methods.configs import Refresh, Scaling, Source
from foveate.methods.frozen import Frozen, boxes_around, frozen_area, frozen_image
from foveate.methods.layers import passes_at
from foveate.methods.zeroshot import ZeroShot
from foveate.types import Batch, ImageFeatures, Images, Labels, Masks, PerImage

Side = Literal["foreground", "background"]
SIDES: tuple[Side, ...] = ("foreground", "background")

Maps = Float[Tensor, "batch grid grid"]


@dataclass(frozen=True)
class Decoupled:
    """A batch with its foregrounds.

    Attributes:
        batch: The batch with its frozen features.
        masks: `[B, 1, S, S]` foregrounds; None if a bank holds the features of both sides.
        share: `[B]` share of the foreground in each view.
        usable: `[B]` whether DAPT's terms use a view: it has a foreground and a background.
    """

    batch: Batch
    masks: Masks | None
    share: PerImage
    usable: Bool[Tensor, " batch"]


class Decoupler:
    """Separates views into foreground and background, and encodes both with the host.

    Args:
        host: The method that is trained.
        gaze: Source of heat maps, if the cue is "gaze"; else masks are used.
        boxed: Whether the box around a mask counts as the foreground.
        fill: Replacement of removed pixels.
        use_all: Whether to use views with an empty foreground or background too.
    """

    def __init__(self, host: Method, gaze: "Gaze | None", fill: Fill, *, boxed: bool, use_all: bool):
        self.host, self.gaze, self._boxed, self._use_all = host, gaze, boxed, use_all
        self._fill: Fill = fill

    def decouple(self, batch: Batch, *, needed: bool) -> Decoupled | None:
        """Return the batch with its foregrounds.

        Args:
            batch: The batch with its frozen features.
            needed: Whether a loss term uses the foregrounds. If not, they are computed only if they cost
                nothing, for counts.

        Raises:
            InputError: Foregrounds are needed, and there are no masks.
        """
        masks: Masks | None = None
        if "area" in batch.frozen:
            share = batch.frozen["area"][0, :, 0]
        else:
            masks = self.foregrounds(batch, needed=needed)
            if masks is None:
                return None
            share = area(masks)
        usable = torch.ones_like(share, dtype=torch.bool) if self._use_all else (share > 0) & (share < 1)
        return Decoupled(batch, masks, share, usable)

    def foregrounds(self, batch: Batch, *, needed: bool = True) -> Masks | None:
        """Return the foreground of each view by the cue; None if not needed and not available at no cost.

        Raises:
            InputError: Foregrounds are needed, and there are no masks.
        """
        if self.gaze is not None:
            return self.gaze.masks(batch.images, batch.labels) if needed else None
        if batch.masks is None:
            if needed:
                raise InputError(
                    "dapt learns from foreground masks and there are none: give --masks FOLDER, or take"
                    " --dapt.cue gaze"
                )
            return None
        return boxes_around(batch.masks) if self._boxed else batch.masks

    def features(self, side: Side, d: Decoupled, *, grad: bool = False) -> ImageFeatures:
        """Return the host's raw features `[H, U, D]` for one side of the usable views.

        Args:
            side: Foreground or background.
            d: The views.
            grad: Whether to compute gradients.
        """
        if side in d.batch.frozen:
            return d.batch.frozen[side][:, d.usable]
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            return self.host.encode_images(self.view(side, d))

    def view(self, side: Side, d: Decoupled) -> Images:
        """Return one side of the usable views as pictures."""
        assert d.masks is not None
        return self._cut(side, d.batch.images[d.usable], d.masks[d.usable])

    def frozen(self) -> dict[str, Frozen]:
        """Declare features of both sides, and `area`, for a frozen image tower."""
        image = frozen_image(self.host)
        sides = {side: image.of(side, self._fill, boxed=self._boxed) for side in SIDES}
        return {"area": frozen_area(boxed=self._boxed), **sides}

    def _cut(self, side: Side, images: Images, masks: Masks) -> Images:
        config, cut = self.host.clip.config, foreground_view if side == "foreground" else background_view
        return cut(images, masks, self._fill, config.mean, config.std)


class Gaze:
    """Heat maps of a host for the labels of views, as masks.

    Args:
        host: The method that is trained.
        refresh: When the host's state is taken: at each step, at the start of each epoch, or before training.
        source: "frozen" uses zero-shot CLIP instead of the host.
        threshold: Share of the maximum from which a pixel is foreground; None uses the map as a soft
            mask.
        scaling: Scaling to [0, 1]: each map from its minimum to its maximum; or all maps divided by the
            maximum of the batch, as in the released code.
    """

    def __init__(
        self, host: Method, refresh: Refresh, source: Source, threshold: float | None, scaling: Scaling
    ):
        self.refresh, self.source = refresh, source
        self.threshold: float | None = threshold
        self.scaling: Scaling = scaling
        self._host = host
        self._gaze_method: Method | None = None

    def copy_before_training(self) -> None:
        """Copy the host before training, if `refresh` requires it."""
        if self.source == "current" and self.refresh == "once" and self._gaze_method is None:
            self._gaze_method = _frozen_copy(self._host)

    def begin_epoch(self) -> None:
        """Copy the host at the start of an epoch, if `refresh` requires it."""
        if self.source == "current" and self.refresh == "every_epoch":
            self._gaze_method = _frozen_copy(self._host)
        elif self._gaze_method is not None:  # the copy is no submodule, so it does not move with the method
            self._gaze_method.to(self._host.clip.logit_scale.device)

    def masks(self, images: Images, labels: Labels) -> Masks:
        """Return the foreground of views, without gradient; all 0 if no patch supports the label."""
        maps = activation_maps(self._current_method(), images, labels)
        return as_masks(maps, images.shape[-1], self.threshold, self.scaling)

    def _current_method(self) -> Method:
        if self.source == "current" and self.refresh == "every_step":
            return self._host
        if self._gaze_method is None:
            self._gaze_method = (
                ZeroShot(self._host.clip) if self.source == "frozen" else _frozen_copy(self._host)
            )
        if (self._gaze_method.names, self._gaze_method.template) != (self._host.names, self._host.template):
            self._gaze_method.set_classes(self._host.names, self._host.template)
        return self._gaze_method


def activation_maps(method: Method, images: Images, labels: Labels) -> Maps:
    """Return Grad-CAM of the labels' logits on the patches, clamped at 0; see the module."""

    def label_logits() -> PerImage:
        logits = method.logits(method.features(images, "base"), "base")
        return logits.gather(1, labels[:, None])[:, 0]

    vision = method.clip.vision
    first, *_ = passes_at(method, vision.blocks[-1], label_logits)
    start = first_patch(method)
    patches = slice(start, start + vision.grid**2)
    g, a = first.gradient[:, patches], first.activation[:, patches]
    return (g.mean(dim=1, keepdim=True) * a).sum(dim=-1).clamp_min(0).view(-1, vision.grid, vision.grid)


def as_masks(maps: Maps, side: int, threshold: float | None, scaling: Scaling) -> Masks:
    """Resize maps to views by linear interpolation, scale them to [0, 1] and apply the threshold.

    Args:
        maps: Non-negative maps.
        side: Side length of the square views, in pixels.
        threshold: See `Gaze`.
        scaling: See `Gaze`.
    """
    resized = F.interpolate(maps[:, None], (side, side), mode="bilinear", align_corners=True)
    if scaling == "batch":
        lowest, highest = torch.zeros_like(resized[:1]), resized.amax().expand_as(resized[:1])
    else:
        lowest, highest = resized.amin(dim=(2, 3), keepdim=True), resized.amax(dim=(2, 3), keepdim=True)
    span = highest - lowest
    scaled = torch.where(span > 0, (resized - lowest) / torch.where(span > 0, span, 1), 0)
    return scaled if threshold is None else (scaled >= threshold).to(scaled.dtype)


def _frozen_copy(host: Method) -> Method:
    """Return a copy of a method that shares the towers and has constant learned tensors."""
    return copy.deepcopy(host, {id(host.clip): host.clip}).requires_grad_(False)
