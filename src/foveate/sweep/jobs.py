"""The jobs of a sweep: a job is one training run and the questions that evaluate it."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from foveate.train.config import RunConfig

Protocol = Literal[
    "base-to-new", "cross-dataset", "domain-generalisation", "few-shot", "data-efficiency", "seed-robustness"
]
Split = Literal["base", "new", "all"]
"""Label spaces: "base" is only trained classes, "new" is only other classes, "all" is both among all
names. In a data set other than the training set, all classes are "new", including those with the name of
a trained class."""


OWN = "own"
"""Value of `test_masks` for a data set's own masks."""


@dataclass(frozen=True)
class Question:
    """One evaluation of a tuned model.

    Attributes:
        dataset: Key of the data set in the catalogue; its test split is used. "species@home" is another
            test split of "species".
        split: Classes of the pictures, and the class names to choose from.
    """

    dataset: str
    split: Split


@dataclass(frozen=True)
class Job:
    """One training run, and the questions for its model.

    Attributes:
        protocol: The protocol that it belongs to.
        row: Row of the table, e.g. "CoOp + FVG-PT".
        dataset: Key of the training set.
        config: Settings of the training run: pictures are those of the data set; recipe and settings
            contain only changes to the method's own; `masks` gives masks other than the set's own.
        questions: Questions to evaluate.
        variant: Further distinction within row, data set and seed: "8-shots", "fraction-0.5"; or empty.
        recipe: Source of the settings: "paper", "released-code", "upstream".
        needs: Key of the job whose tuned model this one uses as `backbone`; None trains everything.
        copies: Key of a job with the same training and questions, for another row or protocol; its
            result is copied with this job's names.
        shift: Whether to compute the foreground shift index; it does not change the training.
        gaze: Whether to compute how much of the heat maps is on the object; it does not change the training.
        test_masks: Masks of test pictures for a method that sees a region of each: `OWN`, or as `masks` of
            the config.
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
    gaze: bool = False
    test_masks: str | None = None

    @property
    def seed(self) -> int:
        """Seed of draw, initialisation, order and views."""
        return self.config.seed

    def identity(self) -> dict[str, Any]:
        """Return what determines the training, and the test masks, as JSON values."""
        optional = {"backbone": self.config.backbone} if self.config.backbone else {}
        optional |= {"test_masks": self.test_masks} if self.test_masks else {}
        return {"dataset": self.dataset, "masks": self.config.masks, **optional, **self.config.identity()}

    @property
    def key(self) -> str:
        """Path of the job's folder in the sweep's folder, e.g. "base-to-new/dtd/coop-fvg-pt/seed-1"."""
        words = [self.protocol, self.dataset, slug(self.row), self.variant, f"seed-{self.seed}"]
        return "/".join(word for word in words if word)

    @property
    def of_masks(self) -> tuple[str, ...]:
        """Uses of the masks of test pictures: metrics, and regions that the method sees."""
        uses = {"shift": self.shift, "gaze": self.gaze, "region": self.test_masks}
        return tuple(name for name, used in uses.items() if used)

    @property
    def waits_for(self) -> str | None:
        """Key of the job that must finish first."""
        return self.copies or self.needs


def slug(name: str) -> str:
    """Return a folder name: "CoOp + FVG-PT" gives "coop-fvg-pt"."""
    return re.sub("[^a-z0-9.]+", "-", name.lower()).strip("-.")
