"""Who comes first: by score, and among equals by place."""

import torch
from torch import Tensor

FINE = 1e-10
"""Scores nearer to each other than this share of the greatest are equal: below it is the noise of sums."""


def ranked(scores: Tensor) -> Tensor:
    """Return places from the greatest score to the least; among equals the lower place is first.

    Args:
        scores: `[n]`.
    """
    return torch.argsort(-in_steps(scores), stable=True)


def first_greatest(scores: Tensor, taken: Tensor) -> int:
    """Return the place of the greatest score among those not taken; of equals the lowest.

    Args:
        scores: `[n]`.
        taken: `[n]`, not all of them true.
    """
    left = (~taken).nonzero()[:, 0]
    steps = in_steps(scores[left])
    return int(left[(steps == steps.max()).nonzero()[0, 0]])


def in_steps(scores: Tensor) -> Tensor:
    """Return scores as whole numbers of the finest difference that counts."""
    step = float(scores.abs().max()) * FINE
    return (scores / step).round() if step else torch.zeros_like(scores)
