"""Small trainable layers with PyTorch's start values, drawn from a generator on the CPU."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def linear(fan_in: int, fan_out: int, generator: torch.Generator, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer with start values U(−b, b), b = 1/√fan_in."""
    # Made without numbers: PyTorch's own start would be drawn from the generator that everybody shares.
    layer = nn.Linear(fan_in, fan_out, bias=bias, device="meta")
    for name, tensor in list(layer.named_parameters()):
        start = torch.empty(tensor.shape, device="cpu")
        start.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
        layer.register_parameter(name, nn.Parameter(start))
    return layer


def perceptron(widths: Sequence[int], generator: torch.Generator, *, bias: bool = True) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [linear(fan_in, fan_out, generator, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
