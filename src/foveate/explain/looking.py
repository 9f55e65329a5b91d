"""`gaze`: heat maps of a method, computed in one of three ways."""

from typing import Literal

import torch

from foveate.explain.gradcam import Target, class_activation
from foveate.explain.passes import Gaze, Heat
from foveate.explain.rollout import mean_share, rolled_out
from foveate.methods.base import Method
from foveate.types import Branch, Images, Labels

How = Literal["hirescam", "gradcam", "rollout"]
"""Gradient times activation per patch, the same with one weight per channel, or attention only."""


def gaze(
    method: Method,
    images: Images,
    labels: Labels,
    branch: Branch = "base",
    *,
    how: How = "hirescam",
    target: Target = "probability",
    layer: int = -1,
) -> Heat:
    """Return the relevance of each patch for the given class; it is not negative and sums to 1 per picture.

    If no patch supports the class, the map is 0 everywhere (always for the probability of a single
    class).

    Args:
        method: The method with its classes set.
        images: `[B, 3, S, S]` normalised pictures.
        labels: `[B]` the class to explain; attention rollout does not depend on it.
        branch: Label space of the class names.
        how: See `How`.
        target: Quantity whose gradient is computed: the class's logit, or its probability. (The
            logarithm of the probability gives the same map.)
        layer: Block of the image tower, counted from 0, or from the end if negative. For the rollout,
            the last block of the product.

    Returns:
        `[B, grid, grid]`.

    Raises:
        InputError: The block does not exist.
    """
    return gaze_and_answer(method, images, labels, branch, how=how, target=target, layer=layer).heat


def gaze_and_answer(
    method: Method,
    images: Images,
    labels: Labels | None,
    branch: Branch = "base",
    *,
    how: How = "hirescam",
    target: Target = "probability",
    layer: int = -1,
) -> Gaze:
    """Return heat maps, and the logits of the same passes through the tower.

    Args:
        method: The method with its classes set.
        images: `[B, 3, S, S]` normalised pictures.
        labels: `[B]` the class to explain; None is each picture's answer.
        branch: As for `gaze`.
        how: As for `gaze`.
        target: As for `gaze`.
        layer: As for `gaze`.

    Raises:
        InputError: The block does not exist.
    """
    if how != "rollout":
        averaged = how == "gradcam"
        return class_activation(method, images, labels, branch, averaged=averaged, target=target, layer=layer)
    passes, features = rolled_out(method, images, branch, layer=layer)
    with torch.no_grad(), method.constant_text():
        logits = method.logits(features, branch)
    explained = logits.argmax(dim=-1) if labels is None else labels
    return Gaze(mean_share(passes, method.clip.vision.grid), logits, explained)
