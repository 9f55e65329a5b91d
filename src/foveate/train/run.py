"""One run: its folder, its stages one after the other, each of them resumable.

A run folder has `run.json` (what the run is; written first), `log.jsonl`, `stages/<method>.safetensors` (the
resume state of each stage), `.bank` (features of frozen towers, while it runs), and in the end the tuned
model.
"""

import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from foveate.clip.model import Clip
from foveate.data.samples import Photos
from foveate.data.shelf import Shelf
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.methods.base import Method
from foveate.methods.capabilities import SupportSet, watchers
from foveate.methods.registry import Settings, build, parts, stages, wrap
from foveate.train.answered import LOG, answered
from foveate.train.banking import (
    BankPlan,
    Feed,
    OnCount,
    OnNote,
    open_bank,
    seen_as_asked,
    training_pictures,
)
from foveate.train.checkpoint import CARD, CONFIG, TENSORS
from foveate.train.journal import Journal, Step
from foveate.train.loop import Diverged, fit
from foveate.train.parallel import Team
from foveate.train.recipe import Recipe
from foveate.train.together import Shared, Steps

RUN, STAGES, BANK = "run.json", "stages", ".bank"
_TYPED = (
    *(
        "method",
        "backbone",
        "settings",
        "clip",
        "selection",
        "shots",
        "seed",
        "classes",
        "template",
        "recipe",
    ),
    *("names", "data", "bank_dtype"),
)

OnStep = Callable[[str, int, Step], None]
"""Told of each step: the stage's method, the steps it has in all, and the step."""


