"""Doubt between names: fits calibrated probabilities.

- Temperature: On Calibration of Modern Neural Networks, Guo et al. 2017, https://arxiv.org/abs/1706.04599,
  Sec. 4.2; with Platt's targets (Probabilistic Outputs for Support Vector Machines, 1999), so that it does
  not become 0 if all shots are answered correctly.
- Groups: Obtaining Calibrated Probability Estimates from Decision Trees and Naive Bayesian Classifiers,
  Zadrozny and Elkan 2001 (equal groups); Transforming Classifier Scores Into Accurate Multiclass Probability
  Estimates, the same 2002 (isotonic)
"""

import math

import torch

from foveate.types import Labels, Logits

_LEAST, _MOST = 0.01, 100.0
_BISECTIONS = 60
_GROUP_SIZE, _GROUPS = 20, 10


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Return the temperature T in [0.01, 100] that maximises the likelihood of softmax(logits / T).

    Args:
        logits: `[N, C]` logits of pictures that were not learned from.
        labels: `[N]` true labels.
    """
    z, count = logits.double(), len(labels)
    target = torch.full_like(z, 1 / (count + 2) / max(1, z.shape[1] - 1))
    target[torch.arange(count), labels] = (count + 1) / (count + 2)
    target_mean = (target * z).sum(dim=1).mean()
    low, high = math.log(1 / _MOST), math.log(1 / _LEAST)
    for _ in range(_BISECTIONS):  # the loss is convex in 1 / T, so its slope changes sign once
        middle = (low + high) / 2
        slope = ((math.exp(middle) * z).softmax(dim=1) * z).sum(dim=1).mean() - target_mean
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def fit_groups(probabilities: Logits, labels: Labels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean confidence and the accuracy of groups of answers of similar confidence (isotonic).

    A temperature alone scales all answers alike; on drawn species it left a calibration error of 8 to 12
    points, the groups after it 2 to 6. A group has at least 20 pictures, and there are at most 10 groups; for
    fewer than 40 pictures there are none. Each group counts one more picture, right as often as its mean
    confidence.

    Args:
        probabilities: `[N, C]` probabilities of pictures that were not learned from.
        labels: `[N]` true labels.

    Returns:
        For each group: mean probability of the likeliest name, ascending, and share of right answers, which
        never decreases.
    """
    count = min(_GROUPS, len(labels) // _GROUP_SIZE)
    if count < 2:
        return (), ()
    top, answers = probabilities.double().max(dim=1)
    groups = top.argsort(stable=True).tensor_split(count)
    sure = [float(top[rows].mean()) for rows in groups]
    hits = [
        float((answers[rows] == labels[rows]).sum()) + mean for rows, mean in zip(groups, sure, strict=True)
    ]
    sizes = [len(rows) + 1 for rows in groups]

    def share(first: int, last: int) -> float:
        return sum(hits[first : last + 1]) / sum(sizes[first : last + 1])

    right = [
        max(min(share(first, last) for last in range(group, count)) for first in range(group + 1))
        for group in range(count)
    ]
    return tuple(sure), tuple(right)
