"""Chooses a method for some shots: tries candidates, picks one, and estimates its accuracy."""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.auto.choice import Choice, Forecast, Row, read_choice
from foveate.auto.trials import (
    Budget,
    Candidate,
    OutOfTime,
    Part,
    Trials,
    backbones_to_try,
    draws,
    folds,
    plugins_to_try,
    reason_against,
)
from foveate.clip.model import Clip
from foveate.data.sources import Source
from foveate.errors import InputError
from foveate.evaluate.metrics import Interval, wilson
from foveate.methods.registry import REFERENCE, title
from foveate.readers import one_line
from foveate.seeds import stream
from foveate.train.config import RunConfig
from foveate.train.context import Context
from foveate.train.folder import RUN, TRIALS, other_run_message, read_run
from foveate.train.loop import Diverged
from foveate.train.run import Run, bank_place, draw, load
from foveate.trust.trust import fit_temperature
from foveate.types import Labels, Logits

# Estimates the accuracy of the chosen method from answers for held-out shots, with two corrections.
#
# - The best of several methods on the same pictures looks better than it is: the choice is repeated on
#   pictures drawn with replacement, and evaluated on those not drawn. Bootstrapping the out-of-sample
#   predictions for efficient and accurate cross-validation, Tsamardinos et al. 2018,
#   https://arxiv.org/abs/1708.07180
# - A method that learned from three of four shots looks worse than one that learns from all: errors fall as
#   a power of the number of shots, which is fitted on draws of fewer shots. Learning Curves: Asymptotic
#   Values and Rate of Convergence, Cortes et al. 1993


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


# Tries candidates one after another on the same folds: first backbones, then plug-ins over the best.


LATE = "the time was over (--minutes)"


@dataclass
class Compared:
    """Candidates that were tried.

    Attributes:
        parts: The folds.
        labels: `[M]` labels of the held-out shots, fold after fold.
        logits: `[M, C]` logits of these shots for each candidate, by title, in the order of trying.
        candidates: The tried candidates, by title.
        left_out: Reason why a candidate was not tried, by title.
    """

    parts: list[Part]
    labels: Labels
    logits: dict[str, Logits] = field(default_factory=dict[str, Logits])
    candidates: dict[str, Candidate] = field(default_factory=dict[str, Candidate])
    left_out: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def right(self) -> Bool[Tensor, "pictures candidates"]:
        """`[M, K]` whether each answer for a held-out shot is right."""
        return torch.stack([each.argmax(dim=1) == self.labels for each in self.logits.values()], dim=1)

    def best_first(self) -> list[Candidate]:
        """Return the candidates, the most accurate first; among equals, in the order of trying."""
        counts: list[int] = self.right.sum(dim=0).tolist()
        titles = [*self.logits]
        order = sorted(range(len(titles)), key=lambda index: (-counts[index], index))
        return [self.candidates[titles[index]] for index in order]


def compare(trials: Trials, reason_against: Callable[[Candidate], str | None]) -> Compared:
    """Try all candidates, until the time is over.

    Args:
        trials: Trials of the run.
        reason_against: Returns why a candidate cannot be tried; None if it can.
    """
    parts = folds(trials.labels)
    compared = Compared(parts, trials.labels[[row for part in parts for row in part.test]])
    _try(trials, compared, backbones_to_try(), reason_against)
    _try(trials, compared, plugins_to_try(compared.best_first() if compared.logits else []), reason_against)
    return compared


def _try(
    trials: Trials,
    compared: Compared,
    candidates: Iterable[Candidate],
    reason_against: Callable[[Candidate], str | None],
) -> None:
    late = LATE in compared.left_out.values()
    for candidate in candidates:
        reason = reason_against(candidate) or (LATE if late else None)
        if reason is None:
            try:
                compared.logits[candidate.title] = torch.cat(trials.answers(candidate, compared.parts))
                compared.candidates[candidate.title] = candidate
            except OutOfTime:
                late, reason = True, LATE
            except InputError as error:  # its training diverged, or it cannot take these names
                if candidate.method == REFERENCE:
                    raise
                reason = one_line(error)
        if reason is not None:
            compared.left_out[candidate.title] = reason


# Chooses the method.


MINUTES = 3.0
MORE = (8, 16)
"""Additional photos per class of the forecasts."""


