"""Reported metrics, one function each, and their confidence intervals."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from foveate.methods.guidance import kl
from foveate.types import Labels, Logits


def accuracy(logits: Logits, labels: Labels) -> float:
    """Return top-1 accuracy in percent."""
    return 100 * (logits.argmax(dim=-1) == labels).double().mean().item()


def harmonic_mean(base: float, new: float) -> float:
    """Return HM = 2 b n / (b + n); 0 if both are 0. Over data sets it is the HM of the averages."""
    return 2 * base * new / (base + new) if base + new else 0.0


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return sum(values) / len(values)


def worst_group(groups: Iterable[tuple[int, int]]) -> float:
    """Return the least accuracy of a group, in percent; groups without pictures are left out.

    - Sagawa et al. 2020, https://arxiv.org/abs/1911.08731; there, a group is a class on one background.

    Args:
        groups: Number of right answers and of pictures, of each group.

    Raises:
        ValueError: No group has a picture.
    """
    return min(100 * right / pictures for right, pictures in groups if pictures)


def foreground_shift(full: Logits, foreground: Logits, tau: float = 2.0) -> float:
    """Return D_fg, the foreground shift index: mean KL(p_full ‖ p_foreground), in nats.

    It measures the change of a prediction when the background is removed; 0 if a model uses the object
    only.

    Args:
        full: `[B, C]` logits of whole pictures.
        foreground: `[B, C]` logits of the same views times their masks.
        tau: Temperature of both softmax functions.
    """
    return max(0.0, kl(full / tau, foreground / tau).mean().item())  # rounding may give less


# Confidence intervals of metrics over test pictures: Wilson's score interval, and the bootstrap.


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
