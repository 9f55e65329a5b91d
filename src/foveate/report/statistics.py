"""Statistics of a report: bootstrap estimates, and an exact paired test of two rows.

Answers are `[S, P]` booleans: seeds by pictures. All random numbers come from named generators, so no
number depends on the order of files.

The bootstrap draws pictures and seeds independently (Owen, "The pigeonhole bootstrap", 2007): a picture
that is drawn twice counts twice under every seed. From n seeds it draws n - 1 (Rao and Wu, 1988).
Otherwise the variance of their mean would be too small by the factor (n - 1) / n, two thirds for three
seeds. Seeds are drawn once for each training set, so base and new of one run vary together. Every
derived figure (a harmonic mean, an average over sets, a difference) is computed in each draw in the same
way as on all data.

The paired test exchanges the answers of two rows for each picture. It counts all exchanges and samples
none. With one seed it is McNemar's exact test (McNemar, 1947).
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
TrainingSet = tuple[str, float]
"""Training data of a run: key of the set, and shots or share of it (0 if it does not vary)."""

LEVEL = 0.95
_NOISE = 1e-12  # rounding error of sums of percentages
_LEAST_P = 1e-15  # smaller sums of probabilities are not distinguishable from 0
_GRID = 2**18  # grid to which a mean over sets is rounded


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample (n - 1); None for fewer than two values."""
    if len(values) < 2:
        return None
    sd = float(np.std(values, ddof=1))
    return sd if sd > _NOISE else 0.0


