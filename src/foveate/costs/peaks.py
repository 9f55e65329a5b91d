"""Peak memory: of the GPU if there is one, otherwise of the process."""

import contextlib
import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mb(device: str | torch.device = "cpu") -> float:
    """Return the peak in MB (10⁶ bytes) since the process started; 0 if the system does not report it.

    On a GPU it is the peak of PyTorch's tensors (`torch.cuda.max_memory_allocated`). Otherwise it is the
    peak of the whole process, including Python and PyTorch.
    """
    torch_device = torch.device(device)
    if torch_device.type == "cuda":
        return torch.cuda.max_memory_allocated(torch_device) / 1e6
    if _STATUS.exists():  # getrusage includes the parent's memory at the fork
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        return 0.0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def reset_peak(device: str | torch.device = "cpu") -> None:
    """Reset the peak, if the system supports it; otherwise the earlier peak of the process counts too."""
    torch_device = torch.device(device)
    if torch_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(torch_device)
        return
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # resets the peak on Linux
