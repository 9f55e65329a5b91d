"""Whether an exported model answers as the model it was made of, asked about the same picture files."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.classifier import Classifier
from foveate.data.naming import name_key
from foveate.errors import InputError
from foveate.foreground.opening import LazyPicture
from foveate.prediction import Branch, Prediction
from foveate.run.model import Exported

TOLERANCE = 1e-5
"""Of probabilities, and of trusts."""

AGREEMENT = 0.99
"""Least share of answers that are the same with int8 weights."""

_NEW = ("tree frog", "lighthouse", "old red bicycle", "steam engine", "paper boat", "snow owl")
"""Names to ask about that hardly any model was trained on; three are taken that this one was not."""


@dataclass(frozen=True)
class Compared:
    """How two models' answers differ.

    Attributes:
        answers: That were compared.
        same: Of them, with the same label.
        largest: Largest difference of a probability or a trust.
        where: The picture and the label space of that, or of the first label that differs.
    """

    answers: int
    same: int
    largest: float
    where: str

    @property
    def agreement(self) -> float:
        """Share of answers with the same label."""
        return self.same / self.answers if self.answers else 1.0


def compare(
    model: Classifier | Exported,
    exported: Exported,
    photos: Sequence[Path | LazyPicture],
    branches: Sequence[Branch],
) -> Compared:
    """Ask both about the same pictures in each label space.

    Args:
        model: What the export was made of.
        exported: It.
        photos: At least one.
        branches: Label spaces.
    """
    own = {name_key(name) for name in exported.manifest.names}
    new = [name for name in _NEW if name_key(name) not in own][:3]
    spaces = {"base": (None, False), "mixed": (new, False), "new": (new, True)}
    answers = same = 0
    largest, where, odd = 0.0, "", ""
    for branch in branches:
        classes, only = spaces[branch]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what a model has learned nothing: that is known
            asked = [one.predict(photos, classes, only=only) for one in (model, exported)]
        for was, now in zip(*asked, strict=True):
            answers, same = answers + 1, same + (was.label == now.label)
            away = _difference(was, now)
            if was.label != now.label and not odd:
                odd = f"{was.photo}, {branch} names: {was.label!r} became {now.label!r}"
            if away >= largest:
                largest, where = away, f"{was.photo}, {branch} names"
    return Compared(answers, same, largest, odd or where)


def demand_equal(found: Compared) -> None:
    """Refuse an export whose answers are others.

    Raises:
        InputError: It says how many labels differ, or by how much a probability does, and where.
    """
    if found.same < found.answers or not found.largest <= TOLERANCE:
        raise InputError(
            f"the export does not answer as the model does, and was not kept: {found.answers - found.same} of"
            f" {found.answers} labels differ, and probabilities by up to {found.largest:.2g}, more than"
            f" {TOLERANCE:g} ({found.where}); please report it"
        )


def demand_agreement(found: Compared) -> None:
    """Refuse int8 weights that change too many answers.

    Raises:
        InputError: It says how many.
    """
    if found.agreement < AGREEMENT:
        raise InputError(
            f"with int8 weights {100 * found.agreement:.2f} % of {found.answers} answers are the same, less"
            f" than {100 * AGREEMENT:g} %: leave out --int8 ({found.where})"
        )


def _difference(was: Prediction, now: Prediction) -> float:
    apart = max(abs(p - now.scores[name]) for name, p in was.scores.items())
    if was.branch != now.branch or (was.trust is None) != (now.trust is None):
        return float("inf")
    return max(apart, abs((was.trust or 0.0) - (now.trust or 0.0)))
