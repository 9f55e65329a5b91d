"""Peak memory of a job: of the GPU if there is one, otherwise of the process."""

import contextlib
from pathlib import Path

import torch

from foveate.costs.peaks import peak_mb as peak_mb

_CLEAR = Path("/proc/self/clear_refs")


def begin(device: str) -> None:
    """Reset the peak, if the system supports it; otherwise the earlier peak of the process counts too."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # resets the peak on Linux
