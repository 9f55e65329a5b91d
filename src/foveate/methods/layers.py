"""Pieces that methods are made of: small layers, and towers whose blocks are changed inside.

Learned tokens go between blocks, and an edit brings them there. What is learned within a block (adapters,
low-rank updates, norms) needs another block. It is made of the old one's parts, which costs nothing: no
tensor is copied, and what is moved, replaced or watched in the one is so in the other.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar, cast

import torch
from torch import nn

from foveate.clip.model import Block, Text, Vision

Tower = TypeVar("Tower", Text, Vision)
Kind = TypeVar("Kind", bound=nn.Module)


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


def twin(module: nn.Module, kind: type[Kind]) -> Kind:
    """Return a module of another kind that shares tensors, children and hooks with this one.

    Args:
        module: It is left alone.
        kind: A subclass of its class; its own `__init__` is not called.
    """
    made = kind.__new__(kind)
    vars(made).update(vars(module))
    vars(made)["_modules"] = dict(vars(module)["_modules"])  # so that a child can be replaced in one of them
    return made


def with_blocks(tower: Tower, change: Callable[[int, Block], Block]) -> Tower:
    """Return a tower that differs in its blocks alone.

    Args:
        tower: It is left alone.
        change: Called with a block's number, counted from 0, and the block; returns what takes its place.
    """
    made = twin(tower, type(tower))
    blocks = [change(layer, cast("Block", block)) for layer, block in enumerate(tower.blocks)]
    made.blocks = nn.ModuleList(blocks)
    return made
