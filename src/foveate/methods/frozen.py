"""Frozen features: features of a view that training does not change. Methods declare them here.

A bank stores such features by their `FeatureSpec`, so that all methods and runs with equal specs share
them. Other features are encoded in each step.
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
from foveate.foreground.views import Fill, area, background_view, crop_view, foreground_view
from foveate.methods.base import Method, Wrapper, encode_pictures
from foveate.methods.capabilities import ImageAdapter, capability, walk
from foveate.types import Batch, FeatureSpec, ImageFeatures, Images, Masks, Scalar

CLIP = "clip"
"""The unchanged image tower, in a `FeatureSpec`."""

Side = Literal["whole", "foreground", "background", "exchanged", "crop"]


@dataclass(frozen=True)
class Frozen:
    """A frozen feature.

    Attributes:
        spec: Key of the feature; features with equal keys are encoded once.
        encode: Function from pictures to raw features; None for the foreground's share of the view,
            which needs no tower.
        side: Side of the view to encode.
        fill: Replacement of the other side's pixels.
        boxed: Whether the box around the mask counts as the foreground.
    """

    spec: FeatureSpec
    encode: Callable[[Images], ImageFeatures] | None
    side: Side = "whole"
    fill: Fill = "mean"
    boxed: bool = False

    def of(self, side: Side, fill: Fill, *, boxed: bool = False) -> "Frozen":
        """Return the feature of one side of the view, from the same tower."""
        what = f"{self.spec.what}, {side}, {fill}{', box' if boxed else ''}"
        return Frozen(replace(self.spec, what=what, masked=True), self.encode, side, fill, boxed)

    def exchanged(self) -> "Frozen":
        """Return the same tower's feature of the view with its object on another picture's ground."""
        spec = replace(self.spec, what=f"{self.spec.what}, exchanged", masked=True, exchanged=True)
        return Frozen(spec, self.encode, "exchanged")

    def cropped(self) -> "Frozen":
        """Return the same tower's feature of a square around the view's object, see `crop_view`."""
        spec = replace(self.spec, what=f"{self.spec.what}, crop", masked=True)
        return Frozen(spec, self.encode, "crop")


class FrozenFeatures(Method):
    """Declares the frozen features that its training needs, by name.

    A method without it needs "image", its image tower's feature of the whole view, if the tower is not
    tuned.
    """

    @abstractmethod
    def frozen(self) -> dict[str, Frozen]:
        """Return the frozen features; `Batch.frozen` has them in each call of `forward` and `losses`.

        `forward` uses "image". Called before a training; a bank stores the features named here.
        """


def frozen_features(method: Method) -> dict[str, Frozen]:
    """Return the frozen features that a method's training needs, by name."""
    if isinstance(method, FrozenFeatures):
        return method.frozen()
    if isinstance(method, Wrapper):
        return frozen_features(method.host)
    return {} if method.tunes_vision else {"image": frozen_image(method)}


def frozen_specs(method: Method) -> dict[str, FeatureSpec]:
    """Return the specs of the features that a bank must hold for a method's training, by name."""
    return {name: feature.spec for name, feature in frozen_features(method).items()}


def frozen_image(method: Method) -> Frozen:
    """Return the image tower's feature of the whole view, for a method that does not tune the tower."""
    if capability(method, ImageAdapter):
        return frozen_clip(method.clip)  # the input of its learned map
    return Frozen(image_spec(method), method.encode_images)


def frozen_clip(clip: Clip) -> Frozen:
    """Return the unchanged CLIP's feature of the whole view."""
    return Frozen(clip_spec(clip), partial(encode_pictures, clip))


def frozen_area(*, boxed: bool = False) -> Frozen:
    """Return the foreground's share of the view, `[1, B, 1]`."""
    what = f"area of the view{', box' if boxed else ''}"
    return Frozen(FeatureSpec(what, 1, 1, masked=True), None, boxed=boxed)


