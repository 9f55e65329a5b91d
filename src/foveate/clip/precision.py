"""Precision of the frozen towers, by name; `auto` is the fastest that this machine computes in hardware."""

from typing import TYPE_CHECKING, Literal

from foveate.errors import InputError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16", "float16", "float64", "auto"]
"""Name of a precision. `auto` depends on the machine; see `precision_on`."""

_BFLOAT16 = ("amx_bf16", "avx512_bf16")
"""Instructions of processors that multiply matrices of bfloat16."""


def precision_on(device: "str | torch.device", asked: str) -> str:
    """Return the name of a precision; `auto` is replaced by the one it means on this device.

    `auto` is float16 on CUDA, bfloat16 on a processor with AMX-BF16 or AVX512-BF16, and float32 elsewhere.

    Args:
        device: Device of the towers.
        asked: A name in `Precision`.
    """
    if asked != "auto":
        return asked
    if str(device).partition(":")[0] == "cuda":
        return "float16"
    return "bfloat16" if str(device) == "cpu" and _multiplies_bfloat16() else "float32"


def dtype_on(device: "str | torch.device", asked: "torch.dtype | str | None") -> "torch.dtype | None":
    """Return the dtype of a precision on a device; a dtype or None is returned unchanged.

    Raises:
        InputError: There is no precision of this name.
    """
    import torch

    if not isinstance(asked, str):
        return asked
    dtype = getattr(torch, precision_on(device, asked), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"there is no precision {asked!r}: take float32, bfloat16, float16 or auto")
    return dtype


def _multiplies_bfloat16() -> bool:
    import torch

    capabilities = getattr(torch.cpu, "get_capabilities", None)  # missing in older PyTorch
    features: dict[str, bool] = capabilities() if capabilities else {}
    return torch.backends.mkldnn.is_available() and any(features.get(name, False) for name in _BFLOAT16)
