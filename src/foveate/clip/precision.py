"""Precision of the frozen towers, by name; `auto` is the fastest that this machine computes in hardware."""

from typing import TYPE_CHECKING, Any, Literal

from foveate.errors import InputError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16", "float16", "float64", "auto"]
"""Name of a precision. `auto` depends on the machine; see `precision_on`."""

_BFLOAT16 = ("amx_bf16", "avx512_bf16")
"""Instructions of processors that multiply matrices of bfloat16."""


def precision_on(device: "str | torch.device", precision: str) -> str:
    """Return the name of a precision; `auto` is replaced by the one it means on this device.

    `auto` is float16 on CUDA, bfloat16 on a processor with AMX-BF16 or AVX512-BF16, and float32 elsewhere.

    Args:
        device: Device of the towers.
        precision: A name in `Precision`.
    """
    if precision != "auto":
        return precision
    if str(device).partition(":")[0] == "cuda":
        return "float16"
    return "bfloat16" if str(device) == "cpu" and _multiplies_bfloat16() else "float32"


def dtype_on(device: "str | torch.device", precision: "torch.dtype | str | None") -> "torch.dtype | None":
    """Return the dtype of a precision on a device; a dtype or None is returned unchanged.

    Raises:
        InputError: There is no precision of this name.
    """
    import torch

    if not isinstance(precision, str):
        return precision
    dtype = getattr(torch, precision_on(device, precision), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"there is no precision {precision!r}: take float32, bfloat16, float16 or auto")
    return dtype


def _multiplies_bfloat16() -> bool:
    import torch

    return torch.backends.mkldnn.is_available() and any(map(cpu_capabilities().get, _BFLOAT16))


def cpu_capabilities() -> dict[str, Any]:
    """Return what PyTorch knows of this processor, by name; nothing in older PyTorch."""
    import torch

    capabilities = getattr(torch.cpu, "get_capabilities", None)
    return capabilities() if capabilities else {}
