"""Frozen features: what training cannot change of a view. Methods declare them; one function computes them.

A bank keeps such features by their `FeatureSpec`, so that all methods and runs that declare equal ones share
them. What is not declared is encoded in each step.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.foreground.views import Fill, area, background_view, foreground_view
from foveate.methods.base import Method, Wrapper, encode_pictures
from foveate.methods.capabilities import ImageAdapter, capability, walk
from foveate.types import Batch, FeatureSpec, ImageFeatures, Images, Masks, Scalar

CLIP = "clip"
"""The untouched image tower, in a `FeatureSpec`."""

Side = Literal["whole", "foreground", "background", "exchanged"]


@dataclass(frozen=True)
class Frozen:
    """A frozen feature.

    Attributes:
        spec: What it is of; equal ones are encoded once.
        encode: Pictures to raw features; None for the foreground's share of the view, which no tower tells.
        side: What of the view is encoded.
        fill: What replaces the pixels that are left out.
        boxed: Whether the box around the mask counts as the foreground.
    """

    spec: FeatureSpec
    encode: Callable[[Images], ImageFeatures] | None
    side: Side = "whole"
    fill: Fill = "mean"
    boxed: bool = False

    def of(self, side: Side, fill: Fill, *, boxed: bool = False) -> "Frozen":
        """Return the same tower's feature of one side of the view."""
        what = f"{self.spec.what}, {side}, {fill}{', box' if boxed else ''}"
        return Frozen(replace(self.spec, what=what, masked=True), self.encode, side, fill, boxed)

    def exchanged(self) -> "Frozen":
        """Return the same tower's feature of the view with its object on another picture's ground."""
        spec = replace(self.spec, what=f"{self.spec.what}, exchanged", masked=True, exchanged=True)
        return Frozen(spec, self.encode, "exchanged")


class FrozenFeatures(Method):
    """Declares the frozen features that its training needs, by name.

    Without it a method needs "image", what its image tower says of the whole view, where nothing tunes that.
    """

    @abstractmethod
    def frozen(self) -> dict[str, Frozen]:
        """Return them. They stand in `Batch.frozen` whenever `forward` and `losses` are called.

        "image" is taken by `forward`. Asked before a training; a bank holds what is named here.
        """


def frozen_features(method: Method) -> dict[str, Frozen]:
    """Return the frozen features that a method's training needs, by name."""
    if isinstance(method, FrozenFeatures):
        return method.frozen()
    if isinstance(method, Wrapper):
        return frozen_features(method.host)
    return {} if method.tunes_vision else {"image": frozen_image(method)}


def frozen_specs(method: Method) -> dict[str, FeatureSpec]:
    """Return what a bank has to hold for a method's training, by name."""
    return {name: one.spec for name, one in frozen_features(method).items()}


def frozen_image(method: Method) -> Frozen:
    """Return what a method's image tower says of the whole view, where nothing tunes that."""
    if capability(method, ImageAdapter):
        return frozen_clip(method.clip)  # what its learned map reads
    return Frozen(image_spec(method), method.encode_images)


def frozen_clip(clip: Clip) -> Frozen:
    """Return what the untouched CLIP says of the whole view."""
    return Frozen(clip_spec(clip), partial(encode_pictures, clip))


def frozen_area(*, boxed: bool = False) -> Frozen:
    """Return the foreground's share of the view, `[1, B, 1]`."""
    what = f"area of the view{', box' if boxed else ''}"
    return Frozen(FeatureSpec(what, 1, 1, masked=True), None, boxed=boxed)


def image_spec(method: Method) -> FeatureSpec:
    """Return what features of `encode_images` are of: CLIP's own tower, or another one as it is now."""
    *_, core = walk(method)
    what = CLIP if core.sees_as_clip else core.digest()
    return FeatureSpec(what, len(core.head_weights), core.clip.config.embed)


def clip_spec(clip: Clip) -> FeatureSpec:
    """Return what features of `encode_pictures` are of."""
    return FeatureSpec(CLIP, 1, clip.config.embed)


@torch.no_grad()
def extract(method: Method, batch: Batch) -> dict[str, Tensor]:
    """Compute the frozen features that a method's training needs of a batch.

    On a GPU, which a few pictures do not fill, all that one tower is asked goes through it in one pass. On a
    CPU each view goes alone: that takes no longer, and the bits do not depend on which of them a bank holds.

    Args:
        method: Declares them.
        batch: What it brings in `frozen` is left out.

    Raises:
        InputError: Foregrounds are needed, and the batch has no masks.
    """
    wanted = {name: one for name, one in frozen_features(method).items() if name not in batch.frozen}
    shown: dict[object, dict[Frozen, Images]] = defaultdict(dict)
    made: dict[FeatureSpec, Tensor] = {}
    for one in {one.spec: one for one in wanted.values()}.values():
        if one.encode is None:
            made[one.spec] = area(_masks(method, batch, one))[None, :, None]
        else:
            shown[one.encode][one] = _view(method, batch, one)
    for views in shown.values():
        together = method.clip.logit_scale.is_cuda
        for some in [list(views.items())] if together else [[view] for view in views.items()]:
            encode = some[0][0].encode
            assert encode is not None
            features = encode(torch.cat([images for _, images in some]) if len(some) > 1 else some[0][1])
            parts = features.tensor_split(len(some), dim=1)
            made |= {one.spec: part for (one, _), part in zip(some, parts, strict=True)}
    return {name: made[one.spec] for name, one in wanted.items()}


def training_losses(method: Method, batch: Batch) -> dict[str, Scalar]:
    """Return the named terms of a training batch, with gradient to what is learned.

    Args:
        method: Its classes set.
        batch: The frozen features that it lacks are computed.
    """
    whole = replace(batch, frozen=batch.frozen | extract(method, batch))
    return method.losses(method(whole), whole)


def boxes_around(masks: Masks) -> Masks:
    """Return the box around each mask's foreground; an empty mask stays empty."""
    inside = masks > 0
    rows, columns = inside.any(dim=3, keepdim=True), inside.any(dim=2, keepdim=True)
    return (_spanned(rows, 2) & _spanned(columns, 3)).to(masks.dtype)


def _spanned(there: Bool[Tensor, "..."], dim: int) -> Bool[Tensor, "..."]:
    """Return whether each place lies between the first and the last that is there."""
    before = there.int().cummax(dim).values
    behind = there.int().flip(dim).cummax(dim).values.flip(dim)
    return (before & behind) > 0


def _masks(method: Method, batch: Batch, one: Frozen) -> Masks:
    if batch.masks is None:
        raise InputError(
            f"{method.name} learns from foreground masks and there are none: give --masks FOLDER"
        )
    return boxes_around(batch.masks) if one.boxed else batch.masks


def _view(method: Method, batch: Batch, one: Frozen) -> Images:
    if one.side == "whole":
        return batch.images
    if one.side == "exchanged":
        if batch.exchanged is None:
            raise ValueError(f"{method.name} needs exchanged views: batches(..., exchanged=True) brings them")
        return batch.exchanged
    size, cut = method.clip.config, foreground_view if one.side == "foreground" else background_view
    return cut(batch.images, _masks(method, batch, one), one.fill, size.mean, size.std)
