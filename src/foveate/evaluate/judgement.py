"""Accuracy by class, confusions between classes, and the misclassified pictures."""

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
    """Results of one class.

    Attributes:
        name: Name of the class.
        pictures: Number of its test pictures.
        right: Number of right answers among them.
        accuracy: Accuracy in percent, with its interval.
        taken_for: The most frequent wrong answer; empty if there is none.
    """

    name: str
    pictures: int
    right: int
    accuracy: Interval
    taken_for: str


@dataclass(frozen=True)
class Confusion:
    """A cell of the confusion table outside its diagonal.

    Attributes:
        truth: True class of the pictures.
        answer: Predicted class.
        pictures: Number of pictures.
    """

    truth: str
    answer: str
    pictures: int


@dataclass(frozen=True)
class Misjudged:
    """A misclassified picture.

    Attributes:
        picture: Path or name of the picture.
        truth: True class.
        answer: Predicted class.
        probability: Probability of the predicted class.
        of_truth: Probability of the true class.
    """

    picture: str
    truth: str
    answer: str
    probability: float
    of_truth: float


@dataclass(frozen=True)
class Judgement:
    """Quality of a classifier on labelled pictures.

    Attributes:
        names: Names of the classes to choose from.
        accuracy: Accuracy in percent.
        ece: Expected calibration error, in points.
        brier: Brier score, in [0, 2].
        confidence: Mean probability of the answers, in percent.
        classes: Results of the classes with test pictures, lowest accuracy first.
        confusions: The confusion table without its diagonal and its zeros, largest first.
        curve: Reliability curve.
        misjudged: All misclassified pictures, by decreasing probability of the wrong answer.
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
        """Return the judgement as a dict for JSON."""
        return asdict(self)


def judge(answers: Answers, generator: torch.Generator) -> Judgement:
    """Compare answers with the truth.

    Args:
        answers: Answers with names and pictures, as `ask` returns them.
        generator: Random generator of the bootstrap.
    """
    p, labels = answers.probabilities, answers.labels
    predicted, confidence = p.argmax(dim=1), p.max(dim=1).values
    right = predicted == labels

    return Judgement(
        answers.names,
        wilson(int(right.sum()), len(labels)),
        bootstrap(partial(_ece_of, confidence, right), len(labels), generator),
        bootstrap(partial(_mean_of, brier_scores(p, labels)), len(labels), generator),
        100 * confidence.double().mean().item(),
        _classes(answers.names, labels, predicted),
        _confusions(answers.names, labels, predicted),
        tuple(reliability(confidence, right)),
        _misjudged(answers, p, predicted),
    )


def _ece_of(confidence: PerImage, right: Bool[Tensor, " pictures"], rows: Tensor) -> float:
    return ece(confidence[rows], right[rows])


def _mean_of(scores: Tensor, rows: Tensor) -> float:
    return scores[rows].mean().item()


def _classes(names: tuple[str, ...], labels: Labels, predicted: Labels) -> tuple[ClassScore, ...]:
    scores: list[ClassScore] = []
    for label, name in enumerate(names):
        of_class = predicted[labels == label]
        if len(of_class):
            wrong = Counter(of_class[of_class != label].tolist()).most_common(1)
            right = int((of_class == label).sum())
            taken_for = names[wrong[0][0]] if wrong else ""
            scores.append(ClassScore(name, len(of_class), right, wilson(right, len(of_class)), taken_for))
    return tuple(sorted(scores, key=lambda score: (score.accuracy.value, -score.pictures)))


def _confusions(names: tuple[str, ...], labels: Labels, predicted: Labels) -> tuple[Confusion, ...]:
    cells = Counter(zip(labels.tolist(), predicted.tolist(), strict=True))
    return tuple(
        Confusion(names[truth], names[answer], number)
        for (truth, answer), number in cells.most_common()
        if truth != answer
    )


def _misjudged(answers: Answers, p: Logits, predicted: Labels) -> tuple[Misjudged, ...]:
    wrong = (predicted != answers.labels).nonzero()[:, 0].tolist()
    errors = [
        Misjudged(
            answers.pictures[index],
            answers.names[int(answers.labels[index])],
            answers.names[int(predicted[index])],
            float(p[index, predicted[index]]),
            float(p[index, answers.labels[index]]),
        )
        for index in wrong
    ]
    return tuple(sorted(errors, key=lambda error: -error.probability))
