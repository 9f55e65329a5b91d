"""The statistics of a report: bootstrap estimates, and an exact test of two rows on the same pictures.

Answers are `[S, P]` truth values: seeds by pictures. Everything random is drawn from a named generator, so no
number depends on the order of files.

The bootstrap draws pictures and seeds independently (Owen, "The pigeonhole bootstrap", 2007): a picture that
is drawn twice counts twice under every seed. Of n seeds it draws n - 1 (Rao and Wu, 1988), so that the
variance of their mean is not too small by the factor (n - 1) / n, two thirds with three seeds. Seeds are
drawn once for each training set, so base and new of one run rise and fall together. Every derived figure (a
harmonic mean, an average over sets, a difference) is computed in each draw as it is on the whole.

The paired test flips, picture by picture, which of two rows gave which answers. All flips are counted, none
is sampled. With one seed it is McNemar's exact test (McNemar, 1947).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float64
from scipy.signal import fftconvolve
from scipy.stats import binom
from torch import Tensor

from foveate.evaluate.metrics import harmonic_mean, mean
from foveate.seeds import stream

Right = Bool[Tensor, "seeds pictures"]
Weights = Float64[Tensor, "draws seeds"]
Draws = Float64[Tensor, " draws"]
Law = Float64[np.ndarray, " values"]
Place = tuple[str, float]
"""What a run was trained on: a set's key, and shots or share of it (0 where that does not vary)."""

LEVEL = 0.95
_NOISE = 1e-12  # rounding of sums of percentages
_LEAST_P = 1e-15  # smaller sums of probabilities cannot be told from 0
_GRID = 2**18  # values that a mean over sets is rounded to


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample (n - 1); None for fewer than two values."""
    if len(values) < 2:
        return None
    found = float(np.std(values, ddof=1))
    return found if found > _NOISE else 0.0


def interval(draws: Draws) -> tuple[float, float]:
    """Return the middle 95 % of bootstrap draws."""
    low, high = np.quantile(draws.numpy(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def seed_weights(seeds: int, draws: int, generator: torch.Generator) -> Weights:
    """Return the share of each seed in each draw of n - 1 of them; a single seed is always drawn."""
    if seeds == 1:
        return torch.ones(draws, 1, dtype=torch.float64)
    drawn = torch.randint(seeds, (draws, seeds - 1), generator=generator)
    counts = torch.zeros(draws, seeds, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64)) / (seeds - 1)


def resampled(right: Right, weights: Sequence[Weights], generator: torch.Generator) -> list[Draws]:
    """Return percent right in each bootstrap draw of the pictures, once for each set of weights.

    Pictures with the same answers are exchangeable, so it is enough to draw how many of each pattern there
    are.

    Args:
        right: `[S, P]` answers, of one row or of several.
        weights: `[B, S]` each: what each row of `right` counts in each draw.
        generator: Of the draws.
    """
    patterns, counts = _patterns(right)
    left = torch.full((len(weights[0]),), float(right.shape[1]), dtype=torch.float64)
    behind, columns = right.shape[1], list[Tensor]()
    for count in counts.tolist():  # a multinomial draw, one binomial after the other
        share = torch.full_like(left, count / behind)
        taken = left if count == behind else torch.binomial(left, share, generator=generator)
        columns.append(taken)
        left, behind = left - taken, behind - count
    drawn = torch.stack(columns, dim=1)
    return [100 * (drawn * (one @ patterns.T)).sum(1) / right.shape[1] for one in weights]


def _patterns(right: Right) -> tuple[Tensor, Tensor]:
    """Return which columns `[K, S]` there are, and how often `[K]` each."""
    if len(right) > 62:  # more than an integer has bits
        patterns, counts = right.T.unique(dim=0, return_counts=True)
        return patterns.double(), counts
    places = torch.arange(len(right))
    codes, counts = (right.long() << places[:, None]).sum(0).unique(return_counts=True)
    return ((codes[:, None] >> places) & 1).double(), counts


def paired_p(first: Right, second: Right) -> float:
    """Return the two-sided p of "no picture prefers a row", exactly.

    Each picture has a difference: the number of seeds under which one row was right, less that of the other.
        Under
    the null hypothesis either sign is as likely, and the sum of all is as far from 0 as the observed one with
    probability p. It is a statement about these tuned models; how models of other seeds would do is the
    bootstrap's matter. A p below 1e-15 is returned as 1e-15.
    """
    law, reach, total = _flips(first, second)
    far = np.abs(2 * np.arange(reach + 1) - reach) >= abs(total)
    return min(1.0, max(_LEAST_P, float(law[far].sum())))


def average_p(sets: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the same p for the mean of the differences of several sets, where each set counts the same.

    The flips of all sets are counted together. Sums are rounded to a fine grid, and those within the rounding
    of the observed one count as equally far, so p is never too low.
    """
    flips = [(*_flips(*pair), pair[0].numel()) for pair in sets]
    step = 2 * sum(reach / answers for _, reach, _, answers in flips) / _GRID or 1.0
    law, middle = np.ones(1), 0
    for own, reach, _, answers in flips:
        places = np.rint((2 * np.arange(reach + 1) - reach) / answers / step).astype(int)
        law = fftconvolve(law, np.bincount(places - places[0], own))
        middle -= int(places[0])
    observed = sum(total / answers for _, _, total, answers in flips)
    far = np.abs(np.arange(len(law)) - middle) * step >= abs(observed) - step * len(flips)
    return min(1.0, max(_LEAST_P, float(np.maximum(law[far], 0).sum())))


