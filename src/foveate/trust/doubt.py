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

from foveate.types import Labels, Logits

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


def prediction_sets(probabilities: Logits, least: float) -> Bool[Tensor, "batch classes"]:
    """Return which names are in each picture's set: the likely ones, and always the likeliest."""
    chosen = probabilities >= least
    chosen[torch.arange(len(chosen)), probabilities.argmax(dim=1)] = True
    return chosen
