"""What a person can act on: which classes go wrong, what they are taken for, and which pictures those are."""

from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from foveate.evaluate.answers import Answers
from foveate.evaluate.calibration import Bin, brier_scores, ece, reliability
from foveate.evaluate.intervals import Interval, bootstrap, wilson
from foveate.types import Labels, Logits, PerImage


@dataclass(frozen=True)
class ClassScore:
    """How one class did.

    Attributes:
        name: Of the class.
        pictures: How many test pictures it has.
        right: How many of them were named rightly.
        accuracy: Percent, with its interval.
        taken_for: The wrong name that was given most often; empty without any.
    """

    name: str
    pictures: int
    right: int
    accuracy: Interval
    taken_for: str


@dataclass(frozen=True)
class Confusion:
    """A cell of the confusion table beside its diagonal.

    Attributes:
        truth: The pictures' class.
        answer: What they were taken for.
        pictures: How many.
    """

    truth: str
    answer: str
    pictures: int


@dataclass(frozen=True)
class Misjudged:
    """A picture that was named wrongly.

    Attributes:
        picture: Its path, or what it is called.
        truth: Its class.
        answer: What it was taken for.
        probability: Of that answer.
        of_truth: Probability of its class.
    """

    picture: str
    truth: str
    answer: str
    probability: float
    of_truth: float


@dataclass(frozen=True)
class Judgement:
    """How good a classifier is on pictures whose names are known.

    Attributes:
        names: Names of the classes that were asked about.
        accuracy: Percent right.
        ece: Expected calibration error, in points.
        brier: Brier score, in [0, 2].
        confidence: Mean probability of the answers, in percent.
        classes: Those that have test pictures, worst first.
        confusions: The confusion table without its diagonal and its zeros, largest first.
        curve: Reliability curve.
        misjudged: All wrong answers, the surest first.
    """

    names: tuple[str, ...]
    accuracy: Interval
    ece: Interval
    brier: Interval
    confidence: float
    classes: tuple[ClassScore, ...]
    confusions: tuple[Confusion, ...]
    curve: tuple[Bin, ...]
    misjudged: tuple[Misjudged, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def judge(answers: Answers, generator: torch.Generator) -> Judgement:
    """Compare answers with the truth.

    Args:
        answers: With names and pictures, as `ask` returns them.
        generator: Draws the bootstrap's sets.
    """
    p, labels = answers.probabilities, answers.labels
    given, confidence = p.argmax(dim=1), p.max(dim=1).values
    right = given == labels

    return Judgement(
        answers.names,
        wilson(int(right.sum()), len(labels)),
        bootstrap(partial(_ece_of, confidence, right), len(labels), generator),
        bootstrap(partial(_mean_of, brier_scores(p, labels)), len(labels), generator),
        100 * confidence.double().mean().item(),
        _classes(answers.names, labels, given),
        _confusions(answers.names, labels, given),
        tuple(reliability(confidence, right)),
        _misjudged(answers, p, given),
    )


def _ece_of(confidence: PerImage, right: Bool[Tensor, " pictures"], rows: Tensor) -> float:
    return ece(confidence[rows], right[rows])


def _mean_of(scores: Tensor, rows: Tensor) -> float:
    return scores[rows].mean().item()


def _classes(names: tuple[str, ...], labels: Labels, given: Labels) -> tuple[ClassScore, ...]:
    found: list[ClassScore] = []
    for row, name in enumerate(names):
        own = given[labels == row]
        if len(own):
            wrong = Counter(own[own != row].tolist()).most_common(1)
            right = int((own == row).sum())
            taken_for = names[wrong[0][0]] if wrong else ""
            found.append(ClassScore(name, len(own), right, wilson(right, len(own)), taken_for))
    return tuple(sorted(found, key=lambda one: (one.accuracy.value, -one.pictures)))


def _confusions(names: tuple[str, ...], labels: Labels, given: Labels) -> tuple[Confusion, ...]:
    cells = Counter(zip(labels.tolist(), given.tolist(), strict=True))
    return tuple(
        Confusion(names[truth], names[answer], number)
        for (truth, answer), number in cells.most_common()
        if truth != answer
    )


def _misjudged(answers: Answers, p: Logits, given: Labels) -> tuple[Misjudged, ...]:
    wrong = (given != answers.labels).nonzero()[:, 0].tolist()
    found = [
        Misjudged(
            answers.pictures[row],
            answers.names[int(answers.labels[row])],
            answers.names[int(given[row])],
            float(p[row, given[row]]),
            float(p[row, answers.labels[row]]),
        )
        for row in wrong
    ]
    return tuple(sorted(found, key=lambda one: -one.probability))
