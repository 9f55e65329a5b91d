"""What a model answers, in PyTorch and exported."""

from dataclasses import dataclass
from typing import Literal

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
