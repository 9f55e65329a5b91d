"""From a batch to its foreground and its background: what DAPT shows to its host besides the whole picture.

What tells the foreground of a training view is its mask, the box around it, or the host's own gaze: Grad-CAM
([1], Eq. 1 and 2) of the label's logit at the last block of the image tower, on the very view that is trained
on. With a the activation that enters the block's attention and g the gradient there, patch i gets
ReLU(Σ_c mean_j(g_jc) · a_ic).

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
from foveate.methods.block_gradients import passes_at
from foveate.methods.capabilities import first_patch
from foveate.methods.configs import Refresh, Scaling, Source
from foveate.methods.frozen import Frozen, boxes_around, frozen_area, frozen_image
from foveate.methods.zeroshot import ZeroShot
from foveate.types import Batch, ImageFeatures, Images, Labels, Masks, PerImage

Side = Literal["foreground", "background"]
SIDES: tuple[Side, ...] = ("foreground", "background")

Maps = Float[Tensor, "batch grid grid"]


@dataclass(frozen=True)
class Decoupled:
    """A batch whose foregrounds are known.

    Attributes:
        batch: With what frozen towers say of it.
        masks: `[B, 1, S, S]` foregrounds; None where a bank holds the features of both sides.
        share: `[B]` the foreground's share of each view.
        usable: `[B]` which views DAPT's terms are for: those with both sides.
    """

    batch: Batch
    masks: Masks | None
    share: PerImage
    usable: Bool[Tensor, " batch"]


class Decoupler:
    """Cuts views apart by the cue, and asks the host about the parts.

    Args:
        host: The method that is being tuned.
        gaze: Where it looks, if that is the cue; else masks are.
        boxed: Whether the box around a mask counts as the foreground.
        fill: What replaces removed pixels.
        use_all: Whether views without a foreground, or with nothing else, are used as they are.
    """

    def __init__(self, host: Method, gaze: "Gaze | None", fill: Fill, *, boxed: bool, use_all: bool):
        self.host, self.gaze, self._boxed, self._use_all = host, gaze, boxed, use_all
        self._fill: Fill = fill

    def decouple(self, batch: Batch, *, needed: bool) -> Decoupled | None:
        """Return the batch with its foregrounds.

        Args:
            batch: With what frozen towers say of it.
            needed: Whether there are terms that want them. If not, they are looked at only where that costs
                nothing: to be counted.

        Raises:
            InputError: They are needed, and there are no masks.
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
        """Return the foreground of each view, as the cue has it; None where it is not needed nor for free.

        Raises:
            InputError: It is needed, and there are no masks.
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
        """Return the host's raw features `[H, U, D]` of one side of the usable views.

        Args:
            side: Which one.
            d: The views.
            grad: Whether the host learns from it.
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
        """Declare features of both sides, and `area`: a frozen image tower says the same of them always."""
        image = frozen_image(self.host)
        sides = {side: image.of(side, self._fill, boxed=self._boxed) for side in SIDES}
        return {"area": frozen_area(boxed=self._boxed), **sides}

    def _cut(self, side: Side, images: Images, masks: Masks) -> Images:
        size, cut = self.host.clip.config, foreground_view if side == "foreground" else background_view
        return cut(images, masks, self._fill, size.mean, size.std)


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
    start = first_patch(method)
    patches = slice(start, start + vision.grid**2)
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
