"""Estimates the accuracy of the chosen method from answers for held-out shots, with two corrections.

- The best of several methods on the same pictures looks better than it is: the choice is repeated on pictures
  drawn with replacement, and evaluated on those not drawn. Bootstrapping the out-of-sample predictions for
  efficient and accurate cross-validation, Tsamardinos et al. 2018, https://arxiv.org/abs/1708.07180
- A method that learned from three of four shots looks worse than one that learns from all: errors fall as a
  power of the number of shots, which is fitted on draws of fewer shots. Learning Curves: Asymptotic Values
  and Rate of Convergence, Cortes et al. 1993
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.evaluate.intervals import Interval, wilson
from foveate.trust.doubt import fit_temperature
from foveate.types import Labels, Logits

LEVEL = 0.9
MARGIN = 0.01
"""Minimum mean score by which a method must exceed the reference to be chosen."""

USUAL_SLOPE, ITS_WEIGHT = -0.3, 1.0
"""Prior of the power by which errors fall with the number of shots, and the weight of this prior."""

_DRAWS = 1000

Scores = Float[Tensor, "pictures candidates"]
Right = Bool[Tensor, "pictures candidates"]


def scores(candidates: Sequence[Logits], labels: Labels) -> Scores:
    """Return scores `[M, K]` in [0, 1]: the mean of correctness and of the true name's probability.

    Accuracy alone has many ties on few pictures; calibrated probabilities break them.

    Args:
        candidates: `[M, C]` logits of each candidate.
        labels: `[M]` true labels.
    """
    columns: list[Tensor] = []
    for logits in candidates:
        truth = (logits / fit_temperature(logits, labels)).softmax(dim=1).gather(1, labels[:, None])[:, 0]
        columns.append(((logits.argmax(dim=1) == labels) + truth.double()) / 2)
    return torch.stack(columns, dim=1)


def pick(means: Float[Tensor, "draws candidates"]) -> Int[Tensor, " draws"]:
    """Return the best candidate of each row; the first, unless another is better by `MARGIN`."""
    best = means.argmax(dim=1)
    ahead = means.gather(1, best[:, None])[:, 0] - means[:, 0]
    return torch.where(ahead > MARGIN, best, 0)


def best_beside(values: Scores) -> int:
    """Return the best candidate besides the reference; the reference, if there is no other."""
    return int(values[:, 1:].mean(dim=0).argmax()) + 1 if values.shape[1] > 1 else 0


@dataclass(frozen=True)
class Resampled:
    """Result of repeating the choice on resampled pictures.

    Attributes:
        optimism: Accuracy by which the chosen candidate looks better than it is, as a share.
        gain: Gain of the best candidate over the first, in points, minus the optimism.
    """

    optimism: float
    gain: Interval


def resample(values: Scores, right: Right, generator: torch.Generator) -> Resampled:
    """Repeat the choice on pictures drawn with replacement.

    Args:
        values: Result of `scores`; the first candidate is the reference.
        right: Whether each answer is right.
        generator: Random generator of the draws.
    """
    count, share = len(values), right.double()
    rows = torch.randint(count, (_DRAWS, count), generator=generator)
    counts = torch.zeros(_DRAWS, count, dtype=torch.float64).scatter_add_(
        1, rows, torch.ones_like(rows, dtype=torch.float64)
    )
    chosen = pick(counts @ values.double() / count)
    unseen = (counts == 0).double()
    usable = unseen.sum(dim=1) > 0
    outside = (unseen * share[:, chosen].T).sum(dim=1)[usable] / unseen.sum(dim=1)[usable]
    winner = int(pick(values.mean(dim=0)[None]))
    optimism = float(share[:, winner].mean() - outside.mean()) if usable.any() else 0.0
    leader = best_beside(values)
    differences = share[:, leader] - share[:, 0]
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = (counts @ differences / count).quantile(ends).tolist()
    gain = (100 * (value - optimism) for value in (float(differences.mean()), low, high))
    return Resampled(optimism, Interval(*gain))


@dataclass(frozen=True)
class Curve:
    """Error of a method as a function of the number of shots per class.

    Attributes:
        slope: Power of the number of shots, at most 0.
        shots: Number of shots per class at which the error was measured.
        error: The error there, as a share.
        pictures: Number of shots that it was measured on.
    """

    slope: float
    shots: float
    error: float
    pictures: int

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]], pictures: int, optimism: float = 0.0) -> "Curve":
        """Fit the power by ridge regression in logarithms.

        Args:
            points: Shots per class, and error as a share; the last point is that of the folds.
            pictures: Number of shots that the folds asked about.
            optimism: Amount by which the last error is too small.
        """
        x = [math.log(shots) for shots, _ in points]
        y = [math.log(error + 0.5 / pictures) for _, error in points]
        x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
        covariance = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
        variance = sum((a - x_mean) ** 2 for a in x)
        slope = min(0.0, (covariance + ITS_WEIGHT * USUAL_SLOPE) / (variance + ITS_WEIGHT))
        shots, error = points[-1]
        return cls(slope, shots, min(1.0, max(0.0, error + optimism)), pictures)

    def at(self, shots: float) -> Interval:
        """Return the accuracy in percent with this number of shots per class."""
        return honest(1 - self.error * (shots / self.shots) ** self.slope, self.pictures)


def honest(share: float, pictures: int) -> Interval:
    """Return a share that was measured on held-out shots, in percent, with its interval."""
    return wilson(share * pictures, pictures, LEVEL)
