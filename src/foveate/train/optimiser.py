"""The optimiser of a recipe."""

from collections.abc import Mapping

import torch
from torch import nn

from foveate.train.recipe import Recipe


def make_optimiser(recipe: Recipe, learned: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Build the optimiser of the learned tensors, in the order of the mapping."""
    tensors = list(learned.values())
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(tensors, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(tensors, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
