"""`Trust`: how reliable the answers of a tuned model are; fitted on its shots alone, saved with the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from foveate.errors import InputError
from foveate.prediction import PLAIN, Calibration
from foveate.readers import one_line
from foveate.train.checkpoint import TRUST
from foveate.trust.doubt import fit_groups, fit_temperature
from foveate.trust.novelty import Support
from foveate.trust.promises import (
    MOST_NOVEL,
    calibration_for,
    demand_promises,
    least_probability,
    prediction_sets,
)
from foveate.types import Branch, Logits, PerImage


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
