"""Confidence intervals of metrics over test pictures: Wilson's score interval, and the bootstrap."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

LEVEL = 0.95
DRAWS = 1000


@dataclass(frozen=True)
class Interval:
    """A metric with its confidence interval over pictures.

    Attributes:
        value: The metric.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def wilson(right: int | float, pictures: int | float, level: float = LEVEL) -> Interval:
    """Return a share in percent with Wilson's score interval, which is valid at 0 and at 100 % too.

    A bootstrap interval is not: with three right answers of three it has no width. Wilson 1927, as in Brown,
    Cai and DasGupta, Interval Estimation for a Binomial Proportion, 2001.

    Args:
        right: Number of right answers; an estimate need not be a whole number.
        pictures: Number of pictures, above 0.
        level: Confidence level.
    """
    z, share = NormalDist().inv_cdf((1 + level) / 2), right / pictures
    middle = (share + z**2 / (2 * pictures)) / (1 + z**2 / pictures)
    half = z / (1 + z**2 / pictures) * (share * (1 - share) / pictures + z**2 / (4 * pictures**2)) ** 0.5
    low = 0.0 if right == 0 else 100 * (middle - half)
    high = 100.0 if right == pictures else 100 * (middle + half)
    return Interval(100 * share, low, high)


def bootstrap(
    figure: Callable[[Tensor], float],
    pictures: int,
    generator: torch.Generator,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """Return a metric with its percentile interval over sets of pictures drawn with replacement.

    Args:
        figure: Returns the metric of pictures, given their indices: `[N]` integers.
        pictures: N.
        generator: Random generator of the sets.
        draws: Number of sets.
        level: Confidence level.
    """
    resamples = (torch.randint(pictures, (pictures,), generator=generator) for _ in range(draws))
    values = torch.tensor([figure(rows) for rows in resamples], dtype=torch.float64)
    low, high = values.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
    return Interval(figure(torch.arange(pictures)), low.item(), high.item())
