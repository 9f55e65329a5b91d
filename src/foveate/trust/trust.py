"""`Trust`: what a tuned model knows of its own answers, fitted on its shots alone and saved beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from foveate.errors import InputError
from foveate.prediction import PLAIN, Calibration
from foveate.train.checkpoint import TRUST
from foveate.trust.doubt import fit_groups, fit_temperature, prediction_sets
from foveate.trust.novelty import Support
from foveate.trust.promises import (
    MOST_NOVEL,
    calibration_for,
    demand_promises,
    least_probability,
)
from foveate.types import Branch, Logits, PerImage


@dataclass(frozen=True)
class Trust:
    """Says how sure an answer is, and when there should be none.

    Attributes:
        support: The shots, as the untouched CLIP sees them.
        plain: Temperature of zero-shot CLIP on the shots; answers about new names are no surer, unless
            shots were held back and trained names are asked about too.
        calibration: Of the method's logits; none without shots that were held back.
        truths: `[M]` probability that held-back shots gave to their own names under its temperature alone, in
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
        held: Float[Tensor, "held classes"],
        labels: Int[Tensor, " held"],
    ) -> "Trust":
        """Fit it.

        Args:
            support: The shots.
            zero_shot: `[N, C]` what CLIP says of them.
            held: `[M, C]` what the method says of shots that it has not learned from; M may be 0.
            labels: `[M]` the truth of these.
        """
        plain = fit_temperature(zero_shot, support.labels)
        if not len(held):
            return cls(support, plain, PLAIN, held.new_zeros(0))
        temperature = fit_temperature(held, labels)
        p = (held / temperature).softmax(dim=1)
        calibration = Calibration(temperature, *fit_groups(p, labels))
        return cls(support, plain, calibration, p.gather(1, labels[:, None])[:, 0].sort().values)

    @property
    def knows_doubt(self) -> bool:
        """Whether any shots were held back, so that probabilities are calibrated."""
        return len(self.truths) > 0

    def calibration_for(self, branch: Branch) -> Calibration:
        """Return the calibration of a label space; see `foveate.trust.promises.calibration_for`."""
        return calibration_for(branch, self.calibration, self.plain, held_back=self.knows_doubt)

    def sets(self, logits: Logits, branch: Branch, risk: float) -> Bool[Tensor, "batch classes"]:
        """Return the set of names of each picture; in a share `risk` of them the truth is missing.

        That holds on average for pictures like the shots, of trained classes. Of names without shots nothing
        is promised.

        Args:
            logits: `[B, C]` of the method.
            branch: The label space.
            risk: One that `demand` does not refuse.
        """
        p = (logits / self.calibration_for(branch).temperature).softmax(dim=1)
        return prediction_sets(p, least_probability(self.truths.tolist(), risk))

    def demand(self, risk: float | None, *, refusals: bool) -> None:
        """Refuse what it cannot promise.

        Args:
            risk: Of sets of names; None where nobody asks for them.
            refusals: Whether "none of these" may be said.

        Raises:
            InputError: Too few shots were held back, or there are too few; or it is no risk.
        """
        demand_promises(self.truths.tolist(), len(self.support), risk, refusals=refusals)

    def refused(self, novelty: PerImage) -> Bool[Tensor, " batch"]:
        """Return of which pictures to say "none of these"."""
        return novelty >= MOST_NOVEL

    def tensors(self) -> dict[str, Tensor]:
        """Return it as it is saved."""
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
        """As a model card tells it."""
        known = (
            f"Probabilities were calibrated on {len(self.truths)} shots that were held back in turn"
            f" (temperature {self.calibration.temperature:.2f}), and `risk=0.1` gives sets of names that hold"
            " the truth of nine in ten pictures like the shots."
            if self.knows_doubt
            else "Probabilities are not calibrated: no shots were held back (`--folds`)."
        )
        return (
            f'{known} `abstain=True` says "none of these" of what is far from all {len(self.support)} shots.'
        )


def read_trust(folder: Path, classes: int) -> Trust | None:
    """Return the trust that was saved with a model; None where there is none.

    Args:
        folder: Of the model.
        classes: How many it was trained on.

    Raises:
        InputError: It is damaged.
    """
    path = folder / TRUST
    if not path.is_file():
        return None
    try:
        held = {"groups": torch.zeros(2, 0, dtype=torch.float64), **load_file(path)}  # older models have none
        _check(held, classes)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{path} is damaged ({why}): delete it, or fit again") from error
    own, plain = held["temperatures"].tolist()
    support = Support(held["features"].float(), held["labels"], held["distances"], held["texts"])
    return Trust(support, plain, Calibration(own, *map(tuple, held["groups"].tolist())), held["truths"])


def _check(held: Mapping[str, Tensor], classes: int) -> None:
    """Refuse tensors that no fit ever wrote."""
    number = len(held["labels"])
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
        if held[name].ndim != dims or not held[name].float().isfinite().all():
            raise ValueError(f"{name} is not what it should be")
    if any(len(held[name]) != number for name in ("features", "distances", "texts")):
        raise ValueError("its parts are of different lengths")
    if (
        held["labels"].is_floating_point()
        or not 0 <= int(held["labels"].min()) <= int(held["labels"].max()) < classes
    ):
        raise ValueError("its labels are none of the model's")
    if len(held["temperatures"]) != 2 or not (held["temperatures"] > 0).all():
        raise ValueError("temperatures are not what they should be")
    sure, right = held["groups"]
    if (sure.diff() < 0).any() or (right.diff() < 0).any() or not ((right > 0) & (right <= 1)).all():
        raise ValueError("groups are not what they should be")
