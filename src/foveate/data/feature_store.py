"""Stores tensors by key and epoch, on disk or in memory; reads are memory-mapped and checked.

The store is a cache. A damaged or foreign file is set aside and computed again. A full disk costs time
but does not stop the run.
"""

import errno
import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from foveate.errors import InputError
from foveate.files import set_aside, write_atomically
from foveate.readers import parse_table
from foveate.tensor_bytes import bytes_of

_ENTRY, _TENSOR = "bank", "features"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PIECE = 1 << 20


@dataclass(frozen=True, eq=False)
class FeatureKey:
    """Everything that determines one kind of features of one set of views.

    Attributes:
        values: The determining values; JSON values.
        shape: Shape `[H, N, D]` for each epoch.
        dtype: Stored dtype.
    """

    values: Mapping[str, object]
    shape: tuple[int, int, int]
    dtype: torch.dtype

    @cached_property
    def name(self) -> str:
        """16 hex digits."""
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def size(self) -> int:
        """Number of bytes of an epoch."""
        heads, pictures, dim = self.shape
        return heads * pictures * dim * self.dtype.itemsize


class FeatureStore:
    """Stores tensors in `folder/KEY/epoch-000.safetensors`, or in memory if there is no folder.

    Args:
        folder: Folder of the files; created with the first tensor.

    Raises:
        InputError: `folder` is a file.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file: give another folder with --bank-dir")
        self.folder = folder
        self.full = False
        self._memory: dict[tuple[str, int], Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Number of bytes in memory."""
        return sum(tensor.nbytes for tensor in self._memory.values())

    def has(self, key: FeatureKey, epoch: int) -> bool:
        """Return whether a file or tensor exists for this key. `get` checks whether it is complete."""
        if self.folder is None:
            return (key.name, epoch) in self._memory
        return self._path(key, epoch).is_file()

    def get(self, key: FeatureKey, epoch: int) -> Tensor | None:
        """Return the tensor, memory-mapped: rows are read on access. Return None if there is none.

        A file that is damaged, or has another key, is set aside with a warning.
        """
        if self.folder is None:
            return self._memory.get((key.name, epoch))
        path = self._path(key, epoch)
        if not path.is_file():
            return None
        with suppress(OSError):
            os.utime(path.parent)  # `trim` removes what was not used for the longest time
        try:
            return _read(path, key, epoch)
        except UnfitFile as fault:
            if path.is_file():  # otherwise another process has trimmed the store
                warnings.warn(set_aside(path, f"{path} {fault}"), stacklevel=2)
            return None

    def put(self, key: FeatureKey, epoch: int, tensor: Tensor) -> Tensor:
        """Store a tensor and return it as `get` does. If the disk is full, return it without storing it."""
        if self.folder is None:
            self._memory[key.name, epoch] = tensor
        elif not self.full and self._try_write(self._path(key, epoch), key, epoch, tensor):
            stored = self.get(key, epoch)
            return tensor if stored is None else stored
        return tensor

    def clear(self) -> None:
        """Remove all files that a store writes, and folders that are then empty."""
        self._memory.clear()
        if self.folder is None or not self.folder.is_dir():
            return
        for folder in self.folder.iterdir():
            for pattern in ("epoch-*.safetensors*", ".epoch-*.safetensors.*"):
                for path in folder.glob(pattern):
                    path.unlink(missing_ok=True)
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def trim(self, most: int) -> None:
        """Remove the features that were not used for the longest time, until the rest fits.

        Other processes may use the store: what they write at this moment stays.

        Args:
            most: Number of bytes that may stay.
        """
        if self.folder is None or not self.folder.is_dir():
            return
        kinds = sorted((kind.stat().st_mtime, kind) for kind in self.folder.iterdir() if kind.is_dir())
        sizes = {kind: {path: path.stat().st_size for path in kind.glob("epoch-*")} for _, kind in kinds}
        total = sum(sum(files.values()) for files in sizes.values())
        for _, kind in kinds:
            if total <= most:
                return
            for path, size in sizes[kind].items():
                path.unlink(missing_ok=True)
                total -= size

    def _path(self, key: FeatureKey, epoch: int) -> Path:
        assert self.folder is not None
        return self.folder / key.name / f"epoch-{epoch:03}.safetensors"

    def _try_write(self, path: Path, key: FeatureKey, epoch: int, tensor: Tensor) -> bool:
        entry = {"key": key.values, "epoch": epoch, "checksum": zlib.crc32(bytes_of(tensor))}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Only one entry: safetensors writes several entries in any order, and equal stores should
            # have equal files.
            content = save({_TENSOR: tensor.contiguous()}, {_ENTRY: json.dumps(entry, sort_keys=True)})
            write_atomically(path, content)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self.full = True
            warnings.warn(
                f"{self.folder}: {error.strerror}; features made from now on are not kept. Make space, or"
                " choose another place with --bank-dir",
                stacklevel=2,
            )
            return False
        return True


class UnfitFile(Exception):
    """A stored file is unusable. The text is a predicate ("is damaged"); messages put the path before it."""


def _read(path: Path, key: FeatureKey, epoch: int) -> Tensor:
    with open_stored(path, _ENTRY) as (entry, tensors):
        tensor = tensors[_TENSOR]
        if (entry["key"], entry["epoch"]) != (json.loads(json.dumps(key.values)), epoch):
            raise UnfitFile("has features of something else")
        if tuple(tensor.shape) != key.shape or tensor.dtype != key.dtype:
            raise UnfitFile(f"is {tensor.dtype} {list(tensor.shape)}, not {key.dtype} {list(key.shape)}")
        check_numbers(path, entry["checksum"])
    return tensor


@contextmanager
def open_stored(path: Path, name: str) -> Generator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Yield a file's metadata under this name, and its tensors: memory-mapped, not read.

    Raises:
        UnfitFile: The file is damaged, or the block finds that its metadata is not what it should be.
    """
    try:
        with safe_open(path, "pt") as file:
            entry = parse_table(file.metadata()[name], name)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
        yield entry, tensors
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnfitFile(f"is damaged ({' '.join(str(error).split())[:100]})") from error


def check_numbers(path: Path, checksum: object) -> None:
    """Compare the CRC of a file's values. The file is read in pieces, so it does not stay in memory.

    Raises:
        UnfitFile: It is another one.
    """
    total = 0
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))  # skip the header and its length
        while piece := file.read(_PIECE):
            total = zlib.crc32(piece, total)
    if total != checksum:
        raise UnfitFile("is damaged (its numbers do not have their checksum)")
