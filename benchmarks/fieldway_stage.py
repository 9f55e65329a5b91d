"""Reference implementation of FVG-PT's stage: each step reads files and runs all frozen towers."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fieldway import FieldMethod, FieldMmrl, unit
from fieldway_towers import FieldClip
from foveate.data.transforms import View
from foveate.methods.fvgpt import FvgPt
from foveate.methods.guidance import Views
from foveate.types import Features


def read_views(
    files: Sequence[tuple[Path, Path]], views: Sequence[View], mean: Sequence[float], std: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Decode pictures and masks, and cut a view of each.

    Args:
        files: Picture file and mask file of each sample.
        views: The views, drawn by the caller, so that both implementations use the same.
        mean: Channel means of the tower.
        std: Channel standard deviations of the tower.

    Returns:
        Normalised pictures `[B, 3, S, S]` and masks `[B, 1, S, S]`.
    """
    images, masks = [], []
    for (photo, mask), view in zip(files, views, strict=True):
        with Image.open(photo) as opened:
            picture = opened.convert("RGB")
        with Image.open(mask) as opened:
            cover = opened.convert("RGB")
        if cover.size != picture.size:
            cover = cover.resize(picture.size, Image.Resampling.NEAREST)
        pixels = _tensor(_cut(picture, view, Image.Resampling.BICUBIC))
        images.append((pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))
        shares = _tensor(_cut(cover, view, Image.Resampling.NEAREST)).mean(dim=0, keepdim=True)
        masks.append((shares > 0.5).float())
    return torch.stack(images), torch.stack(masks)


def _cut(picture: Image.Image, view: View, resampling: Image.Resampling) -> Image.Image:
    cut = picture.crop(view.crop).resize((view.side, view.side), resampling)
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else cut


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


class FieldFvgPt:
    """The stage over a tuned backbone: `Guidance` is foveate's, the computation of its inputs is not.

    The authors have released no trainer. The procedure follows the trainers of their backbones: nothing
    is kept between steps.

    Args:
        backbone: Tuned backbone in the reference implementation.
        ours: Foveate's stage over the same backbone; the guidance starts from a copy of its guidance.
        prior: CLIP for the prior. None uses the backbone's CLIP, and its features of the whole picture
            if the backbone leaves the image tower unchanged; the prior's texts are then encoded once.
    """

    def __init__(self, backbone: FieldMethod, ours: FvgPt, prior: FieldClip | None = None):
        self.backbone, self.prior = backbone, prior
        self.guidance = copy.deepcopy(ours.guidance)
        self.sentences = [f"a photo of a {name}." for name in backbone.names]
        self.weights = ours.head_weights
        self.tunes_vision = ours.backbone.tunes_vision
        self._kept: Tensor | None = None

    @torch.no_grad()
    def views(self, images: Tensor, masks: Tensor) -> Views:
        """Run the backbone on x and on x ⊙ m, one after the other, and CLIP on x."""
        text = self.backbone.texts()
        whole, foreground = self._heads(images), self._heads(images * masks)
        clip_image, clip_text = self._prior(images, whole[0])
        return Views(
            features=Features(whole, text),
            full=self.align(Features(whole, text)),
            foreground=self.align(Features(foreground, text)),
            new=self.backbone.clip.scale * unit(whole[0]) @ unit(text).t(),
            clip=self.backbone.clip.scale * unit(clip_image) @ unit(clip_text).t(),
            area=masks.mean(dim=(1, 2, 3)),
            gate_area=masks.mean(dim=(1, 2, 3)),
        )

    def align(self, features: Features) -> Tensor:
        """Return the backbone's logits of base classes, with its heads fused."""
        text = unit(features.text)
        by_head = [self.backbone.clip.scale * unit(head) @ text.t() for head in features.image]
        return sum((w * z for w, z in zip(self.weights, by_head, strict=True)), torch.zeros_like(by_head[0]))

    def loss(self, images: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a step."""
        terms = self.guidance.losses(self.views(images, masks), labels, self.align)
        return torch.stack(list(terms.values())).sum()

    def step(self, images: Tensor, masks: Tensor, labels: Tensor) -> float:
        """Return the loss of a step; gradients stay in the guidance."""
        self.guidance.zero_grad()
        loss = self.loss(images, masks, labels)
        loss.backward()
        return loss.item()

    def _heads(self, images: Tensor) -> Tensor:
        """Return features `[H, B, D]`."""
        if isinstance(self.backbone, FieldMmrl):
            return torch.stack(self.backbone.both_pictures(images))
        return self.backbone.pictures(images)[None]

    def _prior(self, images: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
        """Return CLIP's features of the pictures and of the templates."""
        if self.prior is not None:
            return self.prior.pictures(images), self.prior.sentences(self.sentences)
        if self._kept is None:
            self._kept = self.backbone.clip.sentences(self.sentences)
        return (self.backbone.clip.pictures(images) if self.tunes_vision else whole), self._kept
