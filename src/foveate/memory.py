"""Memory: work in pieces that shrink if it is full, copies to the device, weights that wait on the disk."""

import ctypes
import mmap
import re
from collections.abc import Callable, Iterable, Iterator
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
            self.size //= 2  # here the error is released, and with it the tensors in its frames


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

    Weights of a float32 safetensors file are mapped: what the process has not changed can be read again from
    the file. Nothing happens to other weights, to a file of which a number was changed in memory, or on
    other systems than Linux.

    Args:
        tensors: Weights that are not needed for some time, e.g. `tower.parameters()`.

    Returns:
        Number of bytes that were released.
    """
    return _release(tensors, _unchanged_files())


def in_passing(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield weights that are looked at one after the other, and release those that are done with.

    Weights that fit into `_PART` stay: to find out what may be released takes milliseconds.
    """
    done, held = list[Tensor](), 0
    files: list[tuple[int, int]] | None = None
    for name, tensor in named:
        yield name, tensor
        done.append(tensor)
        held += tensor.nbytes
        if held >= _PART:
            files = _unchanged_files() if files is None else files
            _release(done, files)
            done, held = [], 0
    if files is not None:
        _release(done, files)


class TowerTurns:
    """Keeps that of two towers in memory which is at work; see `release_pages`.

    Args:
        text: The text tower. It waits while pictures are encoded.
        vision: The image tower. It waits after that.
    """

    def __init__(self, text: nn.Module, vision: nn.Module):
        self._text, self._vision = text, vision
        weights = [*text.parameters(), *vision.parameters()]
        self._large = sum(one.nbytes for one in weights if one.device.type == "cpu") >= _PART
        self._encoding = False

    def encoding(self) -> None:
        """Say that pictures are about to be encoded; to say it again costs nothing."""
        if self._large and not self._encoding:
            release_pages(self._text.parameters())
            self._encoding = True

    def encoded(self) -> None:
        """Say that all pictures are encoded."""
        if self._encoding:
            release_pages(self._vision.parameters())
            self._encoding = False


def _release(tensors: Iterable[Tensor], files: list[tuple[int, int]]) -> int:
    released, page = 0, mmap.PAGESIZE
    for tensor in tensors if files else ():
        start = tensor.data_ptr()
        first, last = -(-start // page) * page, (start + tensor.nbytes) // page * page
        if first < last and any(low <= first and last <= high for low, high in files):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONTNEED)
            released += last - first
    return released


def _unchanged_files() -> list[tuple[int, int]]:
    """Return the address ranges at which safetensors files are mapped of which no page was written to."""
    try:
        text = Path("/proc/self/smaps").read_text()
    except OSError:  # only Linux has it
        return []
    found: list[tuple[int, int]] = []
    for block in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.MULTILINE):
        head, _, rest = block.partition("\n")
        if head.endswith(".safetensors") and re.search(r"^Anonymous: +0 kB$", rest, re.MULTILINE):
            low, _, high = head.split()[0].partition("-")
            found.append((int(low, 16), int(high, 16)))
    return found
