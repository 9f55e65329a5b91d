"""The statistics of a report: means, bootstrap intervals, and an exact test of two rows on the same pictures.

Right answers are `[S, P]` truth values: seeds by pictures. Everything random is drawn from a generator.

The bootstrap draws pictures and seeds, each for itself (Owen, "The pigeonhole bootstrap", 2007): a picture
that is drawn twice counts twice under every seed. Of n seeds it draws n - 1 (Rao and Wu, 1988), so that the
variance it shows of their mean is not too small by the factor (n - 1) / n, two thirds with three seeds.

The paired test flips, picture by picture, which of two rows gave which answers; all flips are counted, none
is sampled. With one seed that is McNemar's exact test (McNemar, 1947).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

Right = Bool[Tensor, "seeds pictures"]
Weights = Float64[Tensor, "draws seeds"]
Draws = Float64[Tensor, " draws"]

LEVEL = 0.95
_NOISE = 1e-12  # rounding of sums of percentages
_LEAST_P = 1e-15  # of which sums of probabilities can be told from 0


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample (n - 1); None of fewer than two values."""
    if len(values) < 2:
        return None
    middle = math.fsum(values) / len(values)
    found = math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))
    return found if found > _NOISE else 0.0


def seed_weights(seeds: int, draws: int, generator: torch.Generator) -> Weights:
    """Return the share of each seed in each draw of n - 1 of them; a single seed is always drawn."""
    if seeds == 1:
        return torch.ones(draws, 1, dtype=torch.float64)
    drawn = torch.randint(seeds, (draws, seeds - 1), generator=generator)
    counts = torch.zeros(draws, seeds, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64)) / (seeds - 1)


def resampled(right: Right, weights: Sequence[Weights], generator: torch.Generator) -> list[Draws]:
    """Return percent right in each bootstrap draw of the pictures, once for each set of weights.

    Pictures with the same answers are exchangeable, so it is enough to draw how many there are of each kind.

    Args:
        right: `[S, P]` answers, of one row or of several.
        weights: `[B, S]` each: what each line of answers counts in each draw.
        generator: Of the draws.
    """
    values, counts = _kinds(right)
    drawn = _multinomial(counts, len(weights[0]), generator)
    return [100 * (drawn * (one @ values.T)).sum(1) / right.shape[1] for one in weights]


def _kinds(right: Right) -> tuple[Float64[Tensor, "kinds seeds"], Int[Tensor, " kinds"]]:
    """Return which columns there are, and how often each."""
    if len(right) > 62:  # more than a number has bits
        kinds, counts = right.T.unique(dim=0, return_counts=True)
        return kinds.double(), counts
    places = torch.arange(len(right))
    codes, counts = (right.long() << places[:, None]).sum(0).unique(return_counts=True)
    return ((codes[:, None] >> places) & 1).double(), counts


def _multinomial(
    counts: Int[Tensor, " kinds"], draws: int, generator: torch.Generator
) -> Float64[Tensor, "draws kinds"]:
    """Draw as many pictures as there are, with replacement, and return how many of each kind."""
    left = torch.full((draws,), float(counts.sum()), dtype=torch.float64)
    behind = int(counts.sum())
    columns: list[Tensor] = []
    for count in counts.tolist():
        share = torch.full_like(left, count / behind)
        taken = left if count == behind else torch.binomial(left, share, generator=generator)
        columns.append(taken)
        left, behind = left - taken, behind - count
    return torch.stack(columns, dim=1)


def interval(draws: Draws) -> tuple[float, float]:
    """Return the middle 95 % of bootstrap draws."""
    edge = (1 - LEVEL) / 2
    low, high = draws.quantile(torch.tensor([edge, 1 - edge], dtype=torch.float64)).tolist()
    return low, high


def paired_p(first: Right, second: Right) -> float:
    """Return the two-sided p of "no picture prefers a row", exactly.

    Each picture has a difference: under how many seeds the one row was right, less those of the other. Under
    the null either sign is as likely, and the sum of all is as far from 0 as the observed one with
    probability p. It is a statement about these tuned models; how others would do that are tuned with other
    seeds is the bootstrap's matter. Lower than 1e-15 it is said to be 1e-15.
    """
    differences = first.long().sum(0) - second.long().sum(0)
    reach = int(differences.abs().sum())
    if reach == 0:
        return 1.0
    law = torch.ones(1, dtype=torch.float64)  # of how much is gained, by a step of one
    for size, number in zip(
        *(one.tolist() for one in differences.abs().unique(return_counts=True)), strict=True
    ):
        if size:
            law = _convolved(law, _spread(_half(number), size))
    gained = int(differences.clamp(min=0).sum())
    far = (2 * torch.arange(reach + 1) - reach).abs() >= abs(2 * gained - reach)
    return min(1.0, max(_LEAST_P, law[far].sum().item()))


def _half(number: int) -> Float64[Tensor, " gains"]:
    """Return the probabilities of 0 to `number` heads of a fair coin."""
    heads = torch.arange(number + 1, dtype=torch.float64)
    ways = math.lgamma(number + 1) - torch.lgamma(heads + 1) - torch.lgamma(number - heads + 1)
    return (ways - number * math.log(2)).exp()


def _spread(law: Float64[Tensor, " gains"], size: int) -> Float64[Tensor, " wide"]:
    """Return the law of `size` times a number."""
    wide = law.new_zeros((len(law) - 1) * size + 1)
    wide[::size] = law
    return wide


def _convolved(first: Float64[Tensor, " a"], second: Float64[Tensor, " b"]) -> Float64[Tensor, " c"]:
    """Return the law of a sum; Fourier's way is off by some 1e-16."""
    if len(first) == 1:
        return second
    length = len(first) + len(second) - 1
    product = torch.fft.rfft(first, length) * torch.fft.rfft(second, length)
    return torch.fft.irfft(product, length).clamp(min=0)


def holm(values: Sequence[float]) -> list[float]:
    """Return p values that hold for the whole family at once (Holm, 1979), in the same order."""
    adjusted = [1.0] * len(values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda place: values[place])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = highest
    return adjusted
