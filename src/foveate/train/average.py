"""Averages of learned tensors over epochs, in float32.

- Gaussian prompt aggregation: PromptSRC, Khattak et al. 2023, https://arxiv.org/abs/2307.06948, Sec. 3.2.2
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from foveate.train.recipe import Recipe, average_weight


class GaussianAverage:
    """The weighted sum of the learned tensors; after the last epoch they are replaced by it.

    Args:
        recipe: The recipe, with the weights; without `average_mean` nothing is averaged.
        learned: The learned tensors of the method.
    """

    def __init__(self, recipe: Recipe, learned: Mapping[str, nn.Parameter]):
        self.recipe, self.learned = recipe, learned
        averaged = learned if recipe.average_mean is not None else {}
        self.tensors: dict[str, Tensor] = {
            name: torch.zeros_like(parameter.detach()) for name, parameter in averaged.items()
        }

    @torch.no_grad()
    def add(self, epoch: int) -> None:
        """Add the tensors after an epoch, counted from 0."""
        weight = average_weight(self.recipe, epoch)
        for name, total in self.tensors.items():
            total += weight * self.learned[name]
            if epoch + 1 == self.recipe.epochs:
                self.learned[name].copy_(total)
