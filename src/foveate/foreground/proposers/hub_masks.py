"""Joins several instances of one class into one mask."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from foveate.foreground.heatmaps import resized
from foveate.foreground.proposers.base import Proposal


@dataclass(frozen=True)
class Instances:
    """Instances found in one picture; possibly none.

    Attributes:
        scores: Score of each instance, in [0, 1].
        boxes: Left, top, right and bottom of each instance, in the picture's pixels.
        heats: Map of each instance: the membership of each pixel, at the model's size.
    """

    scores: Float[Tensor, " instances"]
    boxes: Float[Tensor, "instances 4"]
    heats: Float[np.ndarray, "instances rows columns"]


def union(instances: Instances, size: tuple[int, int], threshold: float, *, logits: bool = False) -> Proposal:
    """Return the union of all instances as one mask, with the best instance's score.

    Args:
        instances: The instances.
        size: (width, height) of the picture.
        threshold: Threshold for heat that is resized to the picture; pixels above it are foreground.
        logits: Whether the maps are logits; otherwise they are probabilities.

    Returns:
        The proposal; without instances, an empty mask with score 0 and no heat.
    """
    width, height = size
    mask, heat = np.zeros((height, width), dtype=bool), np.zeros((height, width), dtype=np.float32)
    for small in instances.heats:  # one at a time, because each is as large as the picture
        large = resized(small, size)
        mask |= large > threshold
        np.maximum(heat, _sigmoid(large) if logits else large, out=heat)
    if not len(instances.scores):
        return Proposal(mask, 0.0, None, {"boxes": [], "scores": []})
    meta = {
        "boxes": instances.boxes.round(decimals=1).tolist(),
        "scores": instances.scores.round(decimals=4).tolist(),
    }
    return Proposal(mask, float(instances.scores.max()), heat, meta)


def _sigmoid(values: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    return 0.5 * (1 + np.tanh(values / 2))  # never overflows
