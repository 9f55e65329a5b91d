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
from foveate.train.checkpoint import TRUST
from foveate.trust.doubt import fit_temperature, prediction_sets
from foveate.trust.novelty import Support
from foveate.trust.promises import MOST_NOVEL, demand_promises, least_probability, temperature_for
from foveate.types import Branch, Logits, PerImage


@dataclass(frozen=True)
class Trust:
    """Says how sure an answer is, and when there should be none.

    Attributes:
        support: The shots, as the untouched CLIP sees them.
        plain: Temperature of zero-shot CLIP on the shots; answers about new names are no surer, unless
            shots were held back and trained names are asked about too.
        temperature: Of the method's logits; 1 without shots that were held back.
        truths: `[M]` probability that held-back shots gave to their own names, in ascending order.
    """

    support: Support
    plain: float
    temperature: float
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
            return cls(support, plain, 1.0, held.new_zeros(0))
        temperature = fit_temperature(held, labels)
        truths = (held / temperature).softmax(dim=1).gather(1, labels[:, None])[:, 0]
        return cls(support, plain, temperature, truths.sort().values)

    @property
    def knows_doubt(self) -> bool:
        """Whether any shots were held back, so that probabilities are calibrated."""
        return len(self.truths) > 0

    def temperature_for(self, branch: Branch) -> float:
        """Return the temperature of a label space; see `foveate.trust.promises.temperature_for`."""
        return temperature_for(branch, self.temperature, self.plain, held_back=self.knows_doubt)

    def probabilities(self, logits: Logits, branch: Branch) -> Logits:
        """Return calibrated probabilities of a label space."""
        return (logits / self.temperature_for(branch)).softmax(dim=1)

    def sets(self, probabilities: Logits, risk: float) -> Bool[Tensor, "batch classes"]:
        """Return the set of names of each picture; in a share `risk` of them the truth is missing.

        That holds on average for pictures like the shots, of trained classes. Of names without shots nothing
        is promised.

        Args:
            probabilities: `[B, C]`, calibrated.
            risk: One that `demand` does not refuse.
        """
        return prediction_sets(probabilities, least_probability(self.truths.tolist(), risk))

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
            "temperatures": torch.tensor([self.temperature, self.plain], dtype=torch.float64),
        }

    @property
    def words(self) -> str:
        """As a model card tells it."""
        known = (
            f"Probabilities were calibrated on {len(self.truths)} shots that were held back in turn"
            f" (temperature {self.temperature:.2f}), and `risk=0.1` gives sets of names that hold the truth"
            " of nine in ten pictures like the shots."
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
        held = load_file(path)
        _check(held, classes)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{path} is damaged ({why}): delete it, or fit again") from error
    own, plain = held["temperatures"].tolist()
    support = Support(held["features"].float(), held["labels"], held["distances"], held["texts"])
    return Trust(support, plain, own, held["truths"])


def _check(held: Mapping[str, Tensor], classes: int) -> None:
    """Refuse tensors that no fit ever wrote."""
    number = len(held["labels"])
    shapes = {"features": 2, "labels": 1, "distances": 1, "texts": 1, "truths": 1, "temperatures": 1}
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
