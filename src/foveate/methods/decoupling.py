"""From a batch to its foreground and its background: what DAPT shows to its host besides the whole picture.

- [0]: Decouple before Align: Visual Disentanglement Enhances Prompt Tuning, T-PAMI 47(11), 2025,
  https://arxiv.org/abs/2508.00395
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from foveate.errors import InputError
from foveate.foreground.views import area, background_view, foreground_view
from foveate.methods.base import Method
from foveate.methods.cues import Gaze, boxes_around
from foveate.methods.dapt_config import DaptConfig
from foveate.types import Batch, ImageFeatures, Images, Masks, Origin, PerImage

Side = Literal["foreground", "background"]
SIDES: tuple[Side, ...] = ("foreground", "background")


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
        config: Settings of DAPT.
    """

    def __init__(self, host: Method, config: DaptConfig):
        self.host, self.config = host, config
        by_gaze = config.cue == "gaze"
        scaling = config.cam_threshold, config.cam_scale
        self.gaze = Gaze(host, config.refresh, config.cam_source, *scaling) if by_gaze else None

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
        every = self.config.official_quirks  # the released code takes blank pictures as they are
        usable = torch.ones_like(share, dtype=torch.bool) if every else (share > 0) & (share < 1)
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
        return boxes_around(batch.masks) if self.config.cue == "box" else batch.masks

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

    @property
    def is_held(self) -> bool:
        """Whether a bank may hold both sides: the image tower is frozen, and so is what makes the cue."""
        weights = self.config.foreground_weight, self.config.background_weight
        return not self.host.tunes_vision and self.gaze is None and any(weights)

    @torch.no_grad()
    def see(self, batch: Batch) -> dict[str, Tensor]:
        """Return raw features of both sides `[1, B, D]`, and `area` `[1, B, 1]`; for a bank.

        Raises:
            InputError: The batch has no masks.
        """
        masks = self.foregrounds(batch)
        assert masks is not None
        found = {"area": area(masks)[None, :, None]}
        for side in SIDES:
            if side not in batch.frozen:
                found[side] = self.host.encode_images(self._cut(side, batch.images, masks))
        return found

    def origins(self) -> dict[str, Origin]:
        """Return where these come from."""
        image, box = self.host.vision_origin(), ", box" if self.config.cue == "box" else ""
        found = {"area": Origin(f"area of the view{box}", 1, 1, masked=True)}
        for side in SIDES:
            found[side] = replace(image, what=f"{image.what}, {side}, {self.config.fill}{box}", masked=True)
        return found

    def _cut(self, side: Side, images: Images, masks: Masks) -> Images:
        size, cut = self.host.clip.config, foreground_view if side == "foreground" else background_view
        return cut(images, masks, self.config.fill, size.mean, size.std)
