"""Whether an exported model answers as the model it was made of, asked about the same picture files."""

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
from foveate.run.trust import ExportedTrust
from foveate.trust.promises import REFUSED, pictures_needed

TOLERANCE = 1e-5
"""Of probabilities, trusts and doubts, and of the distances that novelty counts."""

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
        alike: Of these, with "none of these" said of both or of neither.
        largest: Largest difference of a number; infinite where one answer has a part that the other lacks.
        where: The picture, the label space and the part of that, or those of the first label that differs.
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
    """Ask both about the same pictures in each label space, with sets and refusals where these are known.

    Args:
        model: What the export was made of.
        exported: It.
        photos: At least one.
        branches: Label spaces.
    """
    own = {name_key(name) for name in exported.manifest.names}
    new = [name for name in _NEW if name_key(name) not in own][:3]
    spaces = {"base": (None, False), "mixed": (new, False), "new": (new, True)}
    promised = _promised(exported.trust)
    answers = same = alike = 0
    largest, where, odd = 0.0, "", ""
    for branch in branches:
        classes, only = spaces[branch]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what a model has learned nothing: that is known
            asked = [one.predict(photos, classes, only=only, **promised) for one in (model, exported)]
        for was, now in zip(*asked, strict=True):
            answers, same = answers + 1, same + (was.label == now.label)
            alike += was.label == now.label and was.refused == now.refused
            away, part = _difference(was, now, exported)
            if was.label != now.label and not odd:
                odd = f"{was.photo}, {branch} names: {was.label!r} became {now.label!r}"
            if away >= largest:
                largest, where = away, f"{was.photo}, {branch} names, {part}"
    return Compared(answers, same, alike, largest, odd or where)


def demand_equal(found: Compared) -> None:
    """Refuse an export whose answers are others.

    Raises:
        InputError: It says how many labels differ, or by how much a probability does, and where.
    """
    if found.same < found.answers or not found.largest <= TOLERANCE:
        raise InputError(
            f"the export does not answer as the model does, and was not kept: {found.answers - found.same} of"
            f" {found.answers} labels differ, and numbers by up to {found.largest:.2g}, more than"
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


def _promised(trust: ExportedTrust | None) -> dict[str, Any]:
    """Return what can be asked of answers: a risk, and refusals."""
    if trust is None:
        return {}
    held = len(trust.truths)
    risk = max(0.1, 1 / (held + 1)) if held else None
    return {"risk": risk, "abstain": len(trust.labels) >= pictures_needed(REFUSED)}


def _difference(was: Prediction, now: Prediction, exported: Exported) -> tuple[float, str]:
    """Return how far two answers are apart, and in which part."""
    apart = {"probabilities": max(abs(p - now.scores[name]) for name, p in was.scores.items())}
    for part in ("trust", "doubt", "novelty"):
        own, other = getattr(was, part), getattr(now, part)
        if (own is None) != (other is None):
            apart[part] = inf
        elif own is not None:
            apart[part] = abs(own - other)
    if apart.get("novelty", inf) < inf:
        apart["novelty"] = _distance(was, now, exported)
    apart["branch"] = 0.0 if was.branch == now.branch else inf
    apart["names"] = 0.0 if _same_names(was, now) else inf
    apart["refused"] = 0.0 if was.refused == now.refused or was.novelty != now.novelty else inf
    part = max(apart, key=apart.__getitem__)
    return apart[part], part


def _distance(was: Prediction, now: Prediction, exported: Exported) -> float:
    """Return how far two features of a picture are apart at least, as its novelties say.

    Novelty is a rank among the shots: where one of them is as far as the picture is, the last bit decides.
    """
    trust = exported.trust
    assert trust is not None
    assert was.novelty is not None
    assert now.novelty is not None
    known, shots = was.label in exported.manifest.names, len(trust.labels)
    odder = [round((1 - novelty) * (shots + 1)) - 1 for novelty in (was.novelty, now.novelty)]
    ranks = trust.distances if known else trust.texts
    low, high = sorted(shots - one if known else one for one in odder)
    return float(ranks[high - 1] - ranks[low]) if low < high else 0.0


def _same_names(was: Prediction, now: Prediction) -> bool:
    """Return whether two sets of names are the same, but for names whose probability is at the line."""
    if was.names is None or now.names is None:
        return was.names == now.names
    more, less = set(was.names) - set(now.names), set(now.names) - set(was.names)
    return all(was.scores[name] > now.scores[name] for name in more) and all(
        now.scores[name] > was.scores[name] for name in less
    )