def image_spec(method: Method) -> FeatureSpec:
    """Return the spec of `encode_images`: CLIP's own tower, or the method's tower in its current state."""
    *_, backbone = walk(method)
    what = CLIP if backbone.sees_as_clip else backbone.digest()
    return FeatureSpec(what, len(backbone.head_weights), backbone.clip.config.embed)


def clip_spec(clip: Clip) -> FeatureSpec:
    """Return the spec of `encode_pictures`."""
    return FeatureSpec(CLIP, 1, clip.config.embed)


@torch.no_grad()
def extract(method: Method, batch: Batch) -> dict[str, Tensor]:
    """Compute the frozen features of a batch that a method's training needs.

    On a GPU, all inputs of one tower go through it in one pass, because a few pictures do not fill the
    GPU. On a CPU each view has its own pass: this takes no longer, and the bits do not depend on what a
    bank holds.

    Args:
        method: The method with its declared features.
        batch: The batch; features in `frozen` are not computed.

    Raises:
        InputError: Foregrounds are needed, but the batch has no masks.
    """
    requested = {
        name: feature for name, feature in frozen_features(method).items() if name not in batch.frozen
    }
    inputs: dict[object, dict[Frozen, Images]] = defaultdict(dict)
    results: dict[FeatureSpec, Tensor] = {}
    for feature in {feature.spec: feature for feature in requested.values()}.values():
        if feature.encode is None:
            results[feature.spec] = area(_masks(method, batch, feature))[None, :, None]
        else:
            inputs[feature.encode][feature] = _view(method, batch, feature)
    for views in inputs.values():
        in_one_pass = method.clip.logit_scale.is_cuda
        for group in [list(views.items())] if in_one_pass else [[view] for view in views.items()]:
            encode = group[0][0].encode
            assert encode is not None
            features = encode(torch.cat([images for _, images in group]) if len(group) > 1 else group[0][1])
            parts = features.tensor_split(len(group), dim=1)
            results |= {feature.spec: part for (feature, _), part in zip(group, parts, strict=True)}
    return {name: results[feature.spec] for name, feature in requested.items()}


def training_losses(method: Method, batch: Batch) -> dict[str, Scalar]:
    """Return the named loss terms of a training batch, with gradient to the learned tensors.

    Args:
        method: The method with its classes set.
        batch: The batch; missing frozen features are computed.
    """
    full_batch = replace(batch, frozen=batch.frozen | extract(method, batch))
    return method.losses(method(full_batch), full_batch)


def boxes_around(masks: Masks) -> Masks:
    """Return the box around each mask's foreground; an empty mask stays empty."""
    inside = masks > 0
    rows, columns = inside.any(dim=3, keepdim=True), inside.any(dim=2, keepdim=True)
    return (_spanned(rows, 2) & _spanned(columns, 3)).to(masks.dtype)


def _spanned(present: Bool[Tensor, "..."], dim: int) -> Bool[Tensor, "..."]:
    """Return whether each position lies between the first and the last true one."""
    before = present.int().cummax(dim).values
    after = present.int().flip(dim).cummax(dim).values.flip(dim)
    return (before & after) > 0


def _masks(method: Method, batch: Batch, feature: Frozen) -> Masks:
    if batch.masks is None:
        raise InputError(
            f"{method.name} learns from foreground masks and there are none: give --masks FOLDER"
        )
    return boxes_around(batch.masks) if feature.boxed else batch.masks


def _view(method: Method, batch: Batch, feature: Frozen) -> Images:
    if feature.side == "whole":
        return batch.images
    if feature.side == "exchanged":
        if batch.exchanged is None:
            raise ValueError(f"{method.name} needs exchanged views: batches(..., exchanged=True) brings them")
        return batch.exchanged
    if feature.side == "crop":
        return crop_view(batch.images, _masks(method, batch, feature))
    config, cut = method.clip.config, foreground_view if feature.side == "foreground" else background_view
    return cut(batch.images, _masks(method, batch, feature), feature.fill, config.mean, config.std)
