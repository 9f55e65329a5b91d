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

Multiply = Callable[[Tensor, Tensor, Tensor | None, str, list[Any], str], Tensor]


class TowerLinear(nn.Linear):
    """A linear layer that multiplies as `linear` does."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `F.linear`; constant float32 weights on a CPU are multiplied by oneDNN, if it is faster."""
    eligible = weight.dtype == given.dtype == torch.float32 and weight.device.type == "cpu"
    # Exported graphs have PyTorch's own operators.
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()  # pyright: ignore[reportPrivateImportUsage]
    if not eligible or traced or weight.requires_grad or not onednn_is_faster():
        return F.linear(given, weight, bias)
    if torch.is_grad_enabled() and given.requires_grad:
        return cast("Tensor", _Product.apply(given, weight, bias))
    return _product(given, weight, bias)


class _Product(torch.autograd.Function):
    """A product with constant weights, and its gradient."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(given, weight, bias)

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
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # missing in older PyTorch
    name = str(capabilities().get("cpu_name", "")) if capabilities else ""
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return name.startswith("AMD") and torch.backends.mkl.is_available() and available
