"""The files that features are kept in: shards of safetensors, and an index beside them.

A shard is a run of pictures in the set's own order. It is written whole or not at all, names all that its
numbers depend on and carries a checksum, so work that was stopped goes on shard by shard.
docs/scale.md has the fields.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from foveate.configs import as_dataclass
from foveate.data.feature_store import stored_checksum
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.readers import as_table, one_line, parse_table, read_json

INDEX = "index.json"
IMAGE, FOREGROUND, AREAS, LABELS = "image", "foreground", "areas", "labels"
_FORMAT, _VERSION, _ENTRY = "foveate-features", 1, "foveate"


class UnfitShard(Exception):
    """Why a shard cannot be used, to be read behind its name."""


@dataclass(frozen=True)
class ShardNote:
    """What is kept beside the numbers of a shard.

    Attributes:
        work: Names what the numbers were made of and with.
        names: Of its pictures, a row each.
        left_out: Name of each picture that could not be read, and why.
    """

    work: str
    names: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Index:
    """What all shards of a folder have in common, and where they are.

    Attributes:
        key: What features depend on besides the pictures' contents; JSON values.
        classes: Class names; a label is a row of it.
        shards: How many there are to be.
        rows: Of each shard; None while some are to be made.
    """

    key: Mapping[str, Any]
    classes: tuple[str, ...]
    shards: int
    rows: tuple[int, ...] | None = None


def shard_path(folder: Path, number: int) -> Path:
    """Return where a shard is."""
    return folder / f"shard-{number:05}.safetensors"


def write_shard(path: Path, tensors: Mapping[str, Tensor], note: ShardNote) -> None:
    """Write a shard; equal ones are equal files.

    Raises:
        OSError: No space, no permission; there is no half of a file then.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    plain = save(whole)
    checksum = zlib.crc32(memoryview(plain)[8 + int.from_bytes(plain[:8], "little") :])
    entry = {"format": _FORMAT, "version": _VERSION, **asdict(note), "checksum": checksum}
    # One entry: safetensors writes several in any order.
    write_atomically(path, save(whole, {_ENTRY: json.dumps(entry, sort_keys=True)}))


def read_note(path: Path) -> ShardNote:
    """Return what is kept beside the numbers of a shard, without looking at these.

    Raises:
        UnfitShard: It is none of ours.
    """
    return _read(path)[0]


def open_shard(path: Path) -> tuple[ShardNote, dict[str, Tensor]]:
    """Open a shard and compare its numbers with their checksum.

    Returns:
        What is kept beside the numbers, and the numbers, memory-mapped.

    Raises:
        UnfitShard: It is damaged, or none of ours.
    """
    note, checksum, tensors = _read(path)
    if checksum != stored_checksum(path):
        raise UnfitShard("is damaged (its numbers do not have their checksum)")
    if any(len(tensor) != len(note.names) for tensor in tensors.values()):
        raise UnfitShard("is damaged (it has not a row for each name)")
    return note, tensors


def _read(path: Path) -> tuple[ShardNote, int, dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            entry = parse_table(file.metadata()[_ENTRY], _ENTRY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        left_out = tuple((str(name), str(reason)) for name, reason in entry["left_out"])
        note = {"work": entry["work"], "names": entry["names"]}
        return (
            replace(as_dataclass(ShardNote, note, "its note"), left_out=left_out),
            entry["checksum"],
            tensors,
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnfitShard(f"is damaged ({' '.join(str(error).split())[:100]})") from error


def write_index(folder: Path, index: Index) -> None:
    """Write the index of a folder."""
    values = {"format": _FORMAT, "version": _VERSION, **asdict(index)}
    write_atomically(folder / INDEX, json.dumps(values, indent=1) + "\n")


def read_index(folder: Path) -> Index:
    """Read the index of a folder.

    Raises:
        InputError: There is none, it is damaged, or of a newer format.
    """
    path = folder / INDEX
    if not path.exists():
        raise InputError(f"{folder} has no {INDEX}: give a folder that `foveate features` wrote")
    try:
        values = as_table(read_json(path)) or {}
    except InputError as error:
        why = f"{path} is damaged: delete it and run `foveate features` again"
        raise InputError(f"{why} ({one_line(error)})") from error
    if values.get("format") != _FORMAT:
        raise InputError(f"{path} is no index of features: give a folder that `foveate features` wrote")
    if values.get("version") != _VERSION:
        raise InputError(f"{path} is of format {values.get('version')}, and this foveate reads {_VERSION}")
    try:
        index = as_dataclass(Index, values, INDEX, more=True)
        made = (index.shards, *(index.rows or ()))
        if min(made) < 0 or (index.rows is not None and len(index.rows) != index.shards):
            raise InputError("its numbers do not fit together")
        return replace(index, rows=None if index.rows is None else tuple(index.rows))
    except InputError as error:
        raise InputError(f"{path} is damaged: delete it and run `foveate features` again") from error
