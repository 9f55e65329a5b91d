"""Stores tensors by key and epoch, on disk or in memory; reads are memory-mapped and checked.

The store is a cache. A damaged or foreign file is set aside and computed again. A full disk costs time
but does not stop the run.

The files of an encoded set, shards and an index, are written and read here too.
"""

import errno
import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from foveate.configs import as_dataclass
from foveate.errors import InputError
from foveate.files import set_aside, write_atomically
from foveate.memory import bytes_of
from foveate.readers import as_table, one_line, parse_table, read_json

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


# Files of stored features: shards of safetensors and an index.
#
# A shard holds a run of pictures in the set's order. It is written atomically. It names everything that
# its values depend on and has a checksum. Interrupted work therefore continues shard by shard.
# docs/scale.md lists the fields.


INDEX = "index.json"
IMAGE, FOREGROUND, AREAS, LABELS = "image", "foreground", "areas", "labels"
_FORMAT, _VERSION, _SET_ENTRY = "foveate-features", 1, "foveate"


@dataclass(frozen=True)
class ShardNote:
    """Metadata of a shard.

    Attributes:
        work: Identifies the inputs and the settings of the values.
        names: Picture names, one for each row.
        left_out: Name of each unreadable picture, and the reason.
    """

    work: str
    names: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Index:
    """Metadata of a folder of shards.

    Attributes:
        key: Everything that the features depend on, except the pictures' contents; JSON values.
        classes: Class names; a label is an index into them.
        shards: Total number of shards.
        rows: Number of rows of each shard; None until all shards are written.
    """

    key: Mapping[str, Any]
    classes: tuple[str, ...]
    shards: int
    rows: tuple[int, ...] | None = None


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a shard."""
    return folder / f"shard-{number:05}.safetensors"


def write_shard(path: Path, tensors: Mapping[str, Tensor], note: ShardNote) -> None:
    """Write a shard. Equal contents give equal files.

    Raises:
        OSError: No space, or no permission. No partial file is left.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content = save(contiguous)
    checksum = zlib.crc32(memoryview(content)[8 + int.from_bytes(content[:8], "little") :])
    entry = {"format": _FORMAT, "version": _VERSION, **asdict(note), "checksum": checksum}
    # Only one entry: safetensors writes several entries in any order.
    write_atomically(path, save(contiguous, {_SET_ENTRY: json.dumps(entry, sort_keys=True)}))


def read_note(path: Path) -> ShardNote:
    """Return the metadata of a shard, without reading its values.

    Raises:
        UnfitFile: The file is not a shard of this format.
    """
    with open_stored(path, _SET_ENTRY) as (entry, _):
        return _note(entry)


def open_shard(path: Path) -> tuple[ShardNote, dict[str, Tensor]]:
    """Open a shard and verify its checksum.

    Returns:
        The metadata, and the tensors, memory-mapped.

    Raises:
        UnfitFile: The file is damaged, or not a shard of this format.
    """
    with open_stored(path, _SET_ENTRY) as (entry, tensors):
        note = _note(entry)
        check_numbers(path, entry["checksum"])
        if any(len(tensor) != len(note.names) for tensor in tensors.values()):
            raise UnfitFile("is damaged (it has not a row for each name)")
    return note, tensors


def _note(entry: Mapping[str, Any]) -> ShardNote:
    left_out = tuple((str(name), str(reason)) for name, reason in entry["left_out"])
    note = {"work": entry["work"], "names": entry["names"]}
    return replace(as_dataclass(ShardNote, note, "its note"), left_out=left_out)


def write_index(folder: Path, index: Index) -> None:
    """Write the index of a folder."""
    values = {"format": _FORMAT, "version": _VERSION, **asdict(index)}
    write_atomically(folder / INDEX, json.dumps(values, indent=1) + "\n")


def read_index(folder: Path) -> Index:
    """Read the index of a folder.

    Raises:
        InputError: There is no index, it is damaged, or its format is newer.
    """
    path = folder / INDEX
    if not path.exists():
        raise InputError(f"{folder} has no {INDEX}: give a folder that `foveate features` wrote")
    try:
        values = as_table(read_json(path)) or {}
    except InputError as error:
        message = f"{path} is damaged: delete it and run `foveate features` again"
        raise InputError(f"{message} ({one_line(error)})") from error
    if values.get("format") != _FORMAT:
        raise InputError(f"{path} is no index of features: give a folder that `foveate features` wrote")
    if values.get("version") != _VERSION:
        raise InputError(f"{path} is of format {values.get('version')}, and this foveate reads {_VERSION}")
    try:
        index = as_dataclass(Index, values, INDEX, ignore_unknown=True)
        counts = (index.shards, *(index.rows or ()))
        if min(counts) < 0 or (index.rows is not None and len(index.rows) != index.shards):
            raise InputError("its numbers do not fit together")
        return replace(index, rows=None if index.rows is None else tuple(index.rows))
    except InputError as error:
        raise InputError(f"{path} is damaged: delete it and run `foveate features` again") from error
