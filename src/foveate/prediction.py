"""What a model answers, in PyTorch and exported."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Branch = Literal["base", "new", "mixed"]
"""Which label space is asked about: the classes trained on, classes never seen, or both together."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo.

    Attributes:
        photo: Its path, or its place in the list for a picture in memory.
        label: The likeliest name.
        probability: Of that name, among the names asked about.
        scores: Probability of every name.
        trust: How far the answer leans on CLIP's prior, in [0, 1]; None where no gate was asked.
        branch: Which label space the names were: "base", "new", or "mixed".
        doubt: Between names, in [0, 1]: 1 less the probability of the label; None where the probability is
            not calibrated.
        novelty: How unusual the picture is, in [0, 1): the share of shots that are less so; None where the
            model does not know its shots.
        names: With a risk, the names that it may be, the likeliest first.
        refused: Whether the prediction is "none of these"; `label` is then the likeliest name all the same.
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
        pictures: What each of B photos is called.
        names: C names.
        p: `[B, C]` probabilities.
        branch: Label space of the names.
        calibrated: Whether the probabilities are, so that there is a doubt.
        trust: `[B]`, as all that follow; see `Prediction`.
        novelty: Likewise.
        sets: `[B, C]` which names each photo may show.
        refused: Of which photos to say "none of these".
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
    return tuple(names[int(place)] for place in np.argsort(-p, kind="stable") if chosen[place])


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities: those of a temperature, then as high as such answers were right.

    Attributes:
        temperature: That logits are divided by, before the softmax.
        sure: Mean probability of the likeliest name, of groups of held-back shots, in ascending order.
        right: Share of each group whose likeliest name was the truth; it never falls. Without groups
            probabilities are those of the temperature.
    """

    temperature: float = 1.0
    sure: tuple[float, ...] = ()
    right: tuple[float, ...] = ()

    def as_right(self, p: np.ndarray) -> np.ndarray:
        """Return `[B, C]` probabilities whose likeliest name is as likely as such answers were right.

        Between groups it is interpolated. The order of the names stays: what the likeliest gains, the others
        lose in proportion; what it loses is given to all names alike.

        Args:
            p: `[B, C]` probabilities of the temperature.
        """
        if not self.sure or p.shape[1] < 2:
            return p
        rows, top, least = np.arange(len(p)), p.argmax(axis=1), 1 / p.shape[1]
        now = p[rows, top].astype(np.float64)
        wanted = np.clip(np.interp(now, self.sure, self.right), least, 1)
        raised = p * ((1 - wanted) / np.maximum(1 - now, 1e-12))[:, None]
        raised[rows, top] = wanted
        flat = np.clip((now - wanted) / np.maximum(now - least, 1e-12), 0, 1)[:, None]
        return np.where((wanted >= now)[:, None], raised, p * (1 - flat) + flat * least).astype(p.dtype)


PLAIN = Calibration()
"""Probabilities are the softmax of the logits."""
