"""What trust promises: which shots a risk or a refusal needs, and where the line is; without PyTorch."""

import math
from collections.abc import Sequence

from foveate.errors import InputError
from foveate.prediction import Branch, Calibration

REFUSED = 0.05
"""Share of pictures of known things that "none of these" may be said of."""

MOST_NOVEL = 1 - REFUSED - 1e-6
"""Novelty from which on a picture is refused."""


def calibration_for(branch: Branch, own: Calibration, plain: float, *, held_back: bool) -> Calibration:
    """Return the calibration of a label space.

    One that was fitted on held-back shots also serves the trained names beside new ones: the plain
    temperature, of other logits, made CoOp and FVG-PT less right about how sure they are. New names alone
    have no shots.

    Args:
        branch: The label space.
        own: Of the method's logits.
        plain: Temperature of zero-shot CLIP's.
        held_back: Whether `own` was fitted on shots that were held back.
    """
    if branch == "base" or (branch == "mixed" and held_back):
        return own
    return Calibration(max(own.temperature, plain))


def pictures_needed(risk: float) -> int:
    """Return how many pictures that were not learned from a risk needs: 9 for 0.1, 19 for 0.05.

    Raises:
        InputError: It is no number between 0 and 1.
    """
    if not isinstance(risk, int | float) or not 0 < risk < 1:
        raise InputError(f"risk is {risk!r}: give a number above 0 and below 1, such as 0.1")
    return math.ceil(1 / risk - 1e-9) - 1


def least_probability(truths: Sequence[float], risk: float) -> float:
    """Return how likely a name must be to be in the set.

    Args:
        truths: Probability of the truth, of pictures that were not learned from.
        risk: Share of pictures whose set may lack the truth, in (0, 1).

    Raises:
        InputError: No such risk, or too few pictures for it.
    """
    needed, number = pictures_needed(risk), len(truths)
    if number < needed:
        raise InputError(
            f"a risk of {risk:g} needs {needed} pictures, and {number} were held back: fit with more pictures"
            " (--shots), or take a larger risk"
        )
    out = math.floor(risk * (number + 1) + 1e-9)  # so many of N + 1 may be left out
    return sorted(truths)[out - 1]


def demand_promises(truths: Sequence[float], shots: int, risk: float | None, *, refusals: bool) -> None:
    """Refuse what cannot be promised on so few shots.

    Args:
        truths: As for `least_probability`; empty where no shots were held back.
        shots: How many there are.
        risk: Of sets of names; None where nobody asks for them.
        refusals: Whether "none of these" may be said.

    Raises:
        InputError: Too few shots were held back, or there are too few; or it is no risk.
    """
    needed = pictures_needed(REFUSED)
    if refusals and shots < needed:
        raise InputError(
            f"to say 'none of these' needs {needed} shots, and this model has {shots}: fit"
            " with more pictures (--shots)"
        )
    if risk is None:
        return
    held_back = pictures_needed(risk)
    if not truths:
        raise InputError(
            f"a risk of {risk:g} needs {held_back} shots that were held back, and this model was trained on"
            " all of its shots at once: fit again with --folds 4, and two or more pictures a class"
        )
    least_probability(truths, risk)
