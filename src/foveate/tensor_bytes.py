"""Tensors as bytes, for hashes and checks."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


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
