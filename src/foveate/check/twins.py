"""Pictures that are there twice: resized, compressed again, cropped a little, or mirrored."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

ALIKE = 0.93
"""Least correlation of two likenesses."""

SEEN_ALIKE = 0.80
"""Least cosine of the features of two pictures."""

_CHUNK = 1024


def twins(
    likenesses: Float[Tensor, "pictures 2 numbers"], features: Float[Tensor, "pictures dim"]
) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of places of the same picture, the earlier first, and how alike their pixels are.

    Both must agree: pixels alone take two things before one wall for the same, features alone two photos of
    one thing.

    Args:
        likenesses: Of each picture and its mirror image; see `foveate.check.pixels.Look`.
        features: Raw features of a frozen image tower.
    """
    unit, plain = F.normalize(features.float(), dim=-1), likenesses[:, 0]
    for start in range(0, len(plain), _CHUNK):
        rows = slice(start, start + _CHUNK)
        alike = torch.maximum(plain[rows] @ plain.T, likenesses[rows, 1] @ plain.T)
        both = (alike >= ALIKE) & (unit[rows] @ unit.T >= SEEN_ALIKE)
        for row, column in both.triu(diagonal=start + 1).nonzero().tolist():
            yield start + row, column, float(alike[row, column])


def first_of(pairs: list[tuple[int, int, float]], number: int) -> list[int]:
    """Return for each picture the first one that it is the same as, along chains of pairs; else itself."""
    above = list(range(number))  # an earlier one of the same chain; the first of a chain is its own

    def first(place: int) -> int:
        while above[place] != place:
            above[place] = above[above[place]]
            place = above[place]
        return place

    for one, other, _ in pairs:
        low, high = sorted((first(one), first(other)))
        above[high] = low
    return [first(place) for place in range(number)]
