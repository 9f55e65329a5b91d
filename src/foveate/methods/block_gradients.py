"""Input of a block's attention in the image tower, and its gradient: the two parts of Grad-CAM.

DAPT's gaze and `foveate explain` both use this module, with different formulas.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foveate.methods.base import Method
from foveate.types import Tokens


@dataclass(frozen=True)
class Pass:
    """One pass through the image tower, in float32 or better.

    Attributes:
        activation: `[B, N, W]` input of the block's attention: the output of its `ln_1`.
        gradient: `[B, N, W]` gradient of the answer with respect to the activation.
    """

    activation: Tokens
    gradient: Tokens


def passes_at(method: Method, block: nn.Module, answer: Callable[[], Tensor]) -> list[Pass]:
    """Return the passes of an answer; the method stays unchanged: no gradients, no hooks.

    Args:
        method: The method; its class texts are constants.
        block: A block of the image tower.
        answer: Runs the method; the gradient is that of the sum of its result.
    """
    caught: list[Tensor] = []
    with (
        _begin_at(block.get_submodule("ln_1"), caught),
        _nothing_learns(method),
        method.constant_text(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        gradients = torch.autograd.grad(answer().sum(), caught, materialize_grads=True)
    return [
        Pass(_precise(activation), _precise(gradient))
        for activation, gradient in zip(caught, gradients, strict=True)
    ]


def _precise(values: Tensor) -> Tensor:
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))


@contextmanager
def _begin_at(module: nn.Module, caught: list[Tensor]) -> Generator[None]:
    """Start a graph at the module's output in each pass, and store that output."""

    def catch(_module: object, _inputs: object, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        caught.append(leaf)
        return leaf

    handle = module.register_forward_hook(catch)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _nothing_learns(method: Method) -> Generator[None]:
    """Disable gradients of learned tensors inside: the graph starts at the block."""
    learning = [p for p in method.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
