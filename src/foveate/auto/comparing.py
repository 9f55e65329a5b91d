"""Tries candidates one after another on the same folds: first backbones, then plug-ins over the best."""

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
    """Candidates that were tried.

    Attributes:
        parts: The folds.
        labels: `[M]` labels of the held-out shots, fold after fold.
        logits: `[M, C]` logits of these shots for each candidate, by title, in the order of trying.
        candidates: The tried candidates, by title.
        left_out: Reason why a candidate was not tried, by title.
    """

    parts: list[Part]
    labels: Labels
    logits: dict[str, Logits] = field(default_factory=dict[str, Logits])
    candidates: dict[str, Candidate] = field(default_factory=dict[str, Candidate])
    left_out: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def right(self) -> Bool[Tensor, "pictures candidates"]:
        """`[M, K]` whether each answer for a held-out shot is right."""
        return torch.stack([each.argmax(dim=1) == self.labels for each in self.logits.values()], dim=1)

    def best_first(self) -> list[Candidate]:
        """Return the candidates, the most accurate first; among equals, in the order of trying."""
        counts: list[int] = self.right.sum(dim=0).tolist()
        titles = [*self.logits]
        order = sorted(range(len(titles)), key=lambda index: (-counts[index], index))
        return [self.candidates[titles[index]] for index in order]


def compare(trials: Trials, reason_against: Callable[[Candidate], str | None]) -> Compared:
    """Try all candidates, until the time is over.

    Args:
        trials: Trials of the run.
        reason_against: Returns why a candidate cannot be tried; None if it can.
    """
    parts = folds(trials.labels)
    compared = Compared(parts, trials.labels[[row for part in parts for row in part.test]])
    _try(trials, compared, backbones_to_try(), reason_against)
    _try(trials, compared, plugins_to_try(compared.best_first() if compared.logits else []), reason_against)
    return compared


def _try(
    trials: Trials,
    compared: Compared,
    candidates: Iterable[Candidate],
    reason_against: Callable[[Candidate], str | None],
) -> None:
    late = LATE in compared.left_out.values()
    for candidate in candidates:
        reason = reason_against(candidate) or (LATE if late else None)
        if reason is None:
            try:
                compared.logits[candidate.title] = torch.cat(trials.answers(candidate, compared.parts))
                compared.candidates[candidate.title] = candidate
            except OutOfTime:
                late, reason = True, LATE
            except InputError as error:  # its training diverged, or it cannot take these names
                if candidate.method == REFERENCE:
                    raise
                reason = one_line(error)
        if reason is not None:
            compared.left_out[candidate.title] = reason
