"""Ranking by score; among equal scores, by index."""

import torch
from torch import Tensor

FINE = 1e-10
"""Relative tolerance: scores that differ by less than this share of the largest one count as equal."""


def ranked(scores: Tensor) -> Tensor:
    """Return indices from the largest to the smallest score; among equals the lower index is first.

    Args:
        scores: `[n]`.
    """
    return torch.argsort(-in_steps(scores), stable=True)


def first_greatest(scores: Tensor, taken: Tensor) -> int:
    """Return the index of the largest score that is not taken; among equals the lowest index.

    Args:
        scores: `[n]`.
        taken: `[n]` booleans, not all true.
    """
    remaining = (~taken).nonzero()[:, 0]
    steps = in_steps(scores[remaining])
    return int(remaining[(steps == steps.max()).nonzero()[0, 0]])


def in_steps(scores: Tensor) -> Tensor:
    """Return scores as multiples of the tolerance, rounded to whole numbers."""
    step = float(scores.abs().max()) * FINE
    return (scores / step).round() if step else torch.zeros_like(scores)
