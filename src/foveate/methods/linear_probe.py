"""Linear probe: logistic regression on the picture features, solved to convergence.

It minimises ½‖W‖² + C Σᵢ CE(W fᵢ + b, yᵢ) over unit features f; the bias b has no penalty.

- [0]: CLIP, Radford et al. 2021, https://arxiv.org/abs/2103.00020, Sec. 3.2 and App. A.3
- Few shots: CoOp, Zhou et al. 2022, https://arxiv.org/abs/2109.01134, App. B, with this search for C
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.methods.capabilities import SupportSet
from foveate.methods.config import Tried
from foveate.methods.configs import LinearProbeConfig
from foveate.methods.known import KnownClasses, PictureFeatures, exact, fixed
from foveate.types import Labels, Logits

USUAL = 1
"""Default exponent of C, if no data gives another one: C = 10."""

COARSE = (6, 4, 2, USUAL, 0, -2, -4, -6)
"""Exponents of C in the first stage of the search."""

HALVINGS = 4
FOLDS = 4
"""Number of folds of the search for C, if the data has no validation pictures."""


class LinearProbe(KnownClasses):
    """Logistic regression on frozen features.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Not used: there are no random initial values.

    Attributes:
        weight: `[K, D]`, one row per trained class; empty before training.
        bias: `[K]`.
        c: The value of C in use.
    """

    name, title, config_type = "linear_probe", "linear probe", LinearProbeConfig
    auto = Tried(rank=2)

    def __init__(
        self, clip: Clip, config: LinearProbeConfig | None = None, generator: torch.Generator | None = None
    ):
        self.config = config or LinearProbeConfig()
        super().__init__(clip, self.config.template)
        device = clip.logit_scale.device
        self.weight = fixed(torch.empty(0, clip.config.embed, device=device))
        self.bias = fixed(torch.empty(0, device=device))
        self.c = fixed(torch.tensor(self.config.c or 0.0, device=device))

    def classes_learned(self) -> int:
        return len(self.bias)

    def known_logits(self, image: Tensor, zero_shot: Logits, rows: Sequence[int]) -> Logits:
        """Return W f + b."""
        return image @ self.weight[rows].to(image.dtype).T + self.bias[rows].to(image.dtype)

    def fit_support(self, support: SupportSet) -> None:
        """Search for C, and solve."""
        train = self.collect(support.train(0))
        val = self.collect(support.val) if self.config.validate else None
        problem = Problem(exact(F.normalize(train.image[0], dim=-1)), train.labels, len(self.names))
        self._warnings = []
        c = self.config.c or self._search_c(problem, val)
        weight, bias = problem.solve(c)
        self.weight, self.bias = (fixed(tensor.to(train.image.device)) for tensor in (weight, bias))
        self.c = fixed(torch.tensor(c, device=self.bias.device))
        self.known = self.names

    def chosen_settings(self) -> dict[str, object]:
        return {"c": float(self.c)}

    def _search_c(self, problem: "Problem", val: PictureFeatures | None) -> float:
        if val is not None and len(val.labels):
            val_image = exact(F.normalize(val.image[0], dim=-1))
            return search(lambda c: problem.correct(c, val_image, val.labels))
        folds = list(problem.folds())
        if not folds:
            self._warnings = [
                f"one picture a class and no validation pictures to choose on: C is {10**USUAL};"
                " --linear-probe.c gives another"
            ]
            return 10.0**USUAL
        return search(lambda c: sum(rest.correct(c, held_out, labels) for rest, held_out, labels in folds))


@dataclass(frozen=True)
class Problem:
    """A logistic regression problem.

    Attributes:
        features: `[N, D]`, in float64.
        labels: `[N]`.
        classes: K.
    """

    features: Tensor
    labels: Labels
    classes: int

    def solve(self, c: float) -> tuple[Tensor, Tensor]:
        """Return `[K, D]` weights and `[K]` biases with zero gradient, found by L-BFGS from zero."""
        count, dim = self.features.shape
        labels = self.labels.to(self.features.device)
        # Centred features give the same problem, because the bias without a penalty absorbs any shift.
        # CLIP's features lie in a narrow cone; after centring, a solution needs far fewer steps.
        mean = self.features.mean(dim=0)
        scale = (self.features - mean).square().sum(dim=1).mean().sqrt().clamp(min=1e-6)
        scaled = (self.features - mean) / scale
        parameters = self.features.new_zeros(self.classes, dim + 1).requires_grad_()
        optimiser = torch.optim.LBFGS(
            [parameters],
            max_iter=1000,
            history_size=10,
            tolerance_grad=1e-7,
            tolerance_change=1e-13,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            logits = scaled @ parameters[:, :dim].T + parameters[:, dim]
            penalty = parameters[:, :dim].square().sum() / (2 * c * count * scale**2)
            value = F.cross_entropy(logits, labels) + penalty
            value.backward()
            return value

        with torch.enable_grad():
            optimiser.step(loss)  # pyright: ignore[reportArgumentType]  (the loss may be a tensor)
        weight = parameters.detach()[:, :dim] / scale
        return weight, parameters.detach()[:, dim] - weight @ mean

    def correct(self, c: float, features: Tensor, labels: Labels) -> int:
        """Return the number of these pictures that the solution for C classifies correctly."""
        weight, bias = self.solve(c)
        predictions = (features @ weight.T + bias).argmax(dim=-1)
        return int((predictions == labels.to(predictions.device)).sum())

    def folds(self) -> Iterator[tuple["Problem", Tensor, Labels]]:
        """Yield the problem without the j-th picture of each class, and these; no class becomes empty."""
        ranks = _ranks(self.labels)
        counts = torch.bincount(self.labels, minlength=self.classes)[self.labels]
        for fold in range(min(FOLDS, int(counts.max()))):
            held_out = (ranks == fold) & (counts > 1)
            if held_out.any():
                mask = held_out.to(self.features.device)
                rest = Problem(self.features[~mask], self.labels[~held_out], self.classes)
                yield rest, self.features[mask], self.labels[held_out]


def search(correct: Callable[[float], int]) -> float:
    """Return the C with the most right predictions: first the best power of ten, then in halved steps.

    Of several best ones, the C closest to 10 is taken. With few pictures many C are equally good: the
    smallest would give nearly uniform probabilities, and that of lowest entropy far too confident ones.
    """
    scores = {float(power): correct(10.0**power) for power in COARSE}
    step = 1.0
    for _ in range(HALVINGS):
        best = _best(scores)
        for exponent in (best - step, best + step):
            if exponent not in scores:
                scores[exponent] = correct(10.0**exponent)
        step /= 2
    return 10.0 ** _best(scores)


def _best(scores: dict[float, int]) -> float:
    return max(scores, key=lambda power: (scores[power], -abs(power - USUAL)))


def _ranks(labels: Labels) -> Tensor:
    """Return `[N]` the number of earlier pictures of the same class."""
    return torch.stack([(labels[:i] == label).sum() for i, label in enumerate(labels)])
