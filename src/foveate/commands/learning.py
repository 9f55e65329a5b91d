"""From the options of `foveate fit` to tuned models: one run, or a table of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from foveate.classifier import Classifier
from foveate.clip.config import EMBEDDED
from foveate.commands.launched import launched
from foveate.commands.options import Command, print_options
from foveate.commands.rows import RowRuns, named, plan, read_files
from foveate.commands.screen import Bars, note, notes_for_warnings, print_table
from foveate.errors import InputError
from foveate.train.checkpoint import CONFIG
from foveate.train.config import RunConfig
from foveate.train.context import Context
from foveate.train.loop import Diverged
from foveate.train.parallel import ProcessGroup
from foveate.train.reporter import Reporter, Titled


@dataclass(frozen=True)
class Learned:
    """What a run has come to.

    Attributes:
        method: E.g. "fvgpt+coop".
        numbers: How many it learned.
        pictures: How many it learned from.
        classes: How many it learned.
        ended: How and where it ended, in words.
    """

    method: str
    numbers: int
    pictures: int
    classes: int
    ended: str


def fit(command: Command, words: Sequence[str]) -> None:
    """Do what `foveate fit` was asked for; where torchrun has started several processes, together.

    Args:
        command: All that it can be told.
        words: What stands behind its name.

    Raises:
        InputError: Anything wrong with what was given.
    """
    with launched() as team:
        typed = command.read(words)
        printed, files = typed.pop("print_config", False), read_files(command, typed.pop("config", []))
        if not files.rows:
            _fit_one({**files.common, **typed}, team, printed=printed)
        elif team:
            raise InputError(
                f"{files.title} has rows, which are many runs, and processes that train together share one:"
                " start one process, or take foveate sweep"
            )
        else:
            fit_rows(plan(files, typed, printed=printed))


def _fit_one(options: dict[str, Any], team: ProcessGroup | None, *, printed: bool) -> None:
    """Train one run, and print what has come of it."""
    if options.get("row") is not None:
        raise InputError("--row chooses a row of a file of options: give one that has rows, with --config")
    if printed:
        print_options(options)
    missing = [flag for name, flag in (("photos", "PHOTOS"), ("out", "--out")) if options.get(name) is None]
    if missing:
        raise InputError(f"missing: {', '.join(missing)} (see foveate fit --help)")
    folder = options.pop("out")
    config = RunConfig.of(options)
    with notes_for_warnings(), Bars() as bars:
        learned = learn(config, folder, classifier_of(config, team=team), Context(bars, team))
    _note_the_embedded(config)
    Console(highlight=False).print(
        f"{learned.method}: learned {learned.numbers:,} numbers from {learned.pictures} pictures"
        f" of {learned.classes} classes; {learned.ended}",
        soft_wrap=True,
        markup=False,
    )


def fit_rows(table: RowRuns) -> None:
    """Train a table's runs, and print a line for each row; one that diverges does not stop the others.

    Raises:
        InputError: Anything that is wrong; the message names the row.
    """
    _note_the_embedded(*(one.config for one in table.runs.values()))
    with notes_for_warnings(), Bars() as bars:
        done = _train(table, bars)
    lines: list[list[str]] = []
    for name, folder in table.rows.items():
        what = done[folder]
        if isinstance(what, Learned):
            lines.append([name, what.method, f"{what.numbers:,}", what.ended])
        else:
            lines.append([name, table.runs[folder].config.method, "", "diverged"])
    print_table(["row", "method", "learned numbers", ""], lines)
    wrong = next((one for one in done.values() if isinstance(one, Diverged)), None)
    if wrong:
        raise wrong


def _train(table: RowRuns, reporter: Reporter) -> dict[str, Learned | Diverged]:
    """Train every run of a table that has not finished; return by folder what has come of it."""
    classifiers = _classifiers(table)
    done: dict[str, Learned | Diverged] = {}
    for count, run in enumerate(table.runs.values(), 1):
        below = done.get(run.config.backbone or "")
        if isinstance(below, Diverged):
            done[run.folder] = below
            continue
        note(f"run {count} of {len(table.runs)}: {run.title}, in {run.folder}")
        try:
            with named(run.title):
                context = Context(Titled(reporter, run.title))
                done[run.folder] = learn(run.config, run.folder, classifiers[run.folder], context)
        except Diverged as error:
            done[run.folder] = error
    return done


def learn(config: RunConfig, folder: str, classifier: Classifier, context: Context) -> Learned:
    """Do a run.

    Args:
        config: What it is.
        folder: Where it goes.
        classifier: Untrained, of the run's method and towers.
        context: Who hears of it, and which processes do it together.
    """
    finished = (Path(folder) / CONFIG).is_file()
    model = classifier.train(config, out=folder, context=context).config
    assert model is not None
    numbers = sum(tensor.numel() for tensor in classifier.method.learned().values())
    ended = f"had finished before, in {folder}" if finished else f"saved in {folder}"
    return Learned(model.method, numbers, model.pictures, len(model.names), ended)


def classifier_of(
    config: RunConfig, like: Classifier | None = None, team: ProcessGroup | None = None
) -> Classifier:
    """Build an untrained classifier for a run.

    Args:
        config: What it is.
        like: One on the same towers, if there is one already.
        team: Processes that train together, each on a GPU of its own.
    """
    if like:
        return like.beside(config.method, config.settings)
    device = team.device(config.device) if team else config.device
    precision = getattr(torch, config.dtype)
    return Classifier(config.method, config.clip, settings=config.settings, device=device, dtype=precision)


def _classifiers(table: RowRuns) -> dict[str, Classifier]:
    """Build all of them first, so that a setting out of its range is known before hours of training."""
    built: dict[str, Classifier] = {}
    towers: dict[tuple[str, str, str], Classifier] = {}
    for run in table.runs.values():
        place = (run.config.clip, run.config.device, run.config.dtype)
        with named(run.title):
            built[run.folder] = classifier_of(run.config, towers.get(place))
        towers.setdefault(place, built[run.folder])
    return built


def _note_the_embedded(*configs: RunConfig) -> None:
    if any(one.clip in EMBEDDED for one in configs):
        note("the embedded CLIP has seen drawn shapes only; for photographs give --clip")