def refuse_folder(folder: Path) -> None:
    """Refuse a folder no run can be in, before any work is done for it.

    Raises:
        InputError: It is a file, or holds files that are no run's.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder to write to, new or empty")
    above = next((one for one in folder.parents if one.exists()), None)
    if above is not None and not above.is_dir():
        raise InputError(f"{above} is a file: choose an output folder somewhere else")
    if (folder / RUN).exists() or not folder.exists():
        return
    foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if foreign:
        raise InputError(
            f"{folder} is not empty and holds no run ({foreign[0]}): choose another output folder"
        )


def open_run(folder: Path, identity: Mapping[str, Any], sources: Mapping[str, Any]) -> bool:
    """Make or re-open a run folder.

    A run that was stopped before its first epoch was saved has nothing to lose: another may take its place.

    Args:
        folder: Made when missing.
        identity: Everything that decides the run's outcome, as JSON; another is another run.
        sources: Where its pictures were, for `evaluate`; they may have moved since.

    Returns:
        Whether the run has finished already.

    Raises:
        InputError: The folder holds another run, or files that are no run's.
        OSError: No space, no permission; a folder made here is then gone again.
    """
    refuse_folder(folder)
    wanted = json.loads(json.dumps(identity))
    finished = (folder / CONFIG).exists()
    if (folder / RUN).exists():
        held = read_run(folder)["identity"]
        differing = [key for key in wanted.keys() | held.keys() if wanted.get(key) != held.get(key)]
        if finished:  # what wrote it does not matter any more
            differing = [key for key in differing if key != "version"]
        if differing and (finished or _states(folder)):
            raise InputError(_another(folder, held, wanted, differing))
        if finished:
            return True
        if differing:
            (folder / LOG).unlink(missing_ok=True)
    _clear_leftovers(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        text = json.dumps({"identity": wanted, "sources": sources}, indent=2, ensure_ascii=False)
        write_atomically(folder / RUN, text + "\n")
    except OSError:
        if made:
            folder.rmdir()
        raise
    return False


def abandon_run(folder: Path, *, keep_states: bool) -> None:
    """Free the folder of a run that cannot be finished for another try.

    Args:
        folder: Nothing but what a run writes is removed.
        keep_states: Whether to leave everything as it is once an epoch was saved, to go on from there. A run
            that diverged cannot go on; its states go and its log stays, to be looked at.
    """
    if keep_states and _states(folder):
        return
    for path in (*_states(folder), *((folder / LOG, folder / RUN) if keep_states else ())):
        path.unlink(missing_ok=True)
    drop_bank(folder)
    for emptied in (folder / STAGES, folder):
        if emptied.is_dir() and not any(emptied.iterdir()):
            emptied.rmdir()


def drop_bank(folder: Path) -> None:
    """Remove the features that a run keeps in its own folder while it runs."""
    Shelf(folder / BANK).clear()


def read_run(folder: Path) -> dict[str, Any]:
    """Return `identity` and `sources` of a run folder.

    Raises:
        InputError: There is no `run.json`, or it is damaged.
    """
    path = folder / RUN
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        identity, sources = dict(values["identity"]), dict(values["sources"])
        sources["reading"] = dict(sources["reading"])
        for key in ("data", "masks"):
            if not isinstance(sources[key], str | None):
                raise TypeError(key)
        return {"identity": identity, "sources": sources}
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no {RUN}: say where the pictures are with --data") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: delete {folder}, or choose another output folder") from error


def _states(folder: Path) -> list[Path]:
    return sorted((folder / STAGES).glob("*.safetensors"))


def _clear_leftovers(folder: Path) -> None:
    """Remove what a kill in the middle of `write_atomically` leaves behind."""
    for place, names in ((folder, (RUN, CONFIG, TENSORS, CARD, LOG)), (folder / STAGES, ("*.safetensors",))):
        for name in names:
            for path in place.glob(f".{name}.*"):
                path.unlink(missing_ok=True)


def _another(
    folder: Path, held: Mapping[str, Any], wanted: Mapping[str, Any], differing: Sequence[str]
) -> str:
    """Say which setting differs: one that was typed rather than one that follows from it."""
    key = min(differing, key=lambda key: (_TYPED.index(key) if key in _TYPED else len(_TYPED), key))
    was, now = held.get(key), wanted.get(key)
    while isinstance(was, dict) and isinstance(now, dict):
        was, now = cast("dict[str, Any]", was), cast("dict[str, Any]", now)
        inner = next(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
        key, was, now = f"{key}.{inner}", was.get(inner), now.get(inner)
    said = {"data": "other pictures or masks", "names": "other classes", "backbone": "another backbone"}
    what = said.get(key, f"{key} was {_short(was)}, now {_short(now)}")
    return f"{folder} holds another run ({what}): choose another output folder, or delete it"


def run_stages(  # noqa: PLR0913  (everything that decides a run, all by name)
    method: str,
    clip: Clip,
    photos: Photos,
    recipe: Recipe,
    *,
    settings: Settings | None = None,
    template: str | None = None,
    seed: int = 1,
    val: Photos | None = None,
    backbone: Method | None = None,
    folder: Path | None = None,
    bank: BankPlan | None = None,
    on_step: OnStep | None = None,
    on_count: OnCount | None = None,
    on_note: OnNote | None = None,
    log_answers: bool = False,
    team: Team | None = None,
) -> Method:
    """Train backbone and plug-ins, each on the frozen one before.

    Args:
        method: E.g. "fvgpt+coop": CoOp first, then FVG-PT on it.
        clip: The frozen towers.
        photos: Pictures to train on, with masks where the method needs them.
        recipe: Of every stage.
        settings: Per part of the method, what differs from its defaults.
        template: The data set's sentence.
        seed: Of starts, orders and views.
        val: Pictures that methods may choose settings on; no test pictures.
        backbone: The inner method, tuned, its classes set; only the outermost plug-in is trained then.
        folder: The run folder; None keeps nothing and cannot resume.
        bank: Where features of frozen towers are kept; None encodes each view whenever it is needed.
        on_step: Told of each step.
        on_count: Told of views encoded for the bank.
        on_note: Told of the bank's size before it is made.
        log_answers: Log after each epoch which pictures are answered rightly.
        team: Processes that all call this, to share each batch. Only the first one's folder counts, and only
            that one tells of anything.
    """
    built = backbone
    if team is not None and not team.first:
        folder = on_step = on_count = on_note = None
    # Orders and views are the seed's, so every stage sees the same shots in the same views.
    pictures = training_pictures(photos, clip.config, recipe, seed)
    kept = None if bank is None else open_bank(bank, pictures, clip, team)
    held_back = None if val is None or not len(val) else seen_as_asked(val, clip.config)
    for stage in stages(method) if backbone is None else stages(method)[-1:]:
        plugin = parts(stage)[0]
        own_recipe = recipe if built is None else replace(recipe, average_mean=None)
        own = {name: dict(values) for name, values in (settings or {}).items()}
        built = (
            build(stage, clip, {k: v for k, v in own.items() if k in parts(stage)}, seed)
            if built is None
            else wrap(plugin, built, own, seed)
        )
        built.set_classes(photos.names, template)
        feed = Feed(stage, built, pictures, own_recipe, kept, on_count, on_note, team)
        logged = photos if log_answers else None
        steps = None if team is None else _shared(stage, team, min(own_recipe.batch_size, len(pictures)))
        _fit_stage(stage, built, feed, own_recipe, folder, on_step, feed.support(held_back), logged, steps)
        if team is None or team.first:
            for part in reversed(watchers(built)):
                for note in part.warnings():
                    warnings.warn(note, stacklevel=2)
    assert built is not None
    return built


def _shared(stage: str, team: Team, pictures: int) -> Steps:
    """Return how a team takes the steps of a stage; say if batches are too small for it."""
    idle = team.share.world - pictures
    if idle > 0 and team.first:
        warnings.warn(
            f"{stage}: {team.share.world} processes share batches of {pictures}, so that {idle} of them"
            " have no picture of their own; a larger --batch-size gives them some",
            stacklevel=3,
        )
    return Shared(team, pictures)


def _fit_stage(  # noqa: PLR0913  (of `run_stages` alone)
    stage: str,
    method: Method,
    feed: Feed,
    recipe: Recipe,
    folder: Path | None,
    on_step: OnStep | None,
    support: SupportSet,
    logged: Photos | None,
    steps: Steps | None,
) -> None:
    total = recipe.epochs * feed.pictures.steps(recipe.batch_size, drop_last=True)
    state = journal = None
    answers = partial(answered, method, logged) if logged else None
    if answers and steps:  # nobody reads them, but whoever waits for the first process could give up
        journal = Journal(None, stage, answers)
    if folder:
        (folder / STAGES).mkdir(exist_ok=True)
        state = folder / STAGES / f"{re.sub('[^a-z0-9]+', '-', stage)}.safetensors"
        journal = Journal(folder / LOG, stage, answers)
    watch = partial(on_step, stage, total) if on_step else None
    try:
        fit(method, feed, recipe, support=support, state=state, journal=journal, on_step=watch, steps=steps)
    except Diverged as error:
        raise Diverged(f"{stage}, {error}") from error


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "…"
