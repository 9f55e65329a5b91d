"""The promises of trust: how many shots a risk or a refusal needs, and sets of names; without PyTorch.

- Sets: Least Ambiguous Set-Valued Classifiers With Bounded Error Levels, Sadinle et al. 2019,
  https://arxiv.org/abs/1609.00451
"""

import math
from collections.abc import Sequence

import numpy as np

from foveate.errors import InputError
from foveate.prediction import Branch, Calibration

REFUSED = 0.05
"""Share of pictures of known things that may get the answer "none of these"."""

MOST_NOVEL = 1 - REFUSED - 1e-6
"""Least novelty at which a picture is refused."""


def calibration_for(branch: Branch, fitted: Calibration, plain: float, *, held_back: bool) -> Calibration:
    """Return the calibration of a label space.

    A calibration that was fitted on held-back shots is also used for trained and new names together: the
    plain temperature, fitted to other logits, made CoOp and FVG-PT worse calibrated. New names alone have no
    shots.

    Args:
        branch: The label space.
        fitted: Calibration of the method's logits.
        plain: Temperature of zero-shot CLIP's logits.
        held_back: Whether it was fitted on held-back shots.
    """
    if branch == "base" or (branch == "mixed" and held_back):
        return fitted
    return Calibration(max(fitted.temperature, plain))


def pictures_needed(risk: float) -> int:
    """Return the number of held-back pictures that a risk needs: 9 for 0.1, 19 for 0.05.

    Raises:
        InputError: The risk is no number between 0 and 1.
    """
    if not isinstance(risk, int | float) or not 0 < risk < 1:
        raise InputError(f"risk is {risk!r}: give a number above 0 and below 1, such as 0.1")
    return math.ceil(1 / risk - 1e-9) - 1


def least_probability(truths: Sequence[float], risk: float) -> float:
    """Return the least probability of a name in a set.

    Args:
        truths: Probability of the true name, for each held-back picture.
        risk: Share of pictures whose set may lack the true name, in (0, 1).

    Raises:
        InputError: The risk is not in (0, 1), or there are too few pictures for it.
    """
    needed, number = pictures_needed(risk), len(truths)
    if number < needed:
        raise InputError(
            f"a risk of {risk:g} needs {needed} pictures, and {number} were held back: fit with more pictures"
            " (--shots), or take a larger risk"
        )
    allowed = math.floor(risk * (number + 1) + 1e-9)  # of N + 1 pictures, this many sets may lack the truth
    return sorted(truths)[allowed - 1]


def prediction_sets(p: np.ndarray, least: float) -> np.ndarray:
    """Return `[B, C]` whether a name is in a picture's set: the likely names, and always the likeliest.

    Args:
        p: `[B, C]` probabilities after the temperature alone.
        least: Result of `least_probability`.
    """
    chosen = p >= least
    chosen[np.arange(len(chosen)), p.argmax(axis=1)] = True
    return chosen


def demand_promises(truths: Sequence[float], shots: int, risk: float | None, *, refusals: bool) -> None:
    """Refuse a risk or refusals that need more shots.

    Args:
        truths: As for `least_probability`; empty if no shots were held back.
        shots: Number of shots.
        risk: Risk of the sets of names; None if no sets are requested.
        refusals: Whether "none of these" may be the answer.

    Raises:
        InputError: There are too few shots or held-back shots, or `risk` is not in (0, 1).
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
