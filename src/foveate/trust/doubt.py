"""Doubt between names: a temperature for probabilities, and sets of names that hold the truth often enough.

- Temperature: On Calibration of Modern Neural Networks, Guo et al. 2017, https://arxiv.org/abs/1706.04599,
  Sec. 4.2; with Platt's targets (Probabilistic Outputs for Support Vector Machines, 1999), so that shots that
  are all answered rightly do not make it 0.
- Sets: Least Ambiguous Set-Valued Classifiers With Bounded Error Levels, Sadinle et al. 2019,
  https://arxiv.org/abs/1609.00451
"""

import math

import torch
from jaxtyping import Bool
from torch import Tensor

from foveate.errors import InputError
from foveate.types import Labels, Logits, PerImage

_LEAST, _MOST = 0.01, 100.0
_HALVINGS = 60


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Return the temperature T under which softmax(logits / T) is likeliest, within [0.01, 100].

    Args:
        logits: `[N, C]` of pictures that were not learned from.
        labels: `[N]` the truth.
    """
    z, number = logits.double(), len(labels)
    target = torch.full_like(z, 1 / (number + 2) / max(1, z.shape[1] - 1))
    target[torch.arange(number), labels] = (number + 1) / (number + 2)
    wanted = (target * z).sum(dim=1).mean()
    low, high = math.log(1 / _MOST), math.log(1 / _LEAST)
    for _ in range(_HALVINGS):  # the loss is convex in 1 / T, so its slope changes sign once
        middle = (low + high) / 2
        slope = ((math.exp(middle) * z).softmax(dim=1) * z).sum(dim=1).mean() - wanted
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def pictures_needed(risk: float) -> int:
    """Return how many pictures that were not learned from a risk needs: 9 for 0.1, 19 for 0.05.

    Raises:
        InputError: It is no number between 0 and 1.
    """
    if not isinstance(risk, int | float) or not 0 < risk < 1:
        raise InputError(f"risk is {risk!r}: give a number above 0 and below 1, such as 0.1")
    return math.ceil(1 / risk - 1e-9) - 1


def least_probability(scores: PerImage, risk: float) -> float:
    """Return how likely a name must be to be in the set.

    Args:
        scores: `[N]` probability of the truth, of pictures that were not learned from.
        risk: Share of pictures whose set may lack the truth, in (0, 1).

    Raises:
        InputError: No such risk, or too few pictures for it.
    """
    needed, number = pictures_needed(risk), len(scores)
    if number < needed:
        raise InputError(
            f"a risk of {risk:g} needs {needed} pictures, and {number} were held back: fit with more pictures"
            " (--shots), or take a larger risk"
        )
    out = math.floor(risk * (number + 1) + 1e-9)  # so many of N + 1 may be left out
    return float(scores.double().sort().values[out - 1])


def prediction_sets(probabilities: Logits, least: float) -> Bool[Tensor, "batch classes"]:
    """Return which names are in each picture's set: the likely ones, and always the likeliest."""
    chosen = probabilities >= least
    chosen[torch.arange(len(chosen)), probabilities.argmax(dim=1)] = True
    return chosen
