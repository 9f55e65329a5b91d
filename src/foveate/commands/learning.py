"""`foveate fit`: train one run, or a table of runs, from options."""

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from foveate.auto.choice import Choice, interval_text
from foveate.classifier import Classifier
from foveate.commands.options import Command, print_options
from foveate.commands.rows import RowRuns, named, plan, read_files
from foveate.commands.screen import Bars, note, note_embedded, note_precision, notes_for_warnings, print_table
from foveate.errors import InputError
from foveate.files import home_of
from foveate.train.checkpoint import CONFIG
from foveate.train.config import RunConfig
from foveate.train.context import Context
from foveate.train.journal import Reporter, Titled
from foveate.train.loop import Diverged
from foveate.train.parallel import ProcessGroup, ProcessLost


@dataclass(frozen=True)
class Learned:
    """Outcome of a run.

    Attributes:
        method: Name of the method, e.g. "fvgpt+coop".
        numbers: Number of learned parameters.
        pictures: Number of training pictures.
        classes: Number of trained classes.
        ended: When the run finished (now or before), and its folder, in words.
    """

    method: str
    numbers: int
    pictures: int
    classes: int
    ended: str


def fit(command: Command, words: Sequence[str]) -> None:
    """Run `foveate fit`; under torchrun all processes train together.

    Args:
        command: The command with its options.
        words: The words after its name.

    Raises:
        InputError: An option or the data cannot be used.
    """
    with launched() as process_group:
        typed = command.read(words)
        printed, files = typed.pop("print_config", False), read_files(command, typed.pop("config", []))
        if not files.rows:
            _fit_one(command, {**files.common, **typed}, process_group, printed=printed)
        elif process_group:
            raise InputError(
                f"{files.title} has rows, which are many runs, and processes that train together share one:"
                " start one process, or take foveate sweep"
            )
        else:
            fit_rows(plan(command, files, typed, printed=printed))


def _fit_one(
    command: Command, options: dict[str, Any], process_group: ProcessGroup | None, *, printed: bool
) -> None:
    """Train one run and print its outcome."""
    if options.get("row") is not None:
        raise InputError("--row chooses a row of a file of options: give one that has rows, with --config")
    if printed:
        print_options(options)
    command.demand(options)
    folder = options.pop("out")
    config = RunConfig.of(options)
    with notes_for_warnings(), Bars() as bars:
        classifier = classifier_of(config, process_group=process_group)
        learned = learn(config, folder, classifier, Context(bars, process_group))
    note_embedded(config.clip)
    note_precision(config.dtype)
    if classifier.choice:
        print_choice(classifier.choice)
    Console(highlight=False).print(
        f"{learned.method}: learned {learned.numbers:,} numbers from {learned.pictures} pictures"
        f" of {learned.classes} classes; {learned.ended}",
        soft_wrap=True,
        markup=False,
    )


def fit_rows(table: RowRuns) -> None:
    """Train a table of runs and print a line per row; a diverged run does not stop the others.

    Raises:
        InputError: A row cannot be used; the message names the row.
    """
    note_embedded(*(run.config.clip for run in table.runs.values()))
    for dtype in sorted({run.config.dtype for run in table.runs.values()}):
        note_precision(dtype)
    with notes_for_warnings(), Bars() as bars:
        outcomes = _train(table, bars)
    lines: list[list[str]] = []
    for name, folder in table.rows.items():
        outcome = outcomes[folder]
        if isinstance(outcome, Learned):
            lines.append([name, outcome.method, f"{outcome.numbers:,}", outcome.ended])
        else:
            lines.append([name, table.runs[folder].config.method, "", "diverged"])
    print_table(["row", "method", "learned numbers", ""], lines)
    diverged = next((result for result in outcomes.values() if isinstance(result, Diverged)), None)
    if diverged:
        raise diverged


def _train(table: RowRuns, reporter: Reporter) -> dict[str, Learned | Diverged]:
    """Train each unfinished run of a table; return outcomes by folder."""
    classifiers = _classifiers(table)
    outcomes: dict[str, Learned | Diverged] = {}
    for count, run in enumerate(table.runs.values(), 1):
        backbone_outcome = outcomes.get(run.config.backbone or "")
        if isinstance(backbone_outcome, Diverged):
            outcomes[run.folder] = backbone_outcome
            continue
        note(f"run {count} of {len(table.runs)}: {run.title}, in {run.folder}")
        try:
            with named(run.title):
                context = Context(Titled(reporter, run.title))
                outcomes[run.folder] = learn(run.config, run.folder, classifiers[run.folder], context)
        except Diverged as error:
            outcomes[run.folder] = error
    return outcomes


def learn(config: RunConfig, folder: str, classifier: Classifier, context: Context) -> Learned:
    """Train one run.

    Args:
        config: Settings of the run.
        folder: Run folder.
        classifier: Untrained classifier with the run's method and towers.
        context: The reporter and the process group of the run.
    """
    finished = (home_of(folder) / CONFIG).is_file()
    model = classifier.train(config, out=folder, context=context).config
    assert model is not None
    numbers = sum(tensor.numel() for tensor in classifier.method.learned().values())
    ended = f"had finished before, in {folder}" if finished else f"saved in {folder}"
    return Learned(model.method, numbers, model.pictures, len(model.names), ended)


