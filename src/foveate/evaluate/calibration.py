"""Calibration metrics: reliability curve, expected calibration error, Brier score and AUROC.

- Reliability and ECE: On Calibration of Modern Neural Networks, Guo et al. 2017,
  https://arxiv.org/abs/1706.04599, Sec. 2
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.types import Labels, Logits

BINS = 15
"""Number of bins of the reliability curve, as in Guo et al."""

Scores = Float[Tensor, " pictures"]


@dataclass(frozen=True)
class Bin:
    """Pictures whose answers have similar probabilities.

    Attributes:
        low: Lower end of the bin, exclusive.
        high: Upper end of the bin, inclusive.
        pictures: Number of pictures.
        confidence: Mean probability of their answers.
        accuracy: Share of right answers.
    """

    low: float
    high: float
    pictures: int
    confidence: float
    accuracy: float


def reliability(confidence: Scores, right: Bool[Tensor, " pictures"], bins: int = BINS) -> list[Bin]:
    """Return the reliability curve: bins of equal width, without empty ones.

    Args:
        confidence: `[N]` probability of each answer, in [0, 1].
        right: `[N]` whether it is right.
        bins: Number of bins.
    """
    bin_of = _places(confidence, bins)
    curve: list[Bin] = []
    for index in range(bins):
        inside = bin_of == index
        if inside.any():
            mean_confidence, share = confidence[inside].double().mean(), right[inside].double().mean()
            ends = index / bins, (index + 1) / bins
            curve.append(Bin(*ends, int(inside.sum()), float(mean_confidence), float(share)))
    return curve


def ece(confidence: Scores, right: Bool[Tensor, " pictures"], bins: int = BINS) -> float:
    """Return the expected calibration error, in points: Σ_b n_b / N · |accuracy_b − confidence_b| (Eq. 3).

    With few pictures it is too large, because each bin's accuracy is then far off by chance.
    """
    gaps = torch.zeros(bins, dtype=torch.float64)
    gaps.index_add_(0, _places(confidence, bins), right.double() - confidence.double())
    return 100 * gaps.abs().sum().item() / len(right)


def _places(confidence: Scores, bins: int) -> Int[Tensor, " pictures"]:
    """Return the bin of each answer; the upper end of a bin belongs to it."""
    return (confidence.double() * bins).ceil().long().clamp(1, bins) - 1


def brier_scores(probabilities: Logits, labels: Labels) -> Float[Tensor, " pictures"]:
    """Return `[N]` the Brier score Σ_c (p_c − y_c)² of each picture: 0 at best, 2 at worst."""
    truth = torch.nn.functional.one_hot(labels, probabilities.shape[1])
    return (probabilities.double() - truth).square().sum(dim=1)


def auroc(high: Float[Tensor, " high"], low: Float[Tensor, " low"]) -> float:
    """Return the probability that a score of `high` is above one of `low`; a tie counts a half.

    Args:
        high: Scores that should be high, such as the novelty of unknown pictures.
        low: Scores that should be low.
    """
    ordered = low.double().sort().values
    below = torch.searchsorted(ordered, high.double().contiguous(), right=False)
    not_above = torch.searchsorted(ordered, high.double().contiguous(), right=True)
    return ((below + not_above).double().mean() / (2 * len(low))).item()
