"""What a model answers, in PyTorch and exported."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Branch = Literal["base", "new", "mixed"]
"""Label space of the prediction: the trained classes, classes never seen, or both together."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo.

    Attributes:
        photo: Its path, or its index in the list for a picture in memory.
        label: The likeliest name.
        probability: Probability of that name, among all names to choose from.
        scores: Probability of every name.
        trust: How much the answer relies on CLIP's prior, in [0, 1]; None if no gate was used.
        branch: Label space of the names: "base", "new", or "mixed".
        doubt: 1 minus the probability of the label; None if the probability is not calibrated.
        novelty: How unusual the picture is, in [0, 1): the share of shots that are less unusual; None if the
            model does not know its shots.
        names: With a risk, the possible names, the likeliest first.
        refused: Whether the prediction is "none of these"; `label` is the likeliest name even then.
    """

    photo: str
    label: str
    probability: float
    scores: dict[str, float]
    trust: float | None
    branch: Branch
    doubt: float | None = None
    novelty: float | None = None
    names: tuple[str, ...] | None = None
    refused: bool = False


def predictions(  # noqa: PLR0913  (all but the first four by name)
    pictures: Sequence[str],
    names: Sequence[str],
    p: np.ndarray,
    branch: Branch,
    *,
    calibrated: bool,
    trust: np.ndarray | None = None,
    novelty: np.ndarray | None = None,
    sets: np.ndarray | None = None,
    refused: np.ndarray | None = None,
) -> list[Prediction]:
    """Return the answer for each photo.

    Args:
        pictures: Names of the B photos.
        names: C names.
        p: `[B, C]` probabilities.
        branch: Label space of the names.
        calibrated: Whether the probabilities are calibrated; `doubt` is None otherwise.
        trust: `[B]`; see `Prediction`.
        novelty: `[B]`; see `Prediction`.
        sets: `[B, C]` whether each name is possible.
        refused: `[B]` whether the prediction is "none of these".
    """
    return [
        Prediction(
            photo=picture,
            label=names[int(row.argmax())],
            probability=float(row.max()),
            scores=dict(zip(names, row.tolist(), strict=True)),
            trust=None if trust is None else float(trust[i]),
            branch=branch,
            doubt=1 - float(row.max()) if calibrated else None,
            novelty=None if novelty is None else float(novelty[i]),
            names=None if sets is None else _likeliest_first(names, row, sets[i]),
            refused=refused is not None and bool(refused[i]),
        )
        for i, (picture, row) in enumerate(zip(pictures, p, strict=True))
    ]


def _likeliest_first(names: Sequence[str], p: np.ndarray, chosen: np.ndarray) -> tuple[str, ...]:
    """Return the chosen names in the order of their probabilities."""
    return tuple(names[int(column)] for column in np.argsort(-p, kind="stable") if chosen[column])


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities: by a temperature, then by the accuracy measured at each confidence.

    Attributes:
        temperature: Divisor of the logits before the softmax.
        sure: Mean confidence (probability of the likeliest name) of groups of held-out shots, ascending.
        right: Accuracy of each group, never decreasing. Without groups, only the temperature applies.
    """

    temperature: float = 1.0
    sure: tuple[float, ...] = ()
    right: tuple[float, ...] = ()

    def as_right(self, p: np.ndarray) -> np.ndarray:
        """Return `[B, C]` probabilities whose highest value is the accuracy of answers of this confidence.

        The accuracy is interpolated between groups. The order of the names stays: what the likeliest name
        gains, the others lose in proportion; what it loses is shared equally among all names.

        Args:
            p: `[B, C]` probabilities after the temperature.
        """
        if not self.sure or p.shape[1] < 2:
            return p
        rows, top, uniform = np.arange(len(p)), p.argmax(axis=1), 1 / p.shape[1]
        confidence = p[rows, top].astype(np.float64)
        target = np.clip(np.interp(confidence, self.sure, self.right), uniform, 1)
        rescaled = p * ((1 - target) / np.maximum(1 - confidence, 1e-12))[:, None]
        rescaled[rows, top] = target
        mix = np.clip((confidence - target) / np.maximum(confidence - uniform, 1e-12), 0, 1)[:, None]
        return np.where((target >= confidence)[:, None], rescaled, p * (1 - mix) + mix * uniform).astype(
            p.dtype
        )


PLAIN = Calibration()
"""Probabilities are the softmax of the logits."""
