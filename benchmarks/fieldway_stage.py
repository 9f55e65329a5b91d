"""The stage of FVG-PT the field's way: files read and all frozen towers asked again at each step."""

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
    """Decode pictures and their masks, and cut a view of each.

    Args:
        files: Picture and mask of each.
        views: What to cut; drawn by the caller, so that both ways can see the same.
        mean: Of the tower's pictures.
        std: Likewise.

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
    """The stage over a tuned backbone; its arithmetic (`Guidance`) is ours, how it is fed is not.

    Its authors have released no trainer. How it goes about things is read off their backbones' trainers:
    nothing is kept from one step to the next.

    Args:
        backbone: Tuned, the field's way.
        ours: Foveate's stage over the same backbone; the guidance starts from a copy of its.
        prior: The CLIP that is asked for the prior; None takes the backbone's, and its answers to the whole
            picture where the backbone leaves pictures alone; its texts are then encoded once.
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
        """Ask the backbone about x and x ⊙ m, one after the other, and CLIP about x."""
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
            told_area=masks.mean(dim=(1, 2, 3)),
        )

    def align(self, features: Features) -> Tensor:
        """Return the backbone's answers of base classes, its heads fused."""
        text = unit(features.text)
        by_head = [self.backbone.clip.scale * unit(head) @ text.t() for head in features.image]
        return sum((w * z for w, z in zip(self.weights, by_head, strict=True)), torch.zeros_like(by_head[0]))

    def loss(self, images: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
        """Return what a step minimises."""
        terms = self.guidance.losses(self.views(images, masks), labels, self.align)
        return torch.stack(list(terms.values())).sum()

    def step(self, images: Tensor, masks: Tensor, labels: Tensor) -> float:
        """Return the loss of a step, its gradients left in the guidance."""
        self.guidance.zero_grad()
        loss = self.loss(images, masks, labels)
        loss.backward()
        return loss.item()

    def _heads(self, images: Tensor) -> Tensor:
        """Return `[H, B, D]`."""
        if isinstance(self.backbone, FieldMmrl):
            return torch.stack(self.backbone.both_pictures(images))
        return self.backbone.pictures(images)[None]

    def _prior(self, images: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
        """Return CLIP's features of the pictures and of the sentences."""
        if self.prior is not None:
            return self.prior.pictures(images), self.prior.sentences(self.sentences)
        if self._kept is None:
            self._kept = self.backbone.clip.sentences(self.sentences)
        return (self.backbone.clip.pictures(images) if self.tunes_vision else whole), self._kept