def choose(
    wish: RunConfig,
    clip: Clip,
    data: Source | None = None,
    folder: Path | None = None,
    context: Context | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Choice:
    """Choose the method of a run. It uses only pictures that the run learns from.

    Args:
        wish: The run, with the method "auto".
        clip: The towers.
        data: Pictures that replace `wish.photos`.
        folder: Run folder; an earlier choice in it is read. None stores nothing on disk.
        context: The reporter.
        clock: Returns seconds; monotonic.

    Raises:
        InputError: The pictures cannot be used, or are too few to hold any back; or the folder has another
            run.
    """
    context = context or Context()
    run = Run(wish, clip)
    chosen = draw(run, load(wish, data), context)
    masks = any(sample.mask for sample in chosen.photos.samples)
    request: dict[str, Any] = json.loads(json.dumps({**run.identity(chosen), "with_masks": masks}))
    previous = None if folder is None else _previous_choice(folder, request)
    if previous:
        return previous
    if max(chosen.photos.counts().values()) < 2:
        raise InputError(
            "every class has one picture, so none can be held back to compare methods on: give more pictures,"
            f" or name a method (--method {REFERENCE})"
        )
    store = folder and folder / TRIALS
    budget = Budget(60 * (wish.minutes or MINUTES), clock)
    trials = Trials(
        wish, clip, chosen, (store, folder and bank_place(wish, folder)), budget, context.local_reporter
    )
    compared = compare(trials, partial(reason_against, wish=wish, clip=clip, masks=masks))
    choice = weigh(trials, compared, request, wish.seed)
    if folder and store:
        choice.write(folder)
        shutil.rmtree(store, ignore_errors=True)
    return choice


def weigh(trials: Trials, compared: Compared, request: dict[str, Any], seed: int) -> Choice:
    """Return the choice that follows from the comparison.

    Args:
        trials: Tries the best method on fewer shots, if there is time.
        compared: Tried candidates; the first is the reference.
        request: Identity of the run whose method is to be chosen.
        seed: Seed of the bootstrap.
    """
    candidates = [*compared.candidates.values()]
    values, right = scores([*compared.logits.values()], compared.labels), compared.right
    winner, leader = int(pick(values.mean(dim=0)[None])), best_beside(values)
    resampled = resample(values, right, stream(seed, "auto", "bootstrap"))
    curve, measured = _curve(trials, compared, leader, resampled.optimism, seed)
    shots = len(trials.labels) / len(trials.labels.unique())
    accuracy = right.double().mean(dim=0).tolist()
    pictures = len(compared.labels)
    order = sorted(range(len(candidates)), key=lambda index: (-float(values[:, index].mean()), index))
    return Choice(
        request=request,
        chosen=candidates[winner].title,
        rows=tuple(_row(candidates[index], honest(accuracy[index], pictures)) for index in order),
        expected=curve.at(shots) if winner else honest(accuracy[0] - resampled.optimism, pictures),
        gain=resampled.gain if leader else None,
        verdict=_verdict(candidates[winner], candidates[leader], resampled.gain),
        forecast_of=candidates[leader].title if measured else "",
        forecasts=tuple(Forecast(more, curve.at(shots + more)) for more in MORE) if measured else (),
        left_out=compared.left_out,
        held_out=pictures,
    )


def _row(candidate: Candidate, accuracy: Interval) -> Row:
    settings = {part: dict(values) for part, values in candidate.settings.items()}
    return Row(candidate.title, candidate.method, settings, accuracy)


def _verdict(winner: Candidate, leader: Candidate, gain: Interval) -> str:
    """Return what the difference to the reference means, in a sentence."""
    if leader.method == REFERENCE:
        return "Nothing else was tried."
    reference, best = title(REFERENCE), leader.title
    difference = f"{gain.value:+.1f} points ({gain.low:+.1f} to {gain.high:+.1f})"
    if winner.method == REFERENCE:
        return f"Zero-shot {reference} is as good: {best} changes {difference}."
    if gain.low > 0:
        return f"It is better than zero-shot {reference} by {difference}."
    return f"Zero-shot {reference} may be as good: the difference, {difference}, may be chance."


def _curve(trials: Trials, compared: Compared, leader: int, optimism: float, seed: int) -> tuple[Curve, bool]:
    """Return the learning curve of the best candidate, and whether it was also measured on fewer shots."""
    candidate = [*compared.candidates.values()][leader]
    error = 1 - float(compared.right[:, leader].double().mean())
    last_point = _size(trials, compared.parts), error
    points = list[tuple[float, float]]()
    try:
        for parts in draws(trials.labels, seed) if leader else ():
            points.append((_size(trials, parts), _error(trials, candidate, parts)))
    except (OutOfTime, Diverged):
        points = []
    return Curve.of([*points, last_point], len(compared.labels), optimism), bool(points)


def _error(trials: Trials, candidate: Candidate, parts: Sequence[Part]) -> float:
    """Return the share of wrong answers for the shots that the parts ask about."""
    wrong = total = 0
    for part, logits in zip(parts, trials.answers(candidate, parts), strict=True):
        wrong += int((logits.argmax(dim=1) != trials.labels[list(part.test)]).sum())
        total += len(part.test)
    return wrong / total


def _size(trials: Trials, parts: Sequence[Part]) -> float:
    """Return the mean number of shots per class that the parts learn from."""
    return sum(len(part.train) for part in parts) / len(parts) / len(trials.labels.unique())


def _previous_choice(folder: Path, request: dict[str, Any]) -> Choice | None:
    """Return an earlier choice in a folder; refuse a folder with another run."""
    choice = read_choice(folder)
    if choice is None and not (folder / RUN).exists():
        return None
    identity = choice.request if choice else read_run(folder).identity
    names = (identity.keys() | request.keys()) - {"version"}
    differing = [name for name in names if identity.get(name) != request.get(name)]
    if differing or choice is None:
        raise InputError(other_run_message(folder, identity, request, differing))
    return choice
