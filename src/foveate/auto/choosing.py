"""Chooses a method for some shots: tries candidates, picks one, and estimates its accuracy."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from foveate.auto.candidates import Candidate, reason_against
from foveate.auto.choice import Choice, Forecast, Row, read_choice
from foveate.auto.comparing import Compared, compare
from foveate.auto.estimating import Curve, best_beside, honest, pick, resample, scores
from foveate.auto.parts import Part, draws
from foveate.auto.trials import Budget, OutOfTime, Trials
from foveate.clip.model import Clip
from foveate.data.sources import Source
from foveate.errors import InputError
from foveate.evaluate.intervals import Interval
from foveate.methods.registry import REFERENCE, title
from foveate.seeds import stream
from foveate.train.config import RunConfig
from foveate.train.context import Context
from foveate.train.folder import RUN, TRIALS, other_run_message, read_run
from foveate.train.loop import Diverged
from foveate.train.run import Run, bank_place, draw, load

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
