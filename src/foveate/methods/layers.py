"""Building blocks of methods: small layers, and towers with changed blocks.

Learned tokens between blocks use an edit. A change within a block (adapters, low-rank updates, norms)
needs another block. That block shares all parts of the old one: no tensor is copied, and moves,
replacements and hooks apply to both.

`passes_at` gives the input of a block's attention, and its gradient, to Grad-CAM.
"""

import copy
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.clip.model import Block, Text, Vision, quick_gelu
from foveate.methods.base import Method, precise
from foveate.types import Tokens

Tower = TypeVar("Tower", Text, Vision)
Kind = TypeVar("Kind", bound=nn.Module)


class QuickGelu(nn.Module):
    """CLIP's activation, x · σ(1.702 x)."""

    def forward(self, x: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows hidden"]:
        return quick_gelu(x)


def linear(fan_in: int, fan_out: int, generator: torch.Generator, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer with initial values U(−b, b), b = 1/√fan_in."""
    # On the meta device: PyTorch's own initialisation would draw from the global generator.
    layer = nn.Linear(fan_in, fan_out, bias=bias, device="meta")
    for name, tensor in list(layer.named_parameters()):
        values = torch.empty(tensor.shape, device="cpu")
        values.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
        layer.register_parameter(name, nn.Parameter(values))
    return layer


def attention(width: int, generator: torch.Generator) -> nn.MultiheadAttention:
    """Return attention with gcd(8, width) heads and PyTorch's usual initial values."""
    layer = nn.MultiheadAttention(width, math.gcd(8, width), device="meta")  # see `linear`
    bound = (6 / (4 * width)) ** 0.5  # Xavier's for the three projections together
    joint = torch.empty(3 * width, width).uniform_(-bound, bound, generator=generator)
    out = linear(width, width, generator)
    layer.in_proj_weight, layer.in_proj_bias = nn.Parameter(joint), nn.Parameter(torch.zeros(3 * width))
    layer.out_proj.weight, layer.out_proj.bias = out.weight, nn.Parameter(torch.zeros(width))
    return layer


def perceptron(widths: Sequence[int], generator: torch.Generator, *, bias: bool = True) -> nn.Sequential:
    """Return a perceptron: linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [linear(fan_in, fan_out, generator, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def copies(module: nn.Module, number: int) -> nn.ModuleList:
    """Return `number` copies of a module, with equal initial values."""
    return nn.ModuleList(copy.deepcopy(module) for _ in range(number))


def twin(module: nn.Module, kind: type[Kind]) -> Kind:
    """Return a module of a subclass that shares tensors, children and hooks with the given module.

    Args:
        module: The module; it does not change.
        kind: A subclass of its class; its own `__init__` is not called.
    """
    result = kind.__new__(kind)
    vars(result).update(vars(module))
    vars(result)["_modules"] = dict(vars(module)["_modules"])  # children can be replaced in only one
    return result


def with_blocks(tower: Tower, change: Callable[[int, Block], Block]) -> Tower:
    """Return a tower with changed blocks.

    Args:
        tower: The tower; it does not change.
        change: Called with the index of a block, counted from 0, and the block; returns the new block.
    """
    result = twin(tower, type(tower))
    blocks = [change(layer, cast("Block", block)) for layer, block in enumerate(tower.blocks)]
    result.blocks = nn.ModuleList(blocks)
    return result


# Input of a block's attention in the image tower, and its gradient: the two parts of Grad-CAM.
#
# DAPT's gaze and `foveate explain` both use them, with different formulas.


@dataclass(frozen=True)
class Pass:
    """One pass through the image tower, in float32 or better.

    Attributes:
        activation: `[B, N, W]` input of the block's attention: the output of its `ln_1`.
        gradient: `[B, N, W]` gradient of the summed result with respect to the activation.
    """

    activation: Tokens
    gradient: Tokens


def passes_at(method: Method, block: nn.Module, answer: Callable[[], Tensor]) -> list[Pass]:
    """Run `answer` and return its passes through the image tower; leaves no gradients and no hooks.

    Args:
        method: The method; its class texts are constants.
        block: A block of the image tower.
        answer: Runs the method; the sum of its result is differentiated.
    """
    activations: list[Tensor] = []
    with (
        _start_graph_at(block.get_submodule("ln_1"), activations),
        _frozen_parameters(method),
        method.constant_text(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        gradients = torch.autograd.grad(answer().sum(), activations, materialize_grads=True)
    return [
        Pass(precise(activation.detach()), precise(gradient.detach()))
        for activation, gradient in zip(activations, gradients, strict=True)
    ]


@contextmanager
def _start_graph_at(module: nn.Module, activations: list[Tensor]) -> Generator[None]:
    """In each pass, start the graph at the module's output, and store that output."""

    def detach(_module: object, _inputs: object, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        activations.append(leaf)
        return leaf

    handle = module.register_forward_hook(detach)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _frozen_parameters(method: Method) -> Generator[None]:
    """Inside, disable gradients of learned tensors: the graph starts at the block."""
    trainable = [p for p in method.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
