"""Receivers of a run's progress."""

from contextlib import suppress
from dataclasses import dataclass
from queue import Empty
from typing import Any

from foveate.train.journal import Step


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
