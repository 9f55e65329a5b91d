"""Choose a method for some shots: try candidates, pick one, and say what to expect of it."""

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
from foveate.train.folder import RUN, TRIALS, another, read_run
from foveate.train.loop import Diverged
from foveate.train.run import Run, bank_place, draw, load

MINUTES = 3.0
MORE = (8, 16)
"""Photos a class that forecasts add."""


def choose(
    wish: RunConfig,
    clip: Clip,
    data: Source | None = None,
    folder: Path | None = None,
    context: Context | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Choice:
    """Choose the method of a run. No picture is looked at that the run does not learn from.

    Args:
        wish: The run, with the method "auto".
        clip: The towers.
        data: Pictures that replace `wish.photos`.
        folder: Run folder; a choice that was made in it before is read. None keeps nothing on disk.
        context: The reporter.
        clock: Returns seconds that grow.

    Raises:
        InputError: The pictures cannot be used, or they are too few to hold any back; or the folder has
            another run.
    """
    context = context or Context()
    run = Run(wish, clip)
    chosen = draw(run, load(wish, data), context)
    masks = any(sample.mask for sample in chosen.photos.samples)
    request: dict[str, Any] = json.loads(json.dumps({**run.identity(chosen), "with_masks": masks}))
    made = None if folder is None else _made(folder, request)
    if made:
        return made
    if max(chosen.photos.counts().values()) < 2:
        raise InputError(
            "every class has one picture, so none can be held back to compare methods on: give more pictures,"
            f" or name a method (--method {REFERENCE})"
        )
    kept = folder and folder / TRIALS
    budget = Budget(60 * (wish.minutes or MINUTES), clock)
    trials = Trials(wish, clip, chosen, (kept, folder and bank_place(wish, folder)), budget, context.told)
    found = compare(trials, partial(reason_against, wish=wish, clip=clip, masks=masks))
    choice = weigh(trials, found, request, wish.seed)
    if folder and kept:
        choice.write(folder)
        shutil.rmtree(kept, ignore_errors=True)
    return choice


def weigh(trials: Trials, found: Compared, request: dict[str, Any], seed: int) -> Choice:
    """Return the choice that follows from what was tried.

    Args:
        trials: Tries the best method on fewer shots, if there is time.
        found: What was tried; the first is the reference.
        request: What was to be chosen.
        seed: Of the pictures that are drawn again.
    """
    candidates = [*found.candidates.values()]
    values, right = scores([*found.held.values()], found.labels), found.right
    own, leader = int(pick(values.mean(dim=0)[None])), best_beside(values)
    again = resample(values, right, stream(seed, "auto", "bootstrap"))
    curve, measured = _curve(trials, found, leader, again.optimism, seed)
    shots = len(trials.labels) / len(trials.labels.unique())
    accuracy = right.double().mean(dim=0).tolist()
    pictures = len(found.labels)
    order = sorted(range(len(candidates)), key=lambda place: (-float(values[:, place].mean()), place))
    return Choice(
        request=request,
        chosen=candidates[own].title,
        rows=tuple(_row(candidates[place], honest(accuracy[place], pictures)) for place in order),
        expected=curve.at(shots) if own else honest(accuracy[0] - again.optimism, pictures),
        gain=again.gain if leader else None,
        verdict=_verdict(candidates[own], candidates[leader], again.gain),
        forecast_of=candidates[leader].title if measured else "",
        forecasts=tuple(Forecast(more, curve.at(shots + more)) for more in MORE) if measured else (),
        left_out=found.left_out,
        held_out=pictures,
    )


def _row(candidate: Candidate, accuracy: Interval) -> Row:
    settings = {part: dict(own) for part, own in candidate.settings.items()}
    return Row(candidate.title, candidate.method, settings, accuracy)


def _verdict(own: Candidate, leader: Candidate, gain: Interval) -> str:
    """Say what the difference to the reference is worth."""
    if leader.method == REFERENCE:
        return "Nothing else was tried."
    reference, best = title(REFERENCE), leader.title
    by = f"{gain.value:+.1f} points ({gain.low:+.1f} to {gain.high:+.1f})"
    if own.method == REFERENCE:
        return f"Zero-shot {reference} is as good: {best} changes {by}."
    if gain.low > 0:
        return f"It is better than zero-shot {reference} by {by}."
    return f"Zero-shot {reference} may be as good: the difference, {by}, may be chance."


def _curve(trials: Trials, found: Compared, leader: int, optimism: float, seed: int) -> tuple[Curve, bool]:
    """Return the learning curve of the best candidate, and whether it was measured on fewer shots too."""
    candidate = [*found.candidates.values()][leader]
    wrong = 1 - float(found.right[:, leader].double().mean())
    last = _size(trials, found.parts), wrong
    points = list[tuple[float, float]]()
    try:
        for some in draws(trials.labels, seed) if leader else ():
            points.append((_size(trials, some), _error(trials, candidate, some)))
    except (OutOfTime, Diverged):
        points = []
    return Curve.of([*points, last], len(found.labels), optimism), bool(points)


def _error(trials: Trials, candidate: Candidate, parts: Sequence[Part]) -> float:
    """Return the share of wrong answers about the shots that parts leave out."""
    wrong = asked = 0
    for part, logits in zip(parts, trials.answers(candidate, parts), strict=True):
        wrong += int((logits.argmax(dim=1) != trials.labels[list(part.asked)]).sum())
        asked += len(part.asked)
    return wrong / asked


def _size(trials: Trials, parts: Sequence[Part]) -> float:
    """Return how many shots a class the parts learn from, on average."""
    return sum(len(part.learned) for part in parts) / len(parts) / len(trials.labels.unique())


def _made(folder: Path, request: dict[str, Any]) -> Choice | None:
    """Return the choice that was made in a folder before; refuse a folder with another run."""
    made = read_choice(folder)
    if made is None and not (folder / RUN).exists():
        return None
    held = made.request if made else read_run(folder).identity
    names = (held.keys() | request.keys()) - {"version"}
    differing = [name for name in names if held.get(name) != request.get(name)]
    if differing or made is None:
        raise InputError(another(folder, held, request, differing))
    return made
