"""Intervals beside figures, so that three test photos of a class do not pretend to be three hundred."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

LEVEL = 0.95
DRAWS = 1000


@dataclass(frozen=True)
class Interval:
    """A figure, and between which values it would lie with other pictures of the same kind.

    Attributes:
        value: The figure.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def wilson(right: int | float, pictures: int | float, level: float = LEVEL) -> Interval:
    """Return a share in percent with Wilson's score interval, which is honest at 0 and at 100 % too.

    A bootstrap is not: three of three right would have no width. Wilson 1927, as in Brown, Cai and DasGupta,
    Interval Estimation for a Binomial Proportion, 2001.

    Args:
        right: How many; an estimate need not be a whole number.
        pictures: Of how many, above 0.
        level: Of the interval.
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
    """Return a figure with the percentile interval over sets of pictures drawn with replacement.

    Args:
        figure: Of pictures by their places, `[N]` integers.
        pictures: N.
        generator: Draws the sets.
        draws: How many.
        level: Of the interval.
    """
    sets = (torch.randint(pictures, (pictures,), generator=generator) for _ in range(draws))
    values = torch.tensor([figure(rows) for rows in sets], dtype=torch.float64)
    low, high = values.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
    return Interval(figure(torch.arange(pictures)), low.item(), high.item())
