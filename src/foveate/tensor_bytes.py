"""Tensors as the bytes they are made of, to be hashed or checked."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def bytes_of(tensor: Tensor) -> memoryview:
    """Return a tensor's numbers as bytes, in row-major order; not copied where they lie so already."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def digest_of(tensors: Mapping[str, Tensor], before: str = "") -> str:
    """Return 16 hex digits that name these tensors: names, precisions, shapes and numbers, and `before`."""
    state = hashlib.sha256(before.encode())
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(bytes_of(tensor))
    return state.hexdigest()[:16]
