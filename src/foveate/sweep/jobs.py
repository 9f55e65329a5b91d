"""What a sweep is made of: one training and what is asked of it afterwards is a job."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from foveate.train.config import RunConfig

Protocol = Literal[
    "base-to-new", "cross-dataset", "domain-generalisation", "few-shot", "data-efficiency", "seed-robustness"
]
Split = Literal["base", "new", "all"]
"""Label spaces: trained classes alone, the others alone, both among all names. Of another set than the one
that was trained on, "new" are all of its classes, those with a trained one's name among them."""


@dataclass(frozen=True)
class Question:
    """One question to a tuned model.

    Attributes:
        dataset: Key of the data set in the catalogue; its test split is asked about. "species@home" is
            another test split of "species".
        split: Which classes' pictures, and among which names.
    """

    dataset: str
    split: Split


@dataclass(frozen=True)
class Job:
    """One training, and what is asked of what it made.

    Attributes:
        protocol: Which of the field's protocols it belongs to.
        row: The line of the table, e.g. "CoOp + FVG-PT".
        dataset: Key of the set that is trained on.
        config: The training: its pictures are those of the set, and its recipe and settings what differs from
            the method's own; `masks` names others than the set's own.
        questions: What is asked afterwards.
        variant: What else tells it apart within row, set and seed: "8-shots", "fraction-0.5"; or empty.
        recipe: The source that the settings follow: "paper", "released-code", "upstream".
        needs: Key of the job whose tuned model this one stands on, as `backbone`; None trains everything.
        copies: Key of a job that trains and asks the very same, for another row or protocol; its result is
            taken over, under this job's names.
        shift: Whether to measure the foreground shift index; it changes no training.
    """

    protocol: Protocol
    row: str
    dataset: str
    config: RunConfig
    questions: tuple[Question, ...]
    variant: str = ""
    recipe: str = "released-code"
    needs: str | None = None
    copies: str | None = None
    shift: bool = False

    @property
    def seed(self) -> int:
        """Of draw, start, order and views."""
        return self.config.seed

    def identity(self) -> dict[str, Any]:
        """Return what decides what is trained, as JSON has it: jobs with equal ones are one training."""
        return {"dataset": self.dataset, "masks": self.config.masks, **self.config.identity()}

    @property
    def key(self) -> str:
        """Its folder within the sweep's, e.g. "base-to-new/dtd/coop-fvg-pt/seed-1"."""
        words = [self.protocol, self.dataset, slug(self.row), self.variant, f"seed-{self.seed}"]
        return "/".join(word for word in words if word)

    @property
    def waits_for(self) -> str | None:
        """Key of the job that must have finished before."""
        return self.copies or self.needs


def slug(name: str) -> str:
    """Return a folder's name: "CoOp + FVG-PT" is "coop-fvg-pt"."""
    return re.sub("[^a-z0-9.]+", "-", name.lower()).strip("-.")
