"""Figures with what is known of their chance: seed by seed, and in bootstrap draws.

An `Estimate` is made of one question's answers, and others are made of it: the harmonic mean of base and new,
the average over sets. Each is worked out in every bootstrap draw as it is on the whole, so its interval is
that of the figure itself.

Seeds are drawn once for each set that was trained on, so base and new of one run rise and fall together, and
so do all targets of one source. Pictures are drawn for each test split.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foveate.evaluate.metrics import harmonic_mean, mean
from foveate.report.lines import Line, Place
from foveate.report.model import Number
from foveate.report.statistics import deviation, interval, resampled, seed_weights
from foveate.seeds import stream
from foveate.sweep.results import unpacked


@dataclass(frozen=True)
class Answers:
    """One question, answered by one row's runs.

    Attributes:
        place: What was trained on.
        dataset: Key of the test set.
        split: Of it.
        accuracy: Percent right, by seed.
        right: `[S, P]` answers; None where seeds were tested on different pictures.
        digest: Fingerprint of the pictures, where there is one for all seeds.
        pictures: How many.
        classes: How many names there were to choose from.
    """

    place: Place
    dataset: str
    split: str
    accuracy: Mapping[int, float]
    right: Tensor | None
    digest: str | None
    pictures: int
    classes: int

    def of_seeds(self, seeds: Sequence[int]) -> Tensor:
        """Return `[S, P]` answers under these seeds, in this order."""
        assert self.right is not None
        known = list(self.accuracy)
        return self.right[[known.index(seed) for seed in seeds]]


def answers_of(line: Line, place: Place, dataset: str, split: str) -> Answers | None:
    """Return what a row's runs answered; None if no run was asked."""
    runs = line.runs.get(place, {})
    found = {seed: one for seed, run in runs.items() if (one := run.of(dataset, split)) is not None}
    if not found:
        return None
    first = next(iter(found.values()))
    alike = len({(one.digest, one.pictures) for one in found.values()}) == 1
    right = torch.stack([unpacked(one.right, one.pictures) for one in found.values()]) if alike else None
    accuracy = {seed: one.accuracy for seed, one in found.items()}
    digest = first.digest if alike else None
    return Answers(place, dataset, split, accuracy, right, digest, first.pictures, first.classes)


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

    def number(self, published: float | None = None, *, best: bool = False, signed: bool = False) -> Number:
        """Return it as a figure of a table."""
        low, high = (None, None) if self.draws is None else interval(self.draws)
        spread = deviation(list(self.seeds.values()))
        seeds = len(self.seeds)
        return Number(
            self.value, spread, seeds, low, high, published, mark=self.mark, best=best, signed=signed
        )


@dataclass(frozen=True)
class Bootstrap:
    """Where draws come from.

    Attributes:
        draws: How many.
        seed: Of their streams; each is named by what is drawn, so none depends on the order of files.
    """

    draws: int = 2000
    seed: int = 0

    def weights(self, place: Place, seeds: Iterable[int]) -> Tensor:
        """Return what each seed counts in each draw, the same for all that one set's runs were asked."""
        seeds = sorted(seeds)
        return seed_weights(len(seeds), self.draws, stream(self.seed, "seeds", *map(str, place), *seeds))

    def estimate(self, answers: Answers, wanted: Sequence[int]) -> Estimate:
        """Return percent right; rows that gave the same answers have the same draws and interval.

        Args:
            answers: Of a row.
            wanted: Seeds that there should be.
        """
        mark = "" if set(wanted) <= set(answers.accuracy) else "†"
        draws = None
        if answers.right is not None:
            weights = self.weights(answers.place, answers.accuracy)
            generator = stream(
                self.seed, "pictures", answers.dataset, answers.split, *map(str, answers.place)
            )
            (draws,) = resampled(answers.right, [weights], generator)
        tested = (answers.digest or "several",)
        return Estimate(mean(list(answers.accuracy.values())), answers.accuracy, draws, mark, tested)

    def both(self, first: Answers, second: Answers) -> tuple[Estimate, Estimate] | None:
        """Return two rows' figures, drawn together; None if they share no seed or no pictures."""
        common = sorted(set(first.accuracy) & set(second.accuracy))
        if not common or first.right is None or second.right is None or first.digest != second.digest:
            return None
        answers = torch.cat([first.of_seeds(common), second.of_seeds(common)])
        weights = self.weights(first.place, common)
        none = torch.zeros_like(weights)
        views = [torch.cat([weights, none], dim=1), torch.cat([none, weights], dim=1)]
        where = (first.dataset, first.split, *map(str, first.place))
        before, after = resampled(answers, views, stream(self.seed, "pairs", *where))
        return _over(first, common, before), _over(second, common, after)


def _over(answers: Answers, seeds: Sequence[int], draws: Tensor) -> Estimate:
    values = {seed: answers.accuracy[seed] for seed in seeds}
    return Estimate(mean(list(values.values())), values, draws)


def hm(base: Estimate, new: Estimate) -> Estimate:
    """Return the harmonic mean of two averages: never the mean of harmonic means."""
    draws = None
    if base.draws is not None and new.draws is not None:
        total = base.draws + new.draws
        draws = torch.where(total > 0, 2 * base.draws * new.draws / total, 0.0)
    seeds = {
        seed: harmonic_mean(base.seeds[seed], new.seeds[seed]) for seed in base.seeds if seed in new.seeds
    }
    tested = base.tested + new.tested
    return Estimate(harmonic_mean(base.value, new.value), seeds, draws, base.mark or new.mark, tested)


def average(parts: Sequence[Estimate], complete: bool = True) -> Estimate:
    """Return the mean over sets; its seeds are those that all sets have.

    Args:
        parts: One of each set.
        complete: Whether there is one of each set that there should be.
    """
    draws = [part.draws for part in parts if part.draws is not None]
    seeds = sorted(set.intersection(*(set(part.seeds) for part in parts)))
    by_seed = {seed: mean([part.seeds[seed] for part in parts]) for seed in seeds}
    mark = "" if complete and not any(part.mark for part in parts) else "†"
    drawn = torch.stack(draws).mean(0) if len(draws) == len(parts) else None
    tested = tuple(digest for part in parts for digest in part.tested)
    return Estimate(mean([part.value for part in parts]), by_seed, drawn, mark, tested)


def difference(before: Estimate, after: Estimate) -> Estimate:
    """Return by how much the second is higher; both must have been drawn together."""
    seeds = {seed: after.seeds[seed] - before.seeds[seed] for seed in before.seeds if seed in after.seeds}
    drawn = None if before.draws is None or after.draws is None else after.draws - before.draws
    return Estimate(after.value - before.value, seeds, drawn, before.mark or after.mark)
