"""LP++: a linear probe with class texts, one weight per class, and step sizes without tuning.

f is a unit feature, W_c the unit text of class c: logits z_c = f·w_c + b_c + α_c f·W_c. The initial
values are near the solution, and each step size is the inverse of a Lipschitz constant.

- [0]: LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP, Huang, Shakeri et al. 2024,
  https://arxiv.org/abs/2404.02285
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.methods.capabilities import SupportSet
from foveate.methods.config import Tried
from foveate.methods.configs import LpPlusPlusConfig
from foveate.methods.known import KnownClasses, exact, fixed
from foveate.types import Labels, Logits

MOMENTUM = 0.9
START = 250.0
"""Initial α, as a multiple of the mean cosine of pictures and their own class's text."""


@dataclass(frozen=True)
class Mixture:
    """The learned tensors of LP++.

    Attributes:
        weight: `[K, D]`.
        bias: `[K]`.
        alpha: `[K]`.
    """

    weight: Tensor
    bias: Tensor
    alpha: Tensor

    def logits(self, image: Tensor, cosines: Tensor) -> Logits:
        """Return `[B, K]` logits ([0], Eq. 4).

        Args:
            image: `[B, D]` unit features.
            cosines: `[B, K]` cosines of these features and the class texts.
        """
        return image @ self.weight.T + self.bias + self.alpha * cosines


class LpPlusPlus(KnownClasses):
    """The method LP++.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Not used: there are no random initial values.

    Attributes:
        weight: `[K, D]`, one row per trained class; empty before training.
        bias: `[K]`.
        alpha: `[K]`, weights of the class texts.
    """

    name, title, config_type = "lpplusplus", "LP++", LpPlusPlusConfig
    auto = Tried(rank=1)

    def __init__(
        self, clip: Clip, config: LpPlusPlusConfig | None = None, generator: torch.Generator | None = None
    ):
        self.config = config or LpPlusPlusConfig()
        super().__init__(clip, self.config.template)
        device = clip.logit_scale.device
        self.weight = fixed(torch.empty(0, clip.config.embed, device=device))
        self.bias, self.alpha = (fixed(torch.empty(0, device=device)) for _ in range(2))

    def classes_learned(self) -> int:
        return len(self.bias)

    def known_logits(self, image: Tensor, zero_shot: Logits, rows: Sequence[int]) -> Logits:
        """Return the mixture's logits, without CLIP's temperature."""
        parts = (tensor[rows].to(image.dtype) for tensor in (self.weight, self.bias, self.alpha))
        return Mixture(*parts).logits(image, zero_shot / self.clip.scale.to(image.dtype))

    @torch.no_grad()
    def fit_support(self, support: SupportSet) -> None:
        """Take all gradient steps, and keep the last epoch or the best one on validation pictures."""
        texts = exact(F.normalize(self.text_features(), dim=-1))
        train = self.collect(support.train(0))
        image, labels = exact(F.normalize(train.image[0], dim=-1)), train.labels.to(texts.device)
        solutions = descend(image, labels, texts, self.config)
        val = self.collect(support.val) if self.config.validate else None
        if val is not None and len(val.labels):
            val_image = exact(F.normalize(val.image[0], dim=-1))
            best = _best(solutions, val_image, val_image @ texts.T, val.labels.to(texts.device))
        else:
            *_, best = solutions
        device = train.image.device
        parameters = (fixed(tensor.to(device)) for tensor in (best.weight, best.bias, best.alpha))
        self.weight, self.bias, self.alpha = parameters
        self.known = self.names


def descend(image: Tensor, labels: Labels, texts: Tensor, config: LpPlusPlusConfig) -> Iterator[Mixture]:
    """Yield the tensors after each epoch ([0], Sec. 4).

    Args:
        image: `[N, D]` unit features of the training pictures.
        labels: `[N]`.
        texts: `[K, D]` unit class texts.
        config: Settings.
    """
    count = len(image)
    truth = F.one_hot(labels, len(texts)).to(image.dtype)
    cosines = image @ texts.T
    mixture = start(image, truth, cosines)
    step = 4 * count / torch.linalg.matrix_norm(image, 2).square()  # 1 / L for weights and biases
    alpha_step = count / (4 * cosines.square().sum(dim=0).max())
    speed, bias_speed = torch.zeros_like(mixture.weight), torch.zeros_like(mixture.bias)
    alpha_gradient = torch.zeros_like(mixture.alpha)
    for epoch in range(1, config.epochs + 1):
        error = (mixture.logits(image, cosines).softmax(dim=-1) - truth) / count  # of the mean loss
        speed, bias_speed = MOMENTUM * speed + error.T @ image, MOMENTUM * bias_speed + error.sum(dim=0)
        gradient = (error * cosines).sum(dim=0)
        alpha_gradient = gradient if config.reset_alpha_grad else alpha_gradient + gradient
        mixture = replace(
            mixture, weight=mixture.weight - step * speed, bias=mixture.bias - step * bias_speed
        )
        if epoch % config.alpha_every == 0:
            mixture = replace(mixture, alpha=mixture.alpha - alpha_step * alpha_gradient)
        yield mixture


def start(image: Tensor, truth: Tensor, cosines: Tensor) -> Mixture:
    """Return the initial values: sums of each class's features, no bias, one α for all ([0], Sec. 4.3).

    Args:
        image: `[N, D]` unit features.
        truth: `[N, K]` one-hot labels.
        cosines: `[N, K]` cosines with the class texts.
    """
    class_cosines = (truth * cosines).sum(dim=0) / truth.sum(dim=0)
    alpha = START * class_cosines.mean()
    return Mixture(truth.T @ image, torch.zeros_like(class_cosines), alpha.expand_as(class_cosines))


def _best(solutions: Iterator[Mixture], image: Tensor, cosines: Tensor, labels: Labels) -> Mixture:
    """Return the solution with the most correct predictions; of several, the last."""
    most, best = -1, None
    for mixture in solutions:
        correct = int((mixture.logits(image, cosines).argmax(dim=-1) == labels).sum())
        if correct >= most:
            most, best = correct, mixture
    assert best is not None
    return best
