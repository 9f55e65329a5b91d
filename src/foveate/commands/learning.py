"""`foveate fit`: train one run, or a table of runs, from options."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from foveate.classifier import Classifier
from foveate.commands.chosen import print_choice
from foveate.commands.launched import launched
from foveate.commands.options import Command, print_options
from foveate.commands.rows import RowRuns, named, plan, read_files
from foveate.commands.screen import Bars, note, note_embedded, note_precision, notes_for_warnings, print_table
from foveate.errors import InputError
from foveate.files import home_of
from foveate.train.checkpoint import CONFIG
from foveate.train.config import RunConfig
from foveate.train.context import Context
from foveate.train.loop import Diverged
from foveate.train.parallel import ProcessGroup
from foveate.train.reporter import Reporter, Titled


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
