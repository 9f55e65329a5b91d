"""`Trust`: how reliable the answers of a tuned model are; fitted on its shots alone, saved with the model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from foveate.errors import InputError
from foveate.prediction import PLAIN, Calibration
from foveate.readers import one_line
from foveate.train.checkpoint import TRUST
from foveate.trust.promises import (
    MOST_NOVEL,
    calibration_for,
    demand_promises,
    least_probability,
    prediction_sets,
)
from foveate.types import Branch, Labels, Logits, PerImage

# Doubt between names: fits calibrated probabilities.
#
# - Temperature: On Calibration of Modern Neural Networks, Guo et al. 2017, https://arxiv.org/abs/1706.04599,
#   Sec. 4.2; with Platt's targets (Probabilistic Outputs for Support Vector Machines, 1999), so that it does
#   not become 0 if all shots are answered correctly.
# - Groups: Obtaining Calibrated Probability Estimates from Decision Trees and Naive Bayesian Classifiers,
#   Zadrozny and Elkan 2001 (equal groups); Transforming Classifier Scores Into Accurate Multiclass
#   Probability Estimates, the same 2002 (isotonic)


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


# Novelty: how far a picture is from everything a classifier knows, its shots and the texts of its names.
#
# A classifier can be sure of its answer for a picture of something new, so novelty is separate from doubt.
# Distances are measured between features of the unchanged CLIP, whatever was learned on top. Novelty is 1
# minus a conformal p-value: the share of shots that are less unusual, each measured as if it were not among
# them.
#
# - Neighbours: Out-of-Distribution Detection with Deep Nearest Neighbors, Sun et al. 2022,
#   https://arxiv.org/abs/2204.06507
# - p-values: Testing for Outliers with Conformal p-values, Bates et al. 2023,
#   https://arxiv.org/abs/2104.08279


_CHUNK = 4096
"""Number of pictures that are compared with all shots at once."""

PictureFeatures = Float[Tensor, "pictures dim"]
Texts = Float[Tensor, "classes dim"]
Novelty = Float[Tensor, " pictures"]


@dataclass(frozen=True)
class Support:
    """Features of the shots, from the unchanged CLIP.

    Attributes:
        features: `[N, D]` unit features.
        labels: `[N]` labels of the shots (rows of the trained names).
        distances: `[N]` distance of each shot to the nearest other one, 1 − cosine; in ascending order.
        texts: `[N]` cosine of each shot and the text of its name; in ascending order.
    """

    features: PictureFeatures
    labels: Labels
    distances: PerImage
    texts: PerImage

    @classmethod
    def of(cls, features: PictureFeatures, labels: Labels, texts: Texts) -> "Support":
        """Build it from raw features of the shots, and raw texts of all trained names in label order."""
        unit, class_texts = F.normalize(features.float(), dim=-1), F.normalize(texts.float(), dim=-1)
        distances = torch.cat([_nearest(chunk, unit, 2)[:, 1] for chunk in unit.split(_CHUNK)])
        similarities = (unit * class_texts[labels]).sum(dim=1)
        return cls(unit, labels, distances.sort().values, similarities.sort().values)

    def __len__(self) -> int:
        return len(self.labels)

    def novelty(self, features: PictureFeatures, known: Int[Tensor, " known"]) -> Novelty:
        """Return the novelty `[B]` of pictures in [0, 1): the share of shots that are less unusual.

        Args:
            features: `[B, D]` raw features of the unchanged CLIP.
            known: Rows of the trained names to choose from, at least one.
        """
        unit, shots = F.normalize(features.float(), dim=-1), self.features[torch.isin(self.labels, known)]
        distances = torch.cat([_nearest(chunk, shots, 1)[:, 0] for chunk in unit.split(_CHUNK)])
        as_far = len(self) - torch.searchsorted(self.distances, distances)
        return 1 - (as_far + 1) / (len(self) + 1)

    def novelty_of_names(self, features: PictureFeatures, texts: PictureFeatures) -> Novelty:
        """Return the novelty of pictures whose answer is a name without shots, compared with its text.

        Args:
            features: `[B, D]` raw features of the unchanged CLIP.
            texts: `[B, D]` raw text of each picture's name.
        """
        similarities = F.cosine_similarity(features.float(), texts.float(), dim=-1)
        as_far = torch.searchsorted(self.texts, similarities, right=True)
        return 1 - (as_far + 1) / (len(self) + 1)


def _nearest(
    features: PictureFeatures, shots: Float[Tensor, "shots dim"], count: int
) -> Float[Tensor, "pictures n"]:
    """Return the distances to the nearest shots; the nearest to a shot is itself."""
    return 1 - (features @ shots.T).topk(min(count, len(shots)), dim=1).values


# The trust of a model: calibration of doubt, novelty, and sets of names.


@dataclass(frozen=True)
class Trust:
    """Calibration, novelty and sets of names of a tuned model.

    Attributes:
        support: Features of the shots, from the unchanged CLIP.
        plain: Temperature of zero-shot CLIP on the shots; a lower bound for new names, unless shots were held
            back and trained names are among the choices.
        calibration: Calibration of the method's logits; `PLAIN` without held-back shots.
        truths: `[M]` probability of the true name for each held-back shot, after the temperature alone, in
            ascending order.
    """

    support: Support
    plain: float
    calibration: Calibration
    truths: PerImage

    @classmethod
    def of(
        cls,
        support: Support,
        zero_shot: Float[Tensor, "shots classes"],
        held_back: Float[Tensor, "held_back classes"],
        labels: Int[Tensor, " held_back"],
    ) -> "Trust":
        """Fit the calibration.

        Args:
            support: The shots.
            zero_shot: `[N, C]` logits of zero-shot CLIP for the shots.
            held_back: `[M, C]` logits of the method for shots that it has not learned from; M may be 0.
            labels: `[M]` true labels of the held-back shots.
        """
        plain = fit_temperature(zero_shot, support.labels)
        if not len(held_back):
            return cls(support, plain, PLAIN, held_back.new_zeros(0))
        temperature = fit_temperature(held_back, labels)
        p = (held_back / temperature).softmax(dim=1)
        calibration = Calibration(temperature, *fit_groups(p, labels))
        return cls(support, plain, calibration, p.gather(1, labels[:, None])[:, 0].sort().values)

    @property
    def knows_doubt(self) -> bool:
        """Whether any shots were held back, so that probabilities are calibrated."""
        return len(self.truths) > 0

    def calibration_for(self, branch: Branch) -> Calibration:
        """Return the calibration of a label space; see `foveate.trust.promises.calibration_for`."""
        return calibration_for(branch, self.calibration, self.plain, held_back=self.knows_doubt)

    def sets(self, logits: Logits, branch: Branch, risk: float) -> np.ndarray:
        """Return the set `[B, C]` of names of each picture; a share `risk` of the sets lacks the true name.

        This holds on average for pictures like the shots, of trained classes. For names without shots nothing
        is promised.

        Args:
            logits: `[B, C]` logits of the method.
            branch: The label space.
            risk: A risk that `demand` accepts.
        """
        p = (logits / self.calibration_for(branch).temperature).softmax(dim=1)
        return prediction_sets(p.numpy(force=True), least_probability(self.truths.tolist(), risk))

    def demand(self, risk: float | None, *, refusals: bool) -> None:
        """Refuse a risk or refusals that it cannot promise.

        Args:
            risk: Risk of the sets of names; None if no sets are requested.
            refusals: Whether "none of these" may be the answer.

        Raises:
            InputError: There are too few shots or held-back shots, or `risk` is not in (0, 1).
        """
        demand_promises(self.truths.tolist(), len(self.support), risk, refusals=refusals)

    def refused(self, novelty: PerImage) -> Bool[Tensor, " batch"]:
        """Return whether the answer for each picture should be "none of these"."""
        return novelty >= MOST_NOVEL

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save."""
        return {
            "features": self.support.features.half(),
            "labels": self.support.labels,
            "distances": self.support.distances,
            "texts": self.support.texts,
            "truths": self.truths,
            "temperatures": torch.tensor([self.calibration.temperature, self.plain], dtype=torch.float64),
            "groups": torch.tensor([self.calibration.sure, self.calibration.right], dtype=torch.float64),
        }

    @property
    def words(self) -> str:
        """Description for the model card."""
        doubt = (
            f"Probabilities were calibrated on {len(self.truths)} shots that were held back in turn"
            f" (temperature {self.calibration.temperature:.2f}), and `risk=0.1` gives sets of names that hold"
            " the truth of nine in ten pictures like the shots."
            if self.knows_doubt
            else "Probabilities are not calibrated: no shots were held back (`--folds`)."
        )
        return (
            f'{doubt} `abstain=True` says "none of these" of what is far from all {len(self.support)} shots.'
        )


