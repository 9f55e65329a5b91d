"""The one question, asked in any of three ways: what does a method look at?"""

from typing import Literal

from foveate.explain.gradcam import Target, class_activation
from foveate.explain.passes import Heat
from foveate.explain.rollout import attention_rollout
from foveate.methods.base import Method
from foveate.types import Branch, Images, Labels

How = Literal["hirescam", "gradcam", "rollout"]
"""Gradient times activation patch by patch, with one weight a channel, or attention alone."""


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
    """Return how much each patch speaks for the given class, not negative, summing to 1 over a picture.

    Where no patch speaks for it (for the probability of a single class none can), it is 0 everywhere.

    Args:
        method: Its classes set.
        images: `[B, 3, S, S]` normalised pictures.
        labels: `[B]` the class asked about; attention rollout knows of none.
        branch: Which label space the classes are.
        how: See `How`.
        target: What the gradient is of: the class's logit, or its probability. (The logarithm of the
            probability gives the same map.)
        layer: The image tower's block, from 0 on or from the end: whose attention is asked, or the last one
            of the rollout.

    Returns:
        `[B, grid, grid]`.

    Raises:
        InputError: There is no such block.
    """
    if how == "rollout":
        return attention_rollout(method, images, branch, layer=layer)
    averaged = how == "gradcam"
    return class_activation(method, images, labels, branch, averaged=averaged, target=target, layer=layer)
