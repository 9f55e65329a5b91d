"""Memory: pieces of work that shrink if it is full, copies to the device, weights that wait on the disk.

Tensors as bytes, and the peak of memory, are here too.
"""

import contextlib
import ctypes
import hashlib
import mmap
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Pieces:
    """Size of a piece of work; it is halved if the device's memory is full, and then stays so.

    Args:
        size: Initial size, in pictures or tokens.
    """

    def __init__(self, size: int):
        self.size = size

    def run(self, work: Callable[[int], T]) -> T:
        """Return `work(size)`; if memory is not sufficient, halve the size and try again.

        Raises:
            OutOfMemoryError: Memory is not sufficient for a size of 1.
        """
        while True:
            try:
                return work(self.size)
            except torch.OutOfMemoryError:
                if self.size <= 1:
                    raise
            self.size //= 2  # outside `except`: the error, and the tensors in its frames, are released


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy the tensor to a device; a copy to a GPU is asynchronous."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # a copy from pageable memory is synchronous
    return tensor.to(device, non_blocking=True)


_DONTNEED = 4
"""`MADV_DONTNEED` of Linux: take a range out of this process's memory; an unchanged file is read again."""

_PART = 1 << 26
"""Bytes of weights that may be in memory at once while all weights are read one after the other."""


def release_pages(tensors: Iterable[Tensor]) -> int:
    """Take mapped weights out of the process's memory until they are used again.

    Weights of a float32 safetensors file are mapped: pages that the process has not changed can be read again
    from the file. Other weights stay, and so does a file with a page that was changed in memory. On systems
    other than Linux nothing happens.

    Args:
        tensors: Weights that are not needed for some time, e.g. `tower.parameters()`.

    Returns:
        Number of bytes that were released.
    """
    return _release_ranges(tensors, _unchanged_ranges())


def in_passing(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield weights one after the other, and release those that the caller has finished with.

    Weights that fit into `_PART` stay: finding out what may be released takes milliseconds.
    """
    passed, passed_bytes = list[Tensor](), 0
    ranges: list[tuple[int, int]] | None = None
    for name, tensor in named:
        yield name, tensor
        passed.append(tensor)
        passed_bytes += tensor.nbytes
        if passed_bytes >= _PART:
            ranges = _unchanged_ranges() if ranges is None else ranges
            _release_ranges(passed, ranges)
            passed, passed_bytes = [], 0
    if ranges is not None:
        _release_ranges(passed, ranges)


class TowerTurns:
    """Keeps only the tower in use in memory; see `release_pages`.

    Args:
        text: The text tower; released while pictures are encoded.
        vision: The image tower; released after that.
    """

    def __init__(self, text: nn.Module, vision: nn.Module):
        self._text, self._vision = text, vision
        weights = [*text.parameters(), *vision.parameters()]
        self._large = sum(weight.nbytes for weight in weights if weight.device.type == "cpu") >= _PART
        self._encoding = False

    def encoding(self) -> None:
        """Release the text tower before pictures are encoded; further calls cost nothing."""
        if self._large and not self._encoding:
            release_pages(self._text.parameters())
            self._encoding = True

    def encoded(self) -> None:
        """Release the image tower after all pictures are encoded."""
        if self._encoding:
            release_pages(self._vision.parameters())
            self._encoding = False


def _release_ranges(tensors: Iterable[Tensor], ranges: list[tuple[int, int]]) -> int:
    released, page = 0, mmap.PAGESIZE
    for tensor in tensors if ranges else ():
        start = tensor.data_ptr()
        first, last = -(-start // page) * page, (start + tensor.nbytes) // page * page
        if first < last and any(low <= first and last <= high for low, high in ranges):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONTNEED)
            released += last - first
    return released


def _unchanged_ranges() -> list[tuple[int, int]]:
    """Return the address ranges of mapped safetensors files that have no changed page."""
    try:
        text = Path("/proc/self/smaps").read_text()
    except OSError:  # only Linux has it
        return []
    ranges: list[tuple[int, int]] = []
    for block in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.MULTILINE):
        header, _, details = block.partition("\n")
        if header.endswith(".safetensors") and re.search(r"^Anonymous: +0 kB$", details, re.MULTILINE):
            low, _, high = header.split()[0].partition("-")
            ranges.append((int(low, 16), int(high, 16)))
    return ranges


# Tensors as bytes, for hashes and checks.


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the numbers of a tensor as bytes, in row-major order; without a copy if possible."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def digest_of(tensors: Mapping[str, Tensor], before: str = "") -> str:
    """Return a hash of `before` and of the tensors' names, dtypes, shapes and numbers: 16 hex digits."""
    state = hashlib.sha256(before.encode())
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(bytes_of(tensor))
    return state.hexdigest()[:16]


# Peak memory: of the GPU if there is one, otherwise of the process.


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