def interval(draws: Draws) -> tuple[float, float]:
    """Return the middle 95 % of bootstrap draws."""
    low, high = np.quantile(draws.numpy(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def seed_weights(seeds: int, draws: int, generator: torch.Generator) -> Weights:
    """Return the weight of each seed in each draw of n - 1 seeds; a single seed is always drawn."""
    if seeds == 1:
        return torch.ones(draws, 1, dtype=torch.float64)
    drawn = torch.randint(seeds, (draws, seeds - 1), generator=generator)
    counts = torch.zeros(draws, seeds, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64)) / (seeds - 1)


def resampled(right: Right, weights: Sequence[Weights], generator: torch.Generator) -> list[Draws]:
    """Return the accuracy in percent in each bootstrap draw of the pictures, once for each set of weights.

    Pictures with the same answers are exchangeable, so only the count of each answer pattern is drawn.

    Args:
        right: `[S, P]` answers, of one row or of several.
        weights: `[B, S]` each: the weight of each row of `right` in each draw.
        generator: Random generator of the draws.
    """
    patterns, counts = _patterns(right)
    remaining = torch.full((len(weights[0]),), float(right.shape[1]), dtype=torch.float64)
    pictures, columns = right.shape[1], list[Tensor]()
    for count in counts.tolist():  # a multinomial draw as successive binomial draws
        share = torch.full_like(remaining, count / pictures)
        taken = remaining if count == pictures else torch.binomial(remaining, share, generator=generator)
        columns.append(taken)
        remaining, pictures = remaining - taken, pictures - count
    drawn = torch.stack(columns, dim=1)
    return [100 * (drawn * (weight @ patterns.T)).sum(1) / right.shape[1] for weight in weights]


def _patterns(right: Right) -> tuple[Tensor, Tensor]:
    """Return the distinct columns `[K, S]`, and their counts `[K]`."""
    if len(right) > 62:  # more than the bits of an integer
        patterns, counts = right.T.unique(dim=0, return_counts=True)
        return patterns.double(), counts
    bits = torch.arange(len(right))
    codes, counts = (right.long() << bits[:, None]).sum(0).unique(return_counts=True)
    return ((codes[:, None] >> bits) & 1).double(), counts


def paired_p(first: Right, second: Right) -> float:
    """Return the exact two-sided p value of the hypothesis "no picture prefers a row".

    Each picture has a difference: the number of seeds with a correct answer of the first row, minus that
    of the second row. Under the null hypothesis both signs are equally likely; p is the probability that
    the sum is at least as far from 0 as the observed one. The test is about these tuned models; the
    bootstrap covers models of other seeds. A p below 1e-15 is returned as 1e-15.
    """
    law, reach, total = _flips(first, second)
    far = np.abs(2 * np.arange(reach + 1) - reach) >= abs(total)
    return min(1.0, max(_LEAST_P, float(law[far].sum())))


def average_p(sets: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the p value of `paired_p` for the mean difference over several sets with equal weights.

    The exchanges of all sets are counted together. Sums are rounded to a fine grid. Sums within the
    rounding error of the observed one count as equally far, so p is never too low.
    """
    flips = [(*_flips(*pair), pair[0].numel()) for pair in sets]
    step = 2 * sum(reach / answers for _, reach, _, answers in flips) / _GRID or 1.0
    law, centre = np.ones(1), 0
    for set_law, reach, _, answers in flips:
        positions = np.rint((2 * np.arange(reach + 1) - reach) / answers / step).astype(int)
        law = fftconvolve(law, np.bincount(positions - positions[0], set_law))
        centre -= int(positions[0])
    observed = sum(total / answers for _, _, total, answers in flips)
    far = np.abs(np.arange(len(law)) - centre) * step >= abs(observed) - step * len(flips)
    return min(1.0, max(_LEAST_P, float(np.maximum(law[far], 0).sum())))


def _flips(first: Right, second: Right) -> tuple[Law, int, int]:
    """Return the distribution of the gain in steps of two, its maximum, and the observed sum."""
    differences = (first.long().sum(0) - second.long().sum(0)).numpy()
    law = np.ones(1)
    for size, number in zip(*np.unique(np.abs(differences), return_counts=True), strict=True):
        if size:
            wide = np.zeros(number * size + 1)
            wide[::size] = binom.pmf(np.arange(number + 1), number, 0.5)
            law = np.maximum(fftconvolve(law, wide), 0) if len(law) > 1 else wide
    return law, int(np.abs(differences).sum()), int(differences.sum())


def holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected for the whole family (Holm, 1979), in the same order."""
    order = np.argsort(values, kind="stable")
    stepped = np.array(values, dtype=float)[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return adjusted.tolist()


@dataclass(frozen=True)
class RowAnswers:
    """Answers of one row's runs to one question.

    Attributes:
        training: Training data.
        dataset: Key of the test set.
        split: Split of the test set.
        condition: Test condition; empty for the plain test.
        accuracy: Accuracy in percent, by seed.
        right: `[S, P]` answers; None if seeds were tested on different pictures.
        digest: Fingerprint of the pictures, if it is equal for all seeds.
    """

    training: TrainingSet
    dataset: str
    split: str
    condition: str
    accuracy: Mapping[int, float]
    right: Tensor | None = field(repr=False)
    digest: str | None

    def of_seeds(self, seeds: Sequence[int]) -> Right:
        """Return `[S, P]` answers for these seeds, in this order."""
        assert self.right is not None
        known = list(self.accuracy)
        return self.right[[known.index(seed) for seed in seeds]]

    def shared_seeds(self, other: "RowAnswers") -> list[int]:
        """Return the seeds for which both rows have answers to the same pictures."""
        if self.right is None or other.right is None or self.digest != other.digest:
            return []
        return sorted(set(self.accuracy) & set(other.accuracy))


@dataclass(frozen=True)
class Estimate:
    """An estimate.

    Attributes:
        value: Value over all seeds and pictures.
        seeds: Value for each seed.
        draws: Value in each bootstrap draw; None if there are no draws.
        mark: "†" if a part is missing.
        tested: Fingerprints of the test pictures.
    """

    value: float
    seeds: Mapping[int, float]
    draws: Tensor | None = field(default=None, repr=False)
    mark: str = ""
    tested: tuple[str, ...] = ()

    @cached_property
    def interval(self) -> tuple[float | None, float | None]:
        """The ends of the 95 % interval."""
        return (None, None) if self.draws is None else interval(self.draws)


@dataclass(frozen=True)
class Bootstrap:
    """Source of bootstrap draws.

    Attributes:
        draws: Number of draws.
        seed: Seed of the generators.
    """

    draws: int = 2000
    seed: int = 0

    def _weights(self, training: TrainingSet, seeds: Iterable[int]) -> Weights:
        """Return the weight of each seed in each draw, equal for all questions to the runs of one set."""
        seeds = sorted(seeds)
        return seed_weights(len(seeds), self.draws, stream(self.seed, "seeds", *map(str, training), *seeds))

    def _stream(self, name: str, answers: RowAnswers) -> torch.Generator:
        question = (answers.dataset, answers.split, *map(str, answers.training))
        return stream(self.seed, name, *question, *([answers.condition] if answers.condition else []))

    def estimate(self, answers: RowAnswers, expected: Iterable[int]) -> Estimate:
        """Return the accuracy in percent; rows with equal answers have equal draws and intervals.

        Args:
            answers: Answers of a row.
            expected: Seeds that should exist.
        """
        mark = "" if set(expected) <= set(answers.accuracy) else "†"
        draws = None
        if answers.right is not None:
            weights = self._weights(answers.training, answers.accuracy)
            (draws,) = resampled(answers.right, [weights], self._stream("pictures", answers))
        value = mean(list(answers.accuracy.values()))
        return Estimate(value, answers.accuracy, draws, mark, (answers.digest or "several",))

    def both(self, first: RowAnswers, second: RowAnswers) -> tuple[Estimate, Estimate]:
        """Return two rows' estimates over their common seeds, drawn together; at least one is required."""
        common = first.shared_seeds(second)
        answers = torch.cat([first.of_seeds(common), second.of_seeds(common)])
        weights = self._weights(first.training, common)
        zeros = torch.zeros_like(weights)
        views = [torch.cat([weights, zeros], dim=1), torch.cat([zeros, weights], dim=1)]
        drawn = resampled(answers, views, self._stream("pairs", first))
        values = [{seed: row.accuracy[seed] for seed in common} for row in (first, second)]
        before, after = (
            Estimate(mean(list(accuracy.values())), accuracy, draws)
            for accuracy, draws in zip(values, drawn, strict=True)
        )
        return before, after


def hm(base: Estimate, new: Estimate) -> Estimate:
    """Return the harmonic mean of two averages, not the mean of harmonic means."""
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
    """Return the mean over sets; its seeds are the common seeds of all sets.

    Args:
        parts: One estimate for each set.
        complete: Whether no set is missing.
    """
    seeds = sorted(set.intersection(*(set(part.seeds) for part in parts)))
    by_seed = {seed: mean([part.seeds[seed] for part in parts]) for seed in seeds}
    draws = [part.draws for part in parts if part.draws is not None]
    drawn = torch.stack(draws).mean(0) if len(draws) == len(parts) else None
    mark = "" if complete and not any(part.mark for part in parts) else "†"
    tested = tuple(digest for part in parts for digest in part.tested)
    return Estimate(mean([part.value for part in parts]), by_seed, drawn, mark, tested)


def difference(before: Estimate, after: Estimate) -> Estimate:
    """Return the second minus the first estimate; both must have been drawn together."""
    seeds = {seed: after.seeds[seed] - before.seeds[seed] for seed in before.seeds if seed in after.seeds}
    drawn = None if before.draws is None or after.draws is None else after.draws - before.draws
    return Estimate(after.value - before.value, seeds, drawn, before.mark or after.mark)
