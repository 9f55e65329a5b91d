"""Files of stored features: shards of safetensors and an index.

A shard holds a run of pictures in the set's order. It is written atomically. It names everything that
its values depend on and has a checksum. Interrupted work therefore continues shard by shard.
docs/scale.md lists the fields.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from foveate.configs import as_dataclass
from foveate.data.feature_store import UnfitFile, check_numbers, open_stored
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.readers import as_table, one_line, read_json

INDEX = "index.json"
IMAGE, FOREGROUND, AREAS, LABELS = "image", "foreground", "areas", "labels"
_FORMAT, _VERSION, _ENTRY = "foveate-features", 1, "foveate"


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
    write_atomically(path, save(contiguous, {_ENTRY: json.dumps(entry, sort_keys=True)}))


def read_note(path: Path) -> ShardNote:
    """Return the metadata of a shard, without reading its values.

    Raises:
        UnfitFile: The file is not a shard of this format.
    """
    with open_stored(path, _ENTRY) as (entry, _):
        return _note(entry)


def open_shard(path: Path) -> tuple[ShardNote, dict[str, Tensor]]:
    """Open a shard and verify its checksum.

    Returns:
        The metadata, and the tensors, memory-mapped.

    Raises:
        UnfitFile: The file is damaged, or not a shard of this format.
    """
    with open_stored(path, _ENTRY) as (entry, tensors):
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
