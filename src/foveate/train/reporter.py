"""Whoever wants to hear of a run while it goes on."""

from dataclasses import dataclass

from foveate.train.journal import Step


class Reporter:
    """Hears of a run as it goes on. This one tells nobody; write those methods anew that should tell."""

    def step(self, stage: str, total: int, step: Step) -> None:
        """Hear of a training step: of which stage, of how many steps in all, and what it did."""

    def count(self, what: str, done: int, total: int) -> None:
        """Hear of other slow work: what it is, how much is done, and how much there is."""

    def note(self, message: str) -> None:
        """Hear what is worth knowing before it happens, such as how much disk a bank takes."""


@dataclass(frozen=True)
class Titled(Reporter):
    """Tells another reporter of one run among several.

    Attributes:
        reporter: Hears of it.
        title: Stands before what it is told of.
    """

    reporter: Reporter
    title: str

    def step(self, stage: str, total: int, step: Step) -> None:
        self.reporter.step(f"{self.title}, {stage}", total, step)

    def count(self, what: str, done: int, total: int) -> None:
        self.reporter.count(f"{self.title}, {what}", done, total)

    def note(self, message: str) -> None:
        self.reporter.note(message)
