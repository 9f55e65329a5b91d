"""Compares the predictions of an exported model with those of its source, on the same picture files."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from foveate.classifier import Classifier
from foveate.data.naming import name_key
from foveate.errors import InputError
from foveate.foreground.opening import LazyPicture
from foveate.prediction import Branch, Prediction
from foveate.run.model import Exported
from foveate.run.texts import ExportedTrust
from foveate.trust.promises import REFUSED, pictures_needed

TOLERANCE = 1e-5
"""Largest allowed difference of probabilities, trusts and doubts, and of the distances behind novelty."""

AGREEMENT = 0.99
"""Minimum share of equal answers with int8 weights."""

_NEW = ("tree frog", "lighthouse", "old red bicycle", "steam engine", "paper boat", "snow owl")
"""Names that hardly any model was trained on; the first three that are new to the model are used."""


@dataclass(frozen=True)
class Compared:
    """Differences between the answers of two models.

    Attributes:
        answers: Number of compared answers.
        same: Number of answers with the same label.
        alike: Number of those in which both or neither say "none of these".
        largest: Largest difference of a number; infinite if one answer has a part that the other lacks.
        where: Picture, label space and part of the largest difference, or of the first label that differs.
    """

    answers: int
    same: int
    alike: int
    largest: float
    where: str

    @property
    def agreement(self) -> float:
        """Share of answers with the same label, or "none of these"."""
        return self.alike / self.answers if self.answers else 1.0


def compare(
    model: Classifier | Exported,
    exported: Exported,
    photos: Sequence[Path | LazyPicture],
    branches: Sequence[Branch],
) -> Compared:
    """Ask both models about the same pictures in each label space, with sets and refusals if available.

    Args:
        model: The source of the export.
        exported: The export.
        photos: At least one picture.
        branches: Label spaces.
    """
    trained = {name_key(name) for name in exported.manifest.names}
    new_names = [name for name in _NEW if name_key(name) not in trained][:3]
    spaces = {"base": (None, False), "mixed": (new_names, False), "new": (new_names, True)}
    options = _options(exported.trust)
    answers = same = alike = 0
    largest, where, first_change = 0.0, "", ""
    for branch in branches:
        classes, only = spaces[branch]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about names that the model has not learned
            predictions = [side.predict(photos, classes, only=only, **options) for side in (model, exported)]
        for expected, actual in zip(*predictions, strict=True):
            answers, same = answers + 1, same + (expected.label == actual.label)
            alike += expected.label == actual.label and expected.refused == actual.refused
            difference, part = _difference(expected, actual, exported)
            if expected.label != actual.label and not first_change:
                first_change = f"{expected.photo}, {branch} names: {expected.label!r} became {actual.label!r}"
            if difference >= largest:
                largest, where = difference, f"{expected.photo}, {branch} names, {part}"
    return Compared(answers, same, alike, largest, first_change or where)


def demand_equal(compared: Compared) -> None:
    """Refuse an export whose answers differ.

    Raises:
        InputError: The message gives the number of different labels, the largest difference, and where it is.
    """
    if compared.same < compared.answers or not compared.largest <= TOLERANCE:
        raise InputError(
            "the export does not answer as the model does, and was not kept:"
            f" {compared.answers - compared.same} of {compared.answers} labels differ, and numbers by up to"
            f" {compared.largest:.2g}, more than {TOLERANCE:g} ({compared.where}); please report it"
        )


def demand_agreement(compared: Compared) -> None:
    """Refuse int8 weights that change too many answers.

    Raises:
        InputError: The message gives the share.
    """
    if compared.agreement < AGREEMENT:
        raise InputError(
            f"with int8 weights {100 * compared.agreement:.2f} % of {compared.answers} answers are the same,"
            f" less than {100 * AGREEMENT:g} %: leave out --int8 ({compared.where})"
        )


def _options(trust: ExportedTrust | None) -> dict[str, Any]:
    """Return the options of `predict` that the trust supports: a risk, and refusals."""
    if trust is None:
        return {}
    truths = len(trust.truths)
    risk = max(0.1, 1 / (truths + 1)) if truths else None
    return {"risk": risk, "abstain": len(trust.labels) >= pictures_needed(REFUSED)}


def _difference(expected: Prediction, actual: Prediction, exported: Exported) -> tuple[float, str]:
    """Return the largest difference of two answers, and the part that it is in."""
    differences = {"probabilities": max(abs(p - actual.scores[name]) for name, p in expected.scores.items())}
    for part in ("trust", "doubt", "novelty"):
        expected_value, actual_value = getattr(expected, part), getattr(actual, part)
        if (expected_value is None) != (actual_value is None):
            differences[part] = inf
        elif expected_value is not None:
            differences[part] = abs(expected_value - actual_value)
    if differences.get("novelty", inf) < inf:
        differences["novelty"] = _distance(expected, actual, exported)
    differences["branch"] = 0.0 if expected.branch == actual.branch else inf
    differences["names"] = 0.0 if _same_names(expected, actual) else inf
    differences["refused"] = (
        0.0 if expected.refused == actual.refused or expected.novelty != actual.novelty else inf
    )
    part = max(differences, key=differences.__getitem__)
    return differences[part], part


def _distance(expected: Prediction, actual: Prediction, exported: Exported) -> float:
    """Return the least distance between two features of a picture that explains its two novelties.

    Novelty is a rank among the shots. If a shot is as far away as the picture, the last bit decides its rank.
    """
    trust = exported.trust
    assert trust is not None
    assert expected.novelty is not None
    assert actual.novelty is not None
    is_trained, shots = expected.label in exported.manifest.names, len(trust.labels)
    odder_counts = [round((1 - novelty) * (shots + 1)) - 1 for novelty in (expected.novelty, actual.novelty)]
    distances = trust.distances if is_trained else trust.texts
    low, high = sorted(shots - count if is_trained else count for count in odder_counts)
    return float(distances[high - 1] - distances[low]) if low < high else 0.0


def _same_names(expected: Prediction, actual: Prediction) -> bool:
    """Return whether two sets of names are equal, except for names whose probability is at the threshold."""
    if expected.names is None or actual.names is None:
        return expected.names == actual.names
    missing, added = set(expected.names) - set(actual.names), set(actual.names) - set(expected.names)
    return all(expected.scores[name] > actual.scores[name] for name in missing) and all(
        actual.scores[name] > expected.scores[name] for name in added
    )
