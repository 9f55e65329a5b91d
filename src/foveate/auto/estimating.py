"""How good the chosen method will be, from answers about shots that were held out.

- The best of several on the same pictures looks better than it is: the choice is repeated on pictures drawn
  with replacement, and judged on those that were not drawn. Bootstrapping the out-of-sample predictions for
  efficient and accurate cross-validation, Tsamardinos et al. 2018, https://arxiv.org/abs/1708.07180
- A method that learned from three of four shots looks worse than one that learns from all: errors fall as a
  power of the number of shots, which is fitted to draws of fewer. Learning Curves: Asymptotic Values and Rate
  of Convergence, Cortes et al. 1993
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.evaluate.intervals import Interval, wilson
from foveate.trust.doubt import fit_temperature
from foveate.types import Labels, Logits

LEVEL = 0.9
MARGIN = 0.01
"""How much better than the reference a method must look to be taken, if the difference may be chance."""

USUAL_SLOPE, ITS_WEIGHT = -0.3, 1.0
"""Power by which errors fall with the number of shots, if nothing is known, and how much that counts."""

_DRAWS = 1000

Scores = Float[Tensor, "pictures candidates"]
Right = Bool[Tensor, "pictures candidates"]


def scores(held: Sequence[Logits], labels: Labels) -> Scores:
    """Return `[M, K]` how good each answer is, in [0, 1]: right or not, and how likely it held the truth.

    Accuracy alone has many ties on few pictures; calibrated probabilities break them.

    Args:
        held: `[M, C]` logits of each candidate.
        labels: `[M]` the truth.
    """
    found: list[Tensor] = []
    for logits in held:
        likely = (logits / fit_temperature(logits, labels)).softmax(dim=1).gather(1, labels[:, None])[:, 0]
        found.append(((logits.argmax(dim=1) == labels) + likely.double()) / 2)
    return torch.stack(found, dim=1)


def pick(means: Float[Tensor, "draws candidates"]) -> Int[Tensor, " draws"]:
    """Return the best candidate of each row; the first, unless another is better by `MARGIN`."""
    best = means.argmax(dim=1)
    ahead = means.gather(1, best[:, None])[:, 0] - means[:, 0]
    return torch.where(ahead > MARGIN, best, 0)


def best_beside(values: Scores) -> int:
    """Return the best candidate besides the reference; the reference, if there is no other."""
    return int(values[:, 1:].mean(dim=0).argmax()) + 1 if values.shape[1] > 1 else 0


@dataclass(frozen=True)
class Resampled:
    """What choices on other pictures of the same kind would have come to.

    Attributes:
        optimism: How much better the chosen one looked than it was, as a share.
        gain: Of the best candidate over the first, in points, less the optimism.
    """

    optimism: float
    gain: Interval


def resample(values: Scores, right: Right, generator: torch.Generator) -> Resampled:
    """Repeat the choice on pictures drawn with replacement.

    Args:
        values: As `scores` returns them; the first candidate is the reference.
        right: Whether each answer was right.
        generator: Draws the pictures.
    """
    number, share = len(values), right.double()
    drawn = torch.randint(number, (_DRAWS, number), generator=generator)
    counts = torch.zeros(_DRAWS, number, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones_like(drawn, dtype=torch.float64)
    )
    chosen = pick(counts @ values.double() / number)
    unseen = (counts == 0).double()
    some = unseen.sum(dim=1) > 0
    outside = (unseen * share[:, chosen].T).sum(dim=1)[some] / unseen.sum(dim=1)[some]
    own = int(pick(values.mean(dim=0)[None]))
    optimism = float(share[:, own].mean() - outside.mean()) if some.any() else 0.0
    leader = best_beside(values)
    ahead = share[:, leader] - share[:, 0]
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = (counts @ ahead / number).quantile(ends).tolist()
    gain = (100 * (one - optimism) for one in (float(ahead.mean()), low, high))
    return Resampled(optimism, Interval(*gain))


@dataclass(frozen=True)
class Curve:
    """Errors of a method by the number of shots a class.

    Attributes:
        slope: Power of the number of shots, at most 0.
        shots: How many a class the error was measured with.
        error: The error there, as a share.
        pictures: How many shots it was measured on.
    """

    slope: float
    shots: float
    error: float
    pictures: int

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]], pictures: int, optimism: float = 0.0) -> "Curve":
        """Fit it.

        Args:
            points: Shots a class and error, as shares; the last is that of the folds.
            pictures: How many shots the folds asked about.
            optimism: By which the last error is too small.
        """
        x = [math.log(shots) for shots, _ in points]
        y = [math.log(error + 0.5 / pictures) for _, error in points]
        middle, level = sum(x) / len(x), sum(y) / len(y)
        both = sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True))
        spread = sum((a - middle) ** 2 for a in x)
        slope = min(0.0, (both + ITS_WEIGHT * USUAL_SLOPE) / (spread + ITS_WEIGHT))
        shots, error = points[-1]
        return cls(slope, shots, min(1.0, max(0.0, error + optimism)), pictures)

    def at(self, shots: float) -> Interval:
        """Return the accuracy in percent with so many shots a class."""
        return honest(1 - self.error * (shots / self.shots) ** self.slope, self.pictures)


def honest(share: float, pictures: int) -> Interval:
    """Return a share in percent that was measured on held-out shots, with its interval."""
    return wilson(share * pictures, pictures, LEVEL)
