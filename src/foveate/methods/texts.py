"""CLIP's own class texts, and a cache of class texts that detects changes of its inputs."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import is_

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.clip.rows import TokenRows, check_texts, encode_names, text_rows
from foveate.clip.templates import DEFAULT_TEMPLATE, fill
from foveate.types import TextFeatures

_Stamps = tuple[list[int], list[int], list[int]]
"""For each tensor: its version counter, address and size."""


class Cache:
    """Cache of the last class texts; they are computed again if names or tensors have changed.

    A tensor has changed if it was replaced, moved, or written to. PyTorch counts writes, except writes
    through `.data` or NumPy, and writes to tensors created in inference mode. After such a write the
    caller must call `forget`.
    """

    def __init__(self) -> None:
        self._entry: _Entry | None = None

    def __reduce__(self) -> tuple[type["Cache"], tuple[()]]:
        return Cache, ()  # a copy has its own tensors, and computes its own texts

    def get(self, key: Hashable, sources: list[Tensor], make: Callable[[], TextFeatures]) -> TextFeatures:
        """Return the cached value if key and sources are unchanged; otherwise the new result of `make`.

        Args:
            key: Key of all inputs that are no tensors.
            sources: All input tensors.
            make: Called without gradients and outside of inference mode, because training may use its
                result.
        """
        entry, full_key = self._entry, (key, _precision(sources))
        if entry is not None and entry.is_current(full_key, sources):
            return entry.value
        self._entry = None  # frees the memory of the old texts first
        with torch.inference_mode(False), torch.no_grad():
            value = make()
        self._entry = _Entry(full_key, sources, _stamps(sources), _storages(sources), value)
        return value

    def forget(self) -> None:
        """Clear the cache."""
        self._entry = None


@dataclass(frozen=True)
class _Entry:
    """Cached texts and their inputs.

    Attributes:
        key: See `Cache.get`.
        sources: See `Cache.get`; a moved tensor is the same object, so no old memory is kept.
        stamps: State of each source.
        storages: Weak references to their memory: while it exists, no other tensor has its address.
        value: The texts.
    """

    key: Hashable
    sources: list[Tensor]
    stamps: _Stamps
    storages: list[StorageWeakRef]
    value: TextFeatures

    def is_current(self, key: Hashable, sources: list[Tensor]) -> bool:
        return (
            key == self.key
            and len(sources) == len(self.sources)
            and all(map(is_, sources, self.sources))
            and _stamps(sources) == self.stamps
            and not any(map(StorageWeakRef.expired, self.storages))
        )


def tensors_of(module: nn.Module, but: nn.Module | None = None) -> list[Tensor]:
    """Return all parameters and buffers of a module without those of `but`.

    It is much faster than `parameters()`, which removes duplicates; it runs for each batch.
    """
    tensors: list[Tensor | None] = []
    _collect(module, but, tensors)
    return [tensor for tensor in tensors if tensor is not None]


def _collect(module: nn.Module, but: nn.Module | None, tensors: list[Tensor | None]) -> None:
    attributes = vars(module)
    tensors += attributes["_parameters"].values()
    tensors += attributes["_buffers"].values()
    for child in attributes["_modules"].values():
        if child is not None and child is not but:
            _collect(child, but, tensors)


def _stamps(sources: list[Tensor]) -> _Stamps:
    try:
        versions = [tensor._version for tensor in sources]
    except RuntimeError:  # tensors created in inference mode have no version counter
        versions = [0 if tensor.is_inference() else tensor._version for tensor in sources]
    # While a graph is traced, PyTorch returns sizes as tensors.
    return versions, [tensor.data_ptr() for tensor in sources], [int(tensor.numel()) for tensor in sources]


def _storages(sources: list[Tensor]) -> list[StorageWeakRef]:
    return [StorageWeakRef(tensor.untyped_storage()) for tensor in sources]


def _precision(sources: list[Tensor]) -> torch.dtype | None:
    """Return the dtype of autocast, if it is enabled."""
    devices = {tensor.device.type for tensor in sources[:1]} - {"meta"}
    enabled = [device for device in devices if torch.is_autocast_enabled(device)]
    return torch.get_autocast_dtype(enabled[0]) if enabled else None


class PlainTexts:
    """Class names in one sentence: checked when names are set, encoded on first use, then cached.

    Args:
        clip: The frozen towers.
        template: The sentence; None takes the data set's, or "a photo of a {}.".

    Raises:
        InputError: The sentence does not have exactly one `{}`.
    """

    def __init__(self, clip: Clip, template: str | None):
        if template is not None:
            fill(template, "name")  # refuse a wrong sentence before any training
        self.clip, self.fixed_template = clip, template
        self.names: tuple[str, ...] = ()
        self.sentence = template or DEFAULT_TEMPLATE
        self._features = Cache()
        self._rows: tuple[object, TokenRows] | None = None

    def check(self, names: Sequence[str], template: str | None) -> None:
        """Refuse names and a data set's sentence that `set_classes` cannot use; changes nothing.

        Raises:
            InputError: A name is too long for the text tower, or the sentence does not have exactly one
                `{}`.
        """
        check_texts(self.clip, names, self.fixed_template or template or DEFAULT_TEMPLATE)

    def set_classes(self, names: Sequence[str], template: str | None) -> None:
        """Set the names and the data set's sentence.

        Raises:
            InputError: See `check`; the previous names then stay.
        """
        self.check(names, template)
        self.names, self.sentence = tuple(names), self.fixed_template or template or DEFAULT_TEMPLATE

    def features(self) -> TextFeatures:
        """Return `[C, D]` raw features; encoded again only if names or the text tower have changed."""
        return self._features.get(
            (self.names, self.sentence),
            tensors_of(self.clip.text),
            lambda: encode_names(self.clip, self.names, self.sentence),
        )

    def rows(self) -> TokenRows:
        """Return the sentences as token rows on the text tower's device, for another tower to encode.

        Raises:
            RuntimeError: No names are set.
        """
        if not self.names:
            raise RuntimeError("set_classes first")
        key = self.names, self.sentence
        if self._rows is None or self._rows[0] != key:
            self._rows = key, text_rows(self.clip, [fill(self.sentence, name) for name in self.names])
        return self._rows[1].to(self.clip.text.pos.device)


def unit_mean(texts: Sequence[PlainTexts]) -> TextFeatures:
    """Return `[C, D]`, the mean of unit features over several sentences."""
    return torch.stack([F.normalize(plain.features(), dim=-1) for plain in texts]).mean(dim=0)
