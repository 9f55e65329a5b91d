"""Class texts, kept while nothing they were made of has changed."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from operator import is_

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from foveate.types import TextFeatures

_Stamps = tuple[list[int], list[int], list[int]]
"""Of each tensor: how often it was written to, its address, its size."""


class Kept:
    """The last class texts that were asked for; made anew when names or tensors are not what they were.

    A tensor is another one when it was replaced, moved, or written to. PyTorch counts writes, but for those
    through `.data` and NumPy, and but for those to tensors made in inference mode: whoever writes so must
    call `forget`.
    """

    def __init__(self) -> None:
        self._held: _Held | None = None

    def __reduce__(self) -> tuple[type["Kept"], tuple[()]]:
        return Kept, ()  # a copy has tensors of its own, and makes its own texts of them

    def get(self, key: Hashable, sources: list[Tensor], make: Callable[[], TextFeatures]) -> TextFeatures:
        """Return what `make` returns, or what it returned when key and sources were the same as now.

        Args:
            key: Of everything besides tensors.
            sources: All tensors that go into it.
            make: Called without gradients, and outside of inference mode: learning may go on from its result.
        """
        held, whole = self._held, (key, _precision(sources))
        if held is not None and held.still_made_of(whole, sources):
            return held.value
        self._held = None  # so that the old texts' memory is free for the new ones
        with torch.inference_mode(False), torch.no_grad():
            value = make()
        self._held = _Held(whole, sources, _stamps(sources), _storages(sources), value)
        return value

    def forget(self) -> None:
        """Make the texts anew when they are next asked for."""
        self._held = None


@dataclass(frozen=True)
class _Held:
    """Texts and what they were made of.

    Attributes:
        key: See `Kept.get`.
        sources: See `Kept.get`; a tensor that is moved stays the same object, so nothing old is kept alive.
        stamps: What each was like.
        storages: Weak references to their memory: while it lives, nothing else can be at its address.
        value: The texts.
    """

    key: Hashable
    sources: list[Tensor]
    stamps: _Stamps
    storages: list[StorageWeakRef]
    value: TextFeatures

    def still_made_of(self, key: Hashable, sources: list[Tensor]) -> bool:
        return (
            key == self.key
            and len(sources) == len(self.sources)
            and all(map(is_, sources, self.sources))
            and _stamps(sources) == self.stamps
            and not any(map(StorageWeakRef.expired, self.storages))
        )


def tensors_of(module: nn.Module, but: nn.Module | None = None) -> list[Tensor]:
    """Return all parameters and buffers of a module, those of `but` left out.

    Much faster than `parameters()`, which looks for doubles: this is asked at each batch.
    """
    found: list[Tensor | None] = []
    _collect(module, but, found)
    return [tensor for tensor in found if tensor is not None]


def _collect(module: nn.Module, but: nn.Module | None, found: list[Tensor | None]) -> None:
    inside = vars(module)
    found += inside["_parameters"].values()
    found += inside["_buffers"].values()
    for child in inside["_modules"].values():
        if child is not None and child is not but:
            _collect(child, but, found)


def _stamps(sources: list[Tensor]) -> _Stamps:
    try:
        versions = [tensor._version for tensor in sources]
    except RuntimeError:  # tensors made in inference mode count no versions
        versions = [0 if tensor.is_inference() else tensor._version for tensor in sources]
    return versions, [tensor.data_ptr() for tensor in sources], [tensor.numel() for tensor in sources]


def _storages(sources: list[Tensor]) -> list[StorageWeakRef]:
    return [StorageWeakRef(tensor.untyped_storage()) for tensor in sources]


def _precision(sources: list[Tensor]) -> torch.dtype | None:
    """Return what autocast would compute with, if it is on."""
    kinds = {tensor.device.type for tensor in sources[:1]} - {"meta"}
    on = [kind for kind in kinds if torch.is_autocast_enabled(kind)]
    return torch.get_autocast_dtype(on[0]) if on else None