def classifier_of(
    config: RunConfig, like: Classifier | None = None, process_group: ProcessGroup | None = None
) -> Classifier:
    """Build an untrained classifier for a run.

    Args:
        config: Settings of the run.
        like: A classifier on the same towers, if there is one.
        process_group: Process group that trains together; each process has its own GPU.
    """
    if like:
        return like.beside(config.method, config.settings)
    device = process_group.device(config.device) if process_group else config.device
    return Classifier(config.method, config.clip, settings=config.settings, device=device, dtype=config.dtype)


def _classifiers(table: RowRuns) -> dict[str, Classifier]:
    """Build all classifiers first, so that a setting out of range raises before hours of training."""
    classifiers: dict[str, Classifier] = {}
    towers: dict[tuple[str, str, str], Classifier] = {}
    for run in table.runs.values():
        towers_key = (run.config.clip, run.config.device, run.config.dtype)
        with named(run.title):
            classifiers[run.folder] = classifier_of(run.config, towers.get(towers_key))
        towers.setdefault(towers_key, classifiers[run.folder])
    return classifiers


# Output of `foveate fit --method auto`: the choice and its reasons.


def print_choice(choice: Choice) -> None:
    """Print the methods that were tried, the best first, and what to expect of the chosen one."""
    rows = [
        [
            row.title,
            f"{row.accuracy.value:.1f}",
            f"{row.accuracy.low:.1f} to {row.accuracy.high:.1f}",
            "chosen" if row.title == choice.chosen else "",
        ]
        for row in choice.rows
    ]
    print_table(["method", "right, held out", "90 % interval", ""], rows)
    lines = [choice.verdict, f"Expected on new photos like these: {interval_text(choice.expected)} right."]
    if choice.forecasts:
        forecasts = ", ".join(
            f"{interval_text(forecast.accuracy)} with {forecast.more} more" for forecast in choice.forecasts
        )
        lines.append(f"More photos a class, with {choice.forecast_of}: {forecasts}.")
    else:
        lines.append("What more photos would bring cannot be said: too few photos, or the time was over.")
    sys.stdout.write("".join(f"{line}\n" for line in ["", *lines]))
    for title, reason in choice.left_out.items():
        note(f"{title} was not tried: {reason}")


# Commands under torchrun: several processes do one task, and one process prints.
#
# The first process prints. If only another process finds an error, that process prints it and the first is
# silent.


WRONG, SAID, HEARD = "wrong", "said", "heard"
"""Keys of messages between the processes."""

GRACE = 2.0
"""Seconds that the first process has to find the same error, if the error occurs in all processes."""

PATIENCE = 5.0
"""Seconds that the first process then waits until the others have received the error."""


@contextmanager
def launched() -> Generator[ProcessGroup | None]:
    """Join the process group that the environment variables describe; None for a single process.

    Raises:
        InputError: The other processes do not start.
        SystemExit: There was an error, and a process has printed it.
    """
    process_group = ProcessGroup.join()
    if process_group is None:
        yield None
        return
    try:
        with _only_first_prints(process_group):
            yield process_group
    except ProcessLost as error:
        try:
            _end(process_group, error)
        finally:
            os._exit(
                2
            )  # a group that has lost a process cannot end cleanly: its threads may abort this process
    except InputError as error:
        _end(process_group, error)
    except KeyboardInterrupt:
        if process_group.first:
            raise
        raise SystemExit(130) from None
    except Exception as error:
        process_group.leave_word(
            WRONG, f"process {process_group.share.rank}: {type(error).__name__}: {error}"
        )
        raise
    finally:
        process_group.leave()


@contextmanager
def _only_first_prints(process_group: ProcessGroup) -> Generator[None]:
    """Silence all processes but the first."""
    if process_group.first:
        yield
        return
    with Path(os.devnull).open("w") as devnull, redirect_stdout(devnull), redirect_stderr(devnull):
        yield


def _end(process_group: ProcessGroup, error: InputError) -> None:
    """Print an error once, and exit.

    Raises:
        SystemExit: Always.
    """
    rank, message = process_group.share.rank, None
    if isinstance(error, ProcessLost):  # a consequence of another process's error, or of a kill
        message = process_group.words(WRONG)
    else:
        process_group.leave_word(WRONG, message := str(error))
    if rank:
        process_group.words(SAID, patience=GRACE)
    if process_group.claim(SAID):
        sys.stderr.write(f"foveate: {' '.join((message or str(error)).split())}\n")
        sys.stderr.flush()
    process_group.leave_word(f"{HEARD} {rank}", "")
    if rank == 0 and message is not None:  # this process may host the key-value store
        process_group.words(
            *(f"{HEARD} {other_rank}" for other_rank in range(1, process_group.share.world)),
            patience=PATIENCE,
        )
    raise SystemExit(2)