def _flips(first: Right, second: Right) -> tuple[Law, int, int]:
    """Return the law of the gain in steps of two, how far the sum can reach, and the observed sum."""
    differences = (first.long().sum(0) - second.long().sum(0)).numpy()
    law = np.ones(1)
    for size, number in zip(*np.unique(np.abs(differences), return_counts=True), strict=True):
        if size:
            wide = np.zeros(number * size + 1)
            wide[::size] = binom.pmf(np.arange(number + 1), number, 0.5)
            law = np.maximum(fftconvolve(law, wide), 0) if len(law) > 1 else wide
    return law, int(np.abs(differences).sum()), int(differences.sum())


def holm(values: Sequence[float]) -> list[float]:
    """Return p values that hold for the whole family at once (Holm, 1979), in the same order."""
    order = np.argsort(values, kind="stable")
    stepped = np.array(values, dtype=float)[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return adjusted.tolist()


@dataclass(frozen=True)
class RowAnswers:
    """One question, answered by one row's runs.

    Attributes:
        place: What was trained on.
        dataset: Key of the test set.
        split: Of it.
        condition: Under which it was tested; empty for the plain test.
        accuracy: Percent right, by seed.
        right: `[S, P]` answers; None where seeds were tested on different pictures.
        digest: Fingerprint of the pictures, where there is one for all seeds.
    """

    place: Place
    dataset: str
    split: str
    condition: str
    accuracy: Mapping[int, float]
    right: Tensor | None = field(repr=False)
    digest: str | None

    def of_seeds(self, seeds: Sequence[int]) -> Right:
        """Return `[S, P]` answers under these seeds, in this order."""
        assert self.right is not None
        known = list(self.accuracy)
        return self.right[[known.index(seed) for seed in seeds]]

    def shared_seeds(self, other: "RowAnswers") -> list[int]:
        """Return the seeds under which both rows answered the same pictures."""
        if self.right is None or other.right is None or self.digest != other.digest:
            return []
        return sorted(set(self.accuracy) & set(other.accuracy))


@dataclass(frozen=True)
class Estimate:
    """A figure.

    Attributes:
        value: Of all seeds and pictures.
        seeds: The same, seed by seed.
        draws: The same in each bootstrap draw; None where there can be none.
        mark: "†" where something is missing.
        tested: Fingerprints of the pictures that it was measured on.
    """

    value: float
    seeds: Mapping[int, float]
    draws: Tensor | None = field(default=None, repr=False)
    mark: str = ""
    tested: tuple[str, ...] = ()

    @cached_property
    def interval(self) -> tuple[float | None, float | None]:
        """Ends of its 95 % interval."""
        return (None, None) if self.draws is None else interval(self.draws)


@dataclass(frozen=True)
class Bootstrap:
    """Where draws come from.

    Attributes:
        draws: How many.
        seed: Of their streams.
    """

    draws: int = 2000
    seed: int = 0

    def _weights(self, place: Place, seeds: Iterable[int]) -> Weights:
        """Return what each seed counts in each draw, the same for every question to one set's runs."""
        seeds = sorted(seeds)
        return seed_weights(len(seeds), self.draws, stream(self.seed, "seeds", *map(str, place), *seeds))

    def _stream(self, name: str, asked: RowAnswers) -> torch.Generator:
        where = (asked.dataset, asked.split, *map(str, asked.place))
        return stream(self.seed, name, *where, *([asked.condition] if asked.condition else []))

    def estimate(self, answers: RowAnswers, wanted: Iterable[int]) -> Estimate:
        """Return percent right; rows that gave the same answers have the same draws and interval.

        Args:
            answers: Of a row.
            wanted: Seeds that there should be.
        """
        mark = "" if set(wanted) <= set(answers.accuracy) else "†"
        draws = None
        if answers.right is not None:
            weights = self._weights(answers.place, answers.accuracy)
            (draws,) = resampled(answers.right, [weights], self._stream("pictures", answers))
        value = mean(list(answers.accuracy.values()))
        return Estimate(value, answers.accuracy, draws, mark, (answers.digest or "several",))

    def both(self, first: RowAnswers, second: RowAnswers) -> tuple[Estimate, Estimate]:
        """Return two rows' figures over the seeds that both have, drawn together; they must share some."""
        common = first.shared_seeds(second)
        answers = torch.cat([first.of_seeds(common), second.of_seeds(common)])
        weights = self._weights(first.place, common)
        none = torch.zeros_like(weights)
        views = [torch.cat([weights, none], dim=1), torch.cat([none, weights], dim=1)]
        drawn = resampled(answers, views, self._stream("pairs", first))
        values = [{seed: one.accuracy[seed] for seed in common} for one in (first, second)]
        before, after = (
            Estimate(mean(list(own.values())), own, draws) for own, draws in zip(values, drawn, strict=True)
        )
        return before, after


def hm(base: Estimate, new: Estimate) -> Estimate:
    """Return the harmonic mean of two averages: never the mean of harmonic means."""
    draws = None
    if base.draws is not None and new.draws is not None:
        total = base.draws + new.draws
        draws = torch.where(total > 0, 2 * base.draws * new.draws / total, 0.0)
    seeds = {
        seed: harmonic_mean(base.seeds[seed], new.seeds[seed]) for seed in base.seeds if seed in new.seeds
    }
    mark, tested = base.mark or new.mark, base.tested + new.tested
    return Estimate(harmonic_mean(base.value, new.value), seeds, draws, mark, tested)


def average(parts: Sequence[Estimate], complete: bool = True) -> Estimate:
    """Return the mean over sets; its seeds are those that all sets have.

    Args:
        parts: One of each set.
        complete: Whether there is one of each set that there should be.
    """
    seeds = sorted(set.intersection(*(set(part.seeds) for part in parts)))
    by_seed = {seed: mean([part.seeds[seed] for part in parts]) for seed in seeds}
    draws = [part.draws for part in parts if part.draws is not None]
    drawn = torch.stack(draws).mean(0) if len(draws) == len(parts) else None
    mark = "" if complete and not any(part.mark for part in parts) else "†"
    tested = tuple(digest for part in parts for digest in part.tested)
    return Estimate(mean([part.value for part in parts]), by_seed, drawn, mark, tested)


def difference(before: Estimate, after: Estimate) -> Estimate:
    """Return by how much the second is higher; both must have been drawn together."""
    seeds = {seed: after.seeds[seed] - before.seeds[seed] for seed in before.seeds if seed in after.seeds}
    drawn = None if before.draws is None or after.draws is None else after.draws - before.draws
    return Estimate(after.value - before.value, seeds, drawn, before.mark or after.mark)
