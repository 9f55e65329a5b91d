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
    """

    photo: str
    label: str
    probability: float
    scores: dict[str, float]
    trust: float | None
    branch: Branch
