"""Device memory: work in pieces that shrink if memory is full, and asynchronous copies to the device."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

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
