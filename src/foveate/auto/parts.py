"""Divisions of the shots: folds, and draws of fewer shots for the learning curve."""

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.seeds import stream
from foveate.trust.folds import fold_turns
from foveate.types import Labels

FOLDS = 4
SHARES, DRAWS = (0.25, 0.5), 4
"""Shares of the shots, and draws of each, for the learning curve; the folds are its last point."""


@dataclass(frozen=True)
class Part:
    """A division of the shots.

    Attributes:
        train: Indices of the shots to learn from.
        test: Indices of the shots to predict.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]

    @classmethod
    def without(cls, out: Tensor) -> "Part":
        """Return the division that leaves out the shots of a mask `[N]`."""
        return cls(tuple((~out).nonzero()[:, 0].tolist()), tuple(out.nonzero()[:, 0].tolist()))


def folds(labels: Labels) -> list[Part]:
    """Return divisions that leave out each shot once, but never all of a class."""
    return [Part.without(out) for out in fold_turns(labels, FOLDS) if out.any()]


def draws(labels: Labels, seed: int) -> list[list[Part]]:
    """Return divisions that learn from fewer shots, one list for each share; each class is drawn separately.

    A share is left out if it has no more pictures than a smaller share, or as many as the folds.
    """
    counts = torch.bincount(labels)
    limit, divisions = counts.max().item() - -(-counts.max().item() // FOLDS), list[list[Part]]()
    previous = 0
    for share in SHARES:
        size = max(1, int(counts.max().item() * share))
        if previous < size < limit:
            divisions.append([_draw(labels, counts, share, seed, turn) for turn in range(DRAWS)])
            previous = size
    return divisions


def _draw(labels: Labels, counts: Tensor, share: float, seed: int, turn: int) -> Part:
    held_out = torch.ones(len(labels), dtype=torch.bool)
    for label, count in enumerate(counts.tolist()):
        rows = (labels == label).nonzero()[:, 0]
        order = torch.randperm(count, generator=stream(seed, "auto", repr(share), turn, label))
        held_out[rows[order[: max(1, int(count * share))]]] = False
    return Part.without(held_out)
