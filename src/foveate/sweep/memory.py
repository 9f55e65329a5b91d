"""The highest memory of a job: of the GPU where there is one, else of the process."""

import contextlib
from pathlib import Path

import torch

from foveate.costs.peaks import peak_mb as peak_mb

_CLEAR = Path("/proc/self/clear_refs")


def begin(device: str) -> None:
    """Begin to measure anew, where the system lets us; a process's own peak otherwise goes on."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # Linux's way to forget the peak
