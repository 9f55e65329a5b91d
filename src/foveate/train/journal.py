"""The log of a run in JSON Lines (one line per step, some per epoch), and receivers of its progress."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

from foveate.files import write_atomically


@dataclass(frozen=True)
class Step:
    """Values of one step.

    Attributes:
        epoch: Epoch, counted from 0.
        step: Step, counted from 0 over the whole fit.
        lr: Learning rate.
        losses: Value of each named term.
        grad_norm: Norm of all gradients together, before clipping.
    """

    epoch: int
    step: int
    lr: float
    losses: dict[str, float]
    grad_norm: float

    @property
    def loss(self) -> float:
        """The minimised sum."""
        return sum(self.losses.values())


class Journal:
    """Appends to `path`; the lines of one `stage` can be removed when that stage resumes.

    As a context manager it flushes at exit, also after an exception.

    Args:
        path: The JSONL file, created if missing; None writes no log.
        stage: Name of the logged stage, e.g. "coop".
        answers: Called at the end of each epoch; returns by name whether each picture is classified
            correctly.
    """

    def __init__(
        self, path: Path | None, stage: str = "", answers: Callable[[], dict[str, bool]] | None = None
    ):
        self.path, self.stage, self._answers = path, stage, answers
        self._lines: list[str] = []

    def step(self, step: Step) -> None:
        """Log one step; the next `flush` writes it to disk."""
        self.event(
            {
                "stage": self.stage,
                "epoch": step.epoch,
                "step": step.step,
                "lr": step.lr,
                "loss": step.loss,
                **{f"loss.{name}": value for name, value in step.losses.items()},
                "grad_norm": step.grad_norm,
            }
        )

    def epoch(self, epoch: int, steps: int, figures: Mapping[str, float]) -> None:
        """Log metrics of an epoch, if there are any.

        Args:
            epoch: Epoch, counted from 0.
            steps: Steps taken so far; the line belongs to the last of them.
            figures: Metrics by name.
        """
        line = {"stage": self.stage, "epoch": epoch, "step": steps - 1}
        if figures:
            self.event({**line, "figures": dict(figures)})
        if self._answers:
            self.event({**line, "right": self._answers()})

    def event(self, values: Mapping[str, object]) -> None:
        """Log any values."""
        self._lines.append(json.dumps(dict(values)) + "\n")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def flush(self) -> None:
        """Append the logged lines to the file.

        Raises:
            OSError: No space; the error names the file.
        """
        if self.path:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.writelines(self._lines)
            except OSError as error:
                error.filename = str(self.path)
                raise
        self._lines.clear()

    def rewind(self, step: int) -> None:
        """Remove this stage's lines from `step` on, before a resumed run writes them again."""
        if not self.path or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        write_atomically(self.path, "".join(f"{line}\n" for line in lines if self._stays(line, step)))

    def _stays(self, line: str, step: int) -> bool:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # an incomplete line, after a kill
            return False
        if not isinstance(values, dict):
            return False
        return values.get("stage") != self.stage or values.get("step", -1) < step


# Receivers of a run's progress.


class Reporter:
    """Receives the progress of a run. This class does nothing; override the methods you need."""

    def step(self, stage: str, total: int, step: Step) -> None:
        """Called after a training step, with the stage, its number of steps, and the values of the step."""

    def count(self, what: str, done: int, total: int) -> None:
        """Called during other slow work, with its name, the number done and the total."""

    def note(self, message: str) -> None:
        """Called with information in advance, such as the disk space of a bank."""


@dataclass(frozen=True)
class Titled(Reporter):
    """Forwards to another reporter, with the title of one run among several.

    Attributes:
        reporter: The other reporter.
        title: Prefix of stages and counts.
    """

    reporter: Reporter
    title: str

    def step(self, stage: str, total: int, step: Step) -> None:
        self.reporter.step(f"{self.title}, {stage}", total, step)

    def count(self, what: str, done: int, total: int) -> None:
        self.reporter.count(f"{self.title}, {what}", done, total)

    def note(self, message: str) -> None:
        self.reporter.note(message)


@dataclass(frozen=True)
class Queued(Reporter):
    """Puts the reports of a worker process into a queue; `forward` reads them in the first process.

    Attributes:
        queue: Queue that both processes use.
    """

    queue: Any  # a `Queue`, or a manager's proxy of one

    def step(self, stage: str, total: int, step: Step) -> None:
        self.queue.put(("step", (stage, total, step)))

    def count(self, what: str, done: int, total: int) -> None:
        self.queue.put(("count", (what, done, total)))

    def note(self, message: str) -> None:
        self.queue.put(("note", (message,)))


def forward(queue: Any, reporter: Reporter, wait: float = 0.2) -> None:
    """Pass the entries of a queue to a reporter; wait at most `wait` seconds for the first entry."""
    with suppress(Empty):
        call, arguments = queue.get(timeout=wait)
        while True:
            getattr(reporter, call)(*arguments)
            call, arguments = queue.get_nowait()