def read_trust(folder: Path, classes: int) -> Trust | None:
    """Return the trust that was saved with a model; None if there is none.

    Args:
        folder: Folder of the model.
        classes: Number of trained classes.

    Raises:
        InputError: The file is damaged.
    """
    path = folder / TRUST
    if not path.is_file():
        return None
    try:
        data = {"groups": torch.zeros(2, 0, dtype=torch.float64), **load_file(path)}  # older models have none
        _check(data, classes)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path} is damaged ({one_line(error, None)}): delete it, or fit again") from error
    temperature, plain = data["temperatures"].tolist()
    support = Support(data["features"].float(), data["labels"], data["distances"], data["texts"])
    return Trust(
        support, plain, Calibration(temperature, *map(tuple, data["groups"].tolist())), data["truths"]
    )


def _check(tensors: Mapping[str, Tensor], classes: int) -> None:
    """Refuse tensors that cannot be the result of a fit."""
    count = len(tensors["labels"])
    shapes = {
        "features": 2,
        "labels": 1,
        "distances": 1,
        "texts": 1,
        "truths": 1,
        "temperatures": 1,
        "groups": 2,
    }
    for name, dims in shapes.items():
        if tensors[name].ndim != dims or not tensors[name].float().isfinite().all():
            raise ValueError(f"{name} is not what it should be")
    if any(len(tensors[name]) != count for name in ("features", "distances", "texts")):
        raise ValueError("its parts are of different lengths")
    if (
        tensors["labels"].is_floating_point()
        or not 0 <= int(tensors["labels"].min()) <= int(tensors["labels"].max()) < classes
    ):
        raise ValueError("its labels are none of the model's")
    if len(tensors["temperatures"]) != 2 or not (tensors["temperatures"] > 0).all():
        raise ValueError("temperatures are not what they should be")
    sure, right = tensors["groups"]
    if (sure.diff() < 0).any() or (right.diff() < 0).any() or not ((right > 0) & (right <= 1)).all():
        raise ValueError("groups are not what they should be")
