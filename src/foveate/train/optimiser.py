"""The optimisers of a recipe: SGD with momentum, and AdamW.

They compute what `torch.optim` computes with its default settings, to the last bit (a test compares them).
`torch.optim` loads PyTorch's compiler when the first optimiser is made: 2 seconds and 70 MB in each training.

- [0]: Decoupled Weight Decay Regularization, Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from foveate.train.recipe import Recipe

Moments = dict[str, Tensor]
"""State of one parameter, by name."""


class FirstOrder(ABC):
    """An optimiser that updates parameters by their gradients.

    Args:
        parameters: The learned tensors.
        lr: Learning rate; it may be changed between steps.
        weight_decay: Factor of the weights' decay.

    Attributes:
        moments: For each parameter that had a gradient, by index, its state.
    """

    name: str

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float):
        self.parameters, self.lr, self.weight_decay = list(parameters), lr, weight_decay
        self.moments: dict[int, Moments] = {}

    def zero_grad(self) -> None:
        """Remove all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters that have a gradient."""
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                moments = self.moments.get(index, {})
                self.update(parameter, parameter.grad, moments)
                if moments:
                    self.moments[index] = moments

    @abstractmethod
    def update(self, parameter: nn.Parameter, gradient: Tensor, moments: Moments) -> None:
        """Update one parameter in place, and its state."""


class Sgd(FirstOrder):
    """Stochastic gradient descent: b ← μ b + (g + λ θ), θ ← θ − η b; the first b is g + λ θ.

    Args:
        parameters: The learned tensors.
        lr: η.
        weight_decay: λ.
        momentum: μ; 0 keeps no state.
    """

    name = "SGD"

    def __init__(
        self, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.0
    ):
        super().__init__(parameters, lr, weight_decay)
        self.momentum = momentum

    def update(self, parameter: nn.Parameter, gradient: Tensor, moments: Moments) -> None:
        if self.weight_decay:
            gradient = gradient.add(parameter, alpha=self.weight_decay)
        if self.momentum:
            if "momentum_buffer" in moments:
                moments["momentum_buffer"].mul_(self.momentum).add_(gradient)
            else:
                moments["momentum_buffer"] = gradient.clone()
            gradient = moments["momentum_buffer"]
        parameter.add_(gradient, alpha=-self.lr)


class AdamW(FirstOrder):
    """Adam with decoupled weight decay ([0], Algorithm 2), β = (0.9, 0.999), ε = 1e-8."""

    name = "AdamW"
    betas, epsilon = (0.9, 0.999), 1e-8

    def update(self, parameter: nn.Parameter, gradient: Tensor, moments: Moments) -> None:
        if not moments:
            moments |= {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        beta1, beta2 = self.betas
        moments["step"] += 1
        step = moments["step"].item()
        parameter.mul_(1 - self.lr * self.weight_decay)
        moments["exp_avg"].lerp_(gradient, 1 - beta1)
        moments["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        deviation = moments["exp_avg_sq"].sqrt().div_((1 - beta2**step) ** 0.5).add_(self.epsilon)
        parameter.addcdiv_(moments["exp_avg"], deviation, value=-self.lr / (1 - beta1**step))


def make_optimiser(recipe: Recipe, learned: Mapping[str, nn.Parameter]) -> FirstOrder:
    """Build the optimiser of the learned tensors, in the order of the mapping."""
    tensors = list(learned.values())
    if recipe.optimiser == "adamw":
        return AdamW(tensors, recipe.lr, recipe.weight_decay)
    return Sgd(tensors, recipe.lr, recipe.weight_decay, recipe.momentum)
