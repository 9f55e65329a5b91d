"""What enters a block's attention in the image tower, and how an answer hangs on it: Grad-CAM's two parts.

DAPT's gaze and `foveate explain` both begin here, and differ in what they make of it.
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
        activation: `[B, N, W]` what the block's attention reads: the output of its `ln_1`.
        gradient: `[B, N, W]` of the answer there.
    """

    activation: Tokens
    gradient: Tokens


def passes_at(method: Method, block: nn.Module, answer: Callable[[], Tensor]) -> list[Pass]:
    """Return the passes that an answer takes, without a trace in the method: no gradients, no hooks.

    Args:
        method: Its class texts count as constants.
        block: One of the image tower's.
        answer: Asks the method; the gradient is that of the sum of what it returns.
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
    """Begin a graph at the module's output in each pass, and keep that output."""

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
    """Ask for no gradient of learned tensors inside: the graph begins at the block."""
    learning = [p for p in method.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
