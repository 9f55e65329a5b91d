"""Try candidates one after the other on the same folds: backbones first, plug-ins over the best of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from foveate.auto.candidates import Candidate, backbones_to_try, plugins_to_try
from foveate.auto.parts import Part, folds
from foveate.auto.trials import OutOfTime, Trials
from foveate.errors import InputError
from foveate.methods.registry import REFERENCE
from foveate.readers import one_line
from foveate.types import Labels, Logits

LATE = "the time was over (--minutes)"


@dataclass
class Compared:
    """What was tried.

    Attributes:
        parts: The folds.
        labels: `[M]` of the shots that were held out, fold after fold.
        held: `[M, C]` logits of them by candidate, in the order of trying.
        left_out: Why others were not tried, by title.
    """

    parts: list[Part]
    labels: Labels
    held: dict[str, Logits] = field(default_factory=dict[str, Logits])
    candidates: dict[str, Candidate] = field(default_factory=dict[str, Candidate])
    left_out: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def right(self) -> Bool[Tensor, "held candidates"]:
        """`[M, K]` whether each held-out shot was answered rightly."""
        return torch.stack([one.argmax(dim=1) == self.labels for one in self.held.values()], dim=1)

    def best_first(self) -> list[Candidate]:
        """Return the candidates, the most accurate first; among equals, in the order of trying."""
        counts: list[int] = self.right.sum(dim=0).tolist()
        titles = [*self.held]
        order = sorted(range(len(titles)), key=lambda place: (-counts[place], place))
        return [self.candidates[titles[place]] for place in order]


def compare(trials: Trials, reason_against: Callable[[Candidate], str | None]) -> Compared:
    """Try all candidates, until the time is over.

    Args:
        trials: Tries them.
        reason_against: Returns why one cannot be tried; None if it can.
    """
    parts = folds(trials.labels)
    found = Compared(parts, trials.labels[[row for part in parts for row in part.asked]])
    _try(trials, found, backbones_to_try(), reason_against)
    _try(trials, found, plugins_to_try(found.best_first() if found.held else []), reason_against)
    return found


def _try(
    trials: Trials,
    found: Compared,
    candidates: Iterable[Candidate],
    reason_against: Callable[[Candidate], str | None],
) -> None:
    late = LATE in found.left_out.values()
    for one in candidates:
        reason = reason_against(one) or (LATE if late else None)
        if reason is None:
            try:
                found.held[one.title] = torch.cat(trials.answers(one, found.parts))
                found.candidates[one.title] = one
            except OutOfTime:
                late, reason = True, LATE
            except InputError as error:  # its training diverged, or it cannot take these names
                if one.method == REFERENCE:
                    raise
                reason = one_line(error)
        if reason is not None:
            found.left_out[one.title] = reason
