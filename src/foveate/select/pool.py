"""Input of selectors: features of a frozen CLIP for a pool of labelled pictures, class by class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from foveate.errors import InputError


@dataclass(frozen=True)
class ClassFeatures:
    """The pictures of one class, in float64, so that rounding of sums does not change a choice.

    Attributes:
        features: `[n, D]` unit features Z.
        logits: `[n, C]` logits of all classes.
        label: Column of this class.
        right: `[E, n]` whether each prediction was right, epoch by epoch; None without a log.
    """

    features: Float[Tensor, "pictures dim"]
    logits: Float[Tensor, "pictures classes"]
    label: int
    right: Bool[Tensor, "epochs pictures"] | None = None

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def log_probabilities(self) -> Float[Tensor, "pictures classes"]:
        """Log probabilities of each class."""
        return self.logits.log_softmax(dim=-1)


@dataclass(frozen=True)
class PoolFeatures:
    """Features of a frozen CLIP for a pool of labelled pictures.

    Attributes:
        features: `[N, D]` unit picture features Z.
        texts: `[C, D]` unit class texts T; logits are scale · Z Tᵗ.
        labels: `[N]` row indices of `texts`.
        scale: CLIP's temperature, as a factor of the cosines.
        right: `[E, N]` whether each prediction was right after each epoch of a training; None without a
            log.
    """

    features: Float[Tensor, "pictures dim"]
    texts: Float[Tensor, "classes dim"]
    labels: Int[Tensor, " pictures"]
    scale: float
    right: Bool[Tensor, "epochs pictures"] | None = None

    @classmethod
    def of(
        cls,
        features: Float[Tensor, "pictures dim"],
        texts: Float[Tensor, "classes dim"],
        labels: Int[Tensor, " pictures"],
        scale: float,
        right: Bool[Tensor, "epochs pictures"] | None = None,
    ) -> "PoolFeatures":
        """Normalise raw features of pictures and texts.

        Raises:
            InputError: A feature is not finite.
        """
        if not features.isfinite().all():
            row = int((~features.isfinite().all(dim=1)).nonzero()[0, 0])
            raise InputError(f"the features of picture {row} are not finite: make them again, in float32")
        return cls(F.normalize(features, dim=-1), F.normalize(texts, dim=-1), labels, scale, right)

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, label: int) -> Int[Tensor, " own"]:
        """Return the indices of a class's pictures in the pool."""
        return (self.labels == label).nonzero()[:, 0]

    def block(self, label: int) -> ClassFeatures:
        """Return the pictures of a class."""
        rows = self.rows(label)
        features = self.features[rows].double()
        right = None if self.right is None else self.right[:, rows]
        return ClassFeatures(features, self.scale * features @ self.texts.double().T, label, right)


def budgets(counts: Sequence[int], fraction: float, least: int = 1) -> list[int]:
    """Return the number of pictures to choose from each class.

    It is fraction · n, rounded half to even as in DAPT's code, but not below `least`. Otherwise a small
    class could have no picture (0.1 of 4) and would not be learned.

    Args:
        counts: Number of pictures of each class.
        fraction: Share of these, above 0 and at most 1.
        least: Minimum per class, as far as the class has so many; 0 reproduces DAPT's code.

    Raises:
        InputError: The fraction is out of range.
    """
    if not (math.isfinite(fraction) and 0 < fraction <= 1):
        raise InputError(f"fraction is {fraction}: give a number above 0, at most 1")
    return [min(count, max(least, round(fraction * count))) for count in counts]


def positions(indices: Tensor) -> list[int]:
    """Return a tensor of indices as a list."""
    return [int(index) for index in indices]


def untaken(number: int) -> Bool[Tensor, " pictures"]:
    """Return a boolean tensor in which no picture is taken."""
    return torch.zeros(number, dtype=torch.bool)
