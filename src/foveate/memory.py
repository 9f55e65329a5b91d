"""The device's memory: work in pieces that shrink when it is full, and copies to it that nobody waits for."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Pieces:
    """How much of some work is done at once: halved when the device's memory is full, and then left so.

    Args:
        size: To begin with; pictures or tokens, as the work counts.
    """

    def __init__(self, size: int):
        self.size = size

    def run(self, work: Callable[[int], T]) -> T:
        """Return `work(size)`, called again with half the size as long as the memory does not suffice.

        Raises:
            OutOfMemoryError: It does not suffice for a size of 1.
        """
        while True:
            try:
                return work(self.size)
            except torch.OutOfMemoryError:
                if self.size <= 1:
                    raise
            self.size //= 2  # only here is the error gone, and with it all that its frames held


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on a device; on its way to a GPU nobody waits for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # other memory is copied twice, and waited for
    return tensor.to(device, non_blocking=True)
