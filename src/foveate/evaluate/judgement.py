"""Accuracy by class, confusions between classes, misclassified pictures, and calibration."""

from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.evaluate.answers import Answers
from foveate.evaluate.metrics import Interval, bootstrap, wilson
from foveate.types import Labels, Logits, PerImage

# Calibration metrics: reliability curve, expected calibration error, Brier score and AUROC.
#
# - Reliability and ECE: On Calibration of Modern Neural Networks, Guo et al. 2017,
#   https://arxiv.org/abs/1706.04599, Sec. 2


BINS = 15
"""Number of bins of the reliability curve, as in Guo et al."""

Scores = Float[Tensor, " pictures"]


@dataclass(frozen=True)
class Bin:
    """Pictures whose answers have similar probabilities.

    Attributes:
        low: Lower end of the bin, exclusive.
        high: Upper end of the bin, inclusive.
        pictures: Number of pictures.
        confidence: Mean probability of their answers.
        accuracy: Share of right answers.
    """

    low: float
    high: float
    pictures: int
    confidence: float
    accuracy: float


def reliability(confidence: Scores, right: Bool[Tensor, " pictures"], bins: int = BINS) -> list[Bin]:
    """Return the reliability curve: bins of equal width, without empty ones.

    Args:
        confidence: `[N]` probability of each answer, in [0, 1].
        right: `[N]` whether it is right.
        bins: Number of bins.
    """
    bin_of = _places(confidence, bins)
    curve: list[Bin] = []
    for index in range(bins):
        inside = bin_of == index
        if inside.any():
            mean_confidence, share = confidence[inside].double().mean(), right[inside].double().mean()
            ends = index / bins, (index + 1) / bins
            curve.append(Bin(*ends, int(inside.sum()), float(mean_confidence), float(share)))
    return curve


def ece(confidence: Scores, right: Bool[Tensor, " pictures"], bins: int = BINS) -> float:
    """Return the expected calibration error, in points: Σ_b n_b / N · |accuracy_b − confidence_b| (Eq. 3).

    With few pictures it is too large, because each bin's accuracy is then far off by chance.
    """
    gaps = torch.zeros(bins, dtype=torch.float64)
    gaps.index_add_(0, _places(confidence, bins), right.double() - confidence.double())
    return 100 * gaps.abs().sum().item() / len(right)


def _places(confidence: Scores, bins: int) -> Int[Tensor, " pictures"]:
    """Return the bin of each answer; the upper end of a bin belongs to it."""
    return (confidence.double() * bins).ceil().long().clamp(1, bins) - 1


def brier_scores(probabilities: Logits, labels: Labels) -> Float[Tensor, " pictures"]:
    """Return `[N]` the Brier score Σ_c (p_c − y_c)² of each picture: 0 at best, 2 at worst."""
    truth = torch.nn.functional.one_hot(labels, probabilities.shape[1])
    return (probabilities.double() - truth).square().sum(dim=1)


def auroc(high: Float[Tensor, " high"], low: Float[Tensor, " low"]) -> float:
    """Return the probability that a score of `high` is above one of `low`; a tie counts a half.

    Args:
        high: Scores that should be high, such as the novelty of unknown pictures.
        low: Scores that should be low.
    """
    ordered = low.double().sort().values
    below = torch.searchsorted(ordered, high.double().contiguous(), right=False)
    not_above = torch.searchsorted(ordered, high.double().contiguous(), right=True)
    return ((below + not_above).double().mean() / (2 * len(low))).item()


# Results on labelled pictures: by class, confusions, and misclassified pictures.


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
