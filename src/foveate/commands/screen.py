"""Terminal output of commands: progress bars and notes on stderr, tables on stdout."""

import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from foveate.errors import printable
from foveate.train.journal import Reporter, Step

_STDERR = Console(stderr=True, highlight=False)  # shared, so that notes do not break progress bars


def note(message: str) -> None:
    """Print a note on stderr."""
    _STDERR.print(f"note: {printable(message)}", soft_wrap=True, markup=False)


@contextmanager
def notes_for_warnings() -> Generator[None]:
    """Show warnings as one-line notes."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        note(" ".join(str(message).split()))

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def note_embedded(*clips: str) -> None:
    """Print a note if one of these sources is a CLIP of the package."""
    from foveate.clip.config import EMBEDDED  # it imports Pillow, which --help does not need

    if any(clip in EMBEDDED for clip in clips):
        note("the embedded CLIP has seen drawn shapes only; for photographs give --clip")


def note_precision(precision: str) -> None:
    """Print a note if towers do not compute in float32."""
    if precision != "float32":
        note(f"the towers compute in {precision}; --dtype float32 is exact and slower")


class Bars(Reporter):
    """Progress bars of one command; nothing is shown if stderr is no terminal.

    with Bars() as bars:
        classifier.fit(..., reporter=bars)
    """

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=_STDERR, transient=True, disable=not _STDERR.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, stage: str, total: int, step: Step) -> None:
        self._move(f"training {stage}", step.step + 1, total, f"loss {step.loss:.3f}")

    def count(self, what: str, done: int, total: int) -> None:
        self._move(what, done, total, "")

    def note(self, message: str) -> None:
        note(message)

    def _move(self, what: str, done: int, total: int, status: str) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, said=status)
        self._progress.update(self._tasks[what], completed=done, total=total, said=status)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Print a table on a terminal, else tab-separated lines for programs."""
    if not sys.stdout.isatty():
        lines = [columns, *rows]
        sys.stdout.write("".join("\t".join(map(printable, line)) + "\n" for line in lines))
        return
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    Console(highlight=False).print(table, markup=False)
