"""Input of selectors: features of a frozen CLIP for a pool of labelled pictures, class by class.

Ranking and inner products of gradients, which several selectors use, are here too.
"""

import math
from collections.abc import Callable, Iterator, Sequence
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


# Ranking by score; among equal scores, by index.


FINE = 1e-10
"""Relative tolerance: scores that differ by less than this share of the largest one count as equal."""


def ranked(scores: Tensor) -> Tensor:
    """Return indices from the largest to the smallest score; among equals the lower index is first.

    Args:
        scores: `[n]`.
    """
    return torch.argsort(-in_steps(scores), stable=True)


def first_greatest(scores: Tensor, taken: Tensor) -> int:
    """Return the index of the largest score that is not taken; among equals the lowest index.

    Args:
        scores: `[n]`.
        taken: `[n]` booleans, not all true.
    """
    remaining = (~taken).nonzero()[:, 0]
    steps = in_steps(scores[remaining])
    return int(remaining[(steps == steps.max()).nonzero()[0, 0]])


def in_steps(scores: Tensor) -> Tensor:
    """Return scores as multiples of the tolerance, rounded to whole numbers."""
    step = float(scores.abs().max()) * FINE
    return (scores / step).round() if step else torch.zeros_like(scores)


# Inner products of last-layer gradients, without the gradients themselves; and GraNd, by their norms.
#
# The loss of picture i is the cross-entropy of the linear layer W Z + b with W = scale · T and b = 0. With
# g_i = softmax(logits_i) - onehot(y_i), its gradient is G_i = [g_i, vec(g_i ⊗ Z_i)], with C (1 + D)
# numbers. Inner products do not need them: <G_i, G_j> = <g_i, g_j> (1 + <Z_i, Z_j>).
#
# - GraNd: Paul et al. 2021, https://arxiv.org/abs/2107.07075, definition 2.1


WHOLE = 8192
"""Largest class size for which all inner products are stored (512 MiB); larger classes store fewer rows."""

PIECE = 1 << 24
"""Number of inner products that are computed together (128 MiB)."""

MakeRows = Callable[[Tensor], Tensor]
"""Function from indices `[k]` to rows `[k, n]`."""


def residuals(logits: Tensor, label: int) -> Tensor:
    """Return g `[n, C]`, the gradient of the cross-entropy with respect to the logits.

    For the right class it is p - 1, computed as a sum over the others, so it stays precise if p is
    nearly 1.
    """
    g = logits.softmax(dim=-1)
    g[:, label] = 0
    g[:, label] = -g.sum(dim=1)
    return g


def grand(block: ClassFeatures, count: int) -> list[int]:
    """Take the pictures with the largest ‖G_i‖ = ‖g_i‖ √(1 + ‖Z_i‖²)."""
    return positions(ranked(squared_norms(residuals(block.logits, block.label), block.features))[:count])


def squared_norms(g: Tensor, z: Tensor) -> Float[Tensor, " pictures"]:
    """Return ‖G_i‖²."""
    return g.square().sum(dim=1) * (1 + z.square().sum(dim=1))


def inner_products(g: Tensor, z: Tensor) -> MakeRows:
    """Return rows of <G_i, G_j>."""
    return lambda rows: (g[rows] @ g.T) * (1 + z[rows] @ z.T)


def cosines(block: ClassFeatures) -> MakeRows:
    """Return rows of the cosines of gradients; a zero gradient has cosine 0 with all."""
    g, z = residuals(block.logits, block.label), block.features
    norms = g.norm(dim=1, keepdim=True)
    g = g / torch.where(norms > 0, norms, 1)  # divide first: products of tiny numbers would be zero
    lengths = (1 + z.square().sum(dim=1)).sqrt()
    products = inner_products(g, z)
    return lambda rows: products(rows) / lengths[rows, None] / lengths


def nearness(block: ClassFeatures) -> MakeRows:
    """Return rows of c - ‖G_i - G_j‖, where c is an upper bound of all distances."""
    g, z = residuals(block.logits, block.label), block.features
    products, squares = inner_products(g, z), squared_norms(g, z)
    bound = 2 * float(squares.max().sqrt())
    return lambda rows: bound - (squares[rows, None] + squares - 2 * products(rows)).clamp(min=0).sqrt()


class Similarity:
    """A symmetric matrix `[n, n]`; if it is too large to be stored, the first requested rows are cached.

    Args:
        number: n.
        make: Function that computes rows.
    """

    def __init__(self, number: int, make: MakeRows):
        self.number, self._make = number, make
        self._whole = torch.cat(list(self._make_rows())) if number <= WHOLE else None
        self._cache = torch.empty(0 if number <= WHOLE else WHOLE**2 // number, number, dtype=torch.float64)
        self._cache_row: dict[int, int] = {}  # row in `_cache` of each cached row

    def row(self, index: int) -> Float[Tensor, " pictures"]:
        """Return one row."""
        return self.rows([index])[0]

    def rows(self, indices: Sequence[int]) -> Float[Tensor, "some pictures"]:
        """Return some rows."""
        if self._whole is not None:
            return self._whole[torch.tensor(indices)]
        missing = [index for index in indices if index not in self._cache_row]
        new = dict(zip(missing, self._make(torch.tensor(missing)), strict=True)) if missing else {}
        for index, row in list(new.items())[: len(self._cache) - len(self._cache_row)]:
            self._cache_row[index] = len(self._cache_row)
            self._cache[self._cache_row[index]] = row
        return torch.stack([new[i] if i in new else self._cache[self._cache_row[i]] for i in indices])

    def pieces(self) -> Iterator[Float[Tensor, "some pictures"]]:
        """Yield all rows in order, several at a time."""
        if self._whole is not None:
            yield self._whole
        else:
            yield from self._make_rows()

    def _make_rows(self) -> Iterator[Tensor]:
        for indices in torch.arange(self.number).split(max(1, PIECE // self.number)):
            yield self._make(indices)
