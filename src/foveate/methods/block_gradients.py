"""Input of a block's attention in the image tower, and its gradient: the two parts of Grad-CAM.

DAPT's gaze and `foveate explain` both use this module, with different formulas.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foveate.methods.base import Method, precise
from foveate.types import Tokens


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
