"""Linear layers of the towers, with oneDNN's matrix products where those of PyTorch are slow.

PyTorch multiplies float32 matrices on a CPU by MKL. On AMD's processors MKL is half as fast as oneDNN, which
PyTorch includes and uses for bfloat16. Both sum in float32, but in different orders.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.precision import cpu_capabilities

Multiply = Callable[[Tensor, Tensor, Tensor | None, str, list[Any], str], Tensor]


class TowerLinear(nn.Linear):
    """A linear layer that multiplies as `linear` does."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `F.linear`; constant float32 weights on a CPU are multiplied by oneDNN, if it is faster."""
    eligible = weight.dtype == x.dtype == torch.float32 and weight.device.type == "cpu"
    # Exported graphs have PyTorch's own operators.
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()  # pyright: ignore[reportPrivateImportUsage]
    if not eligible or traced or weight.requires_grad or not onednn_is_faster():
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and x.requires_grad:
        return cast("Tensor", _Product.apply(x, weight, bias))
    return _product(x, weight, bias)


class _Product(torch.autograd.Function):
    """A product with constant weights, and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(gradients[0], weight.t(), None), None, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    multiply = cast("Multiply", torch.ops.mkldnn._linear_pointwise)
    return multiply(x, weight, bias, "none", [], "")


@cache
def onednn_is_faster() -> bool:
    """Return whether MKL has no fast kernels for this processor, and oneDNN is available."""
    name = str(cpu_capabilities().get("cpu_name", ""))
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return name.startswith("AMD") and torch.backends.mkl.is_available() and available
