"""Several instances of one class, put together to one mask."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from foveate.foreground.heatmaps import resized
from foveate.foreground.proposers.base import Proposal


@dataclass(frozen=True)
class Found:
    """The instances found in one picture; there may be none.

    Attributes:
        scores: How sure the model is of each, in [0, 1].
        boxes: left, top, right and bottom of each, in the picture's pixels.
        heats: What each pixel says of belonging to it, at a size of the model's.
    """

    scores: Float[Tensor, " instances"]
    boxes: Float[Tensor, "instances 4"]
    heats: Float[np.ndarray, "instances rows columns"]


def union(found: Found, size: tuple[int, int], threshold: float, *, logits: bool = False) -> Proposal:
    """Return the pixels of all instances as one mask, with the best instance's score.

    Args:
        found: The instances.
        size: (width, height) of the picture.
        threshold: Of a pixel's heat, once at the picture's size; pixels above it count.
        logits: Whether heats are logits; otherwise they are probabilities.

    Returns:
        An empty mask and score 0 where nothing was found; no heat then, for there is nothing to refine.
    """
    width, height = size
    mask, heat = np.zeros((height, width), dtype=bool), np.zeros((height, width), dtype=np.float32)
    for small in found.heats:  # one at a time: each is as large as the picture
        large = resized(small, size)
        mask |= large > threshold
        np.maximum(heat, _sigmoid(large) if logits else large, out=heat)
    if not len(found.scores):
        return Proposal(mask, 0.0, None, {"boxes": [], "scores": []})
    meta = {
        "boxes": found.boxes.round(decimals=1).tolist(),
        "scores": found.scores.round(decimals=4).tolist(),
    }
    return Proposal(mask, float(found.scores.max()), heat, meta)


def _sigmoid(values: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    return 0.5 * (1 + np.tanh(values / 2))  # never overflows
