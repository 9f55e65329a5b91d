"""Packs a tree of masks into a few shards, and unpacks it."""

import io
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.foreground.opening import BadPicture
from foveate.foreground.records import HEAD, MANIFEST, MaskRecord, head_bytes, to_line
from foveate.foreground.shards import (
    BLOCK,
    INDEX,
    SHARD,
    Shards,
    is_packed,
    open_shards,
    read_shard,
    write_index,
)
from foveate.foreground.store import MaskStore
from foveate.foreground.stored import read_key, read_manifest

MASKS_A_SHARD = 10_000
BYTES_A_SHARD = 64 << 20  # a shard is built in memory

Progress = Callable[[int], None]


def pack(
    folder: Path, out: Path, *, masks_a_shard: int = MASKS_A_SHARD, progress: Progress | None = None
) -> int:
    """Pack a tree of masks into shards; equal trees give equal bytes.

    Args:
        folder: A tree of foveate's masks.
        out: A folder, new or empty; or one in which packing was interrupted, which starts again.
        masks_a_shard: Maximum number of masks in a shard; fewer if they are large.
        progress: Called with the number of masks of each finished shard.

    Returns:
        Number of masks.

    Raises:
        InputError: `folder` is not such a tree, a mask in it cannot be read, or `out` holds something
            else.
        OSError: No space, or no permission; the message gives the path.
    """
    if is_packed(folder):
        raise InputError(f"{folder} is packed already: give a tree of masks")
    key = read_key(folder)
    records = read_manifest(folder)
    _prepare(out)
    shards: list[Path] = []
    rows: list[tuple[int, int, int, int, bool]] = []
    for group in _groups(folder, records, masks_a_shard):
        path = out / SHARD.format(len(shards))
        content, starts = _shard(head_bytes(key), group)
        write_atomically(path, content)
        rows.extend(
            (len(shards), start, len(png), zlib.crc32(png), record.fallback)
            for (record, png), start in zip(group, starts, strict=True)
        )
        shards.append(path)
        if progress is not None:
            progress(len(group))
    shard, start, length, checksum, fallback = np.array(rows, np.int64).reshape(-1, 5).T
    names, files = [entry.name for entry in records], [entry.file for entry in records]
    packed_set = Shards(key, shards, names, files, shard, start, length, checksum, fallback.astype(bool))
    write_atomically(out / INDEX, write_index(packed_set))  # last: a folder without it is unfinished
    return len(records)


def unpack(packed: Path, out: Path, *, progress: Progress | None = None) -> int:
    """Restore the tree of packed masks, byte for byte; it can be interrupted and resumed.

    Args:
        packed: A folder of packed masks, or one shard.
        out: A folder, new or empty, or one in which the same unpacking was interrupted.
        progress: Called with 1 for each mask.

    Returns:
        Number of masks.

    Raises:
        InputError: `packed` is damaged, or `out` holds something else.
        OSError: No space, or no permission; the message gives the path.
    """
    if not is_packed(packed):
        raise InputError(f"{packed} holds no packed masks: give the folder that has {INDEX}, or a shard")
    shards = open_shards(packed)
    row = 0
    with MaskStore.open(out, shards.key) as store:
        for path in shards.shards:
            for record in read_shard(path)[1]:
                if shards.names[row : row + 1] != [record.name]:
                    raise InputError(f"{path} is not the shard that {INDEX} tells of: fetch both again")
                if record.name not in store.finished:
                    store.put_file(record, shards.read(row))
                row += 1
                if progress is not None:
                    progress(1)
    return row


def _prepare(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give a folder to write to, new or empty")
    if (out / INDEX).exists():
        raise InputError(f"{out} holds packed masks already: choose another folder, or delete it")
    if out.is_dir():
        own_shards = set(out.glob("masks-*.tar"))
        if any(path not in own_shards and not path.name.startswith(".") for path in out.iterdir()):
            raise InputError(f"{out} is not empty: choose another folder")
        for path in own_shards:
            path.unlink()
    out.mkdir(parents=True, exist_ok=True)


def _groups(
    folder: Path, records: Sequence[MaskRecord], limit: int
) -> Iterator[list[tuple[MaskRecord, bytes]]]:
    group: list[tuple[MaskRecord, bytes]] = []
    size = 0
    for record in records:
        path = folder / record.file
        try:
            png = path.read_bytes()
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
            raise BadPicture(str(path), reason, "delete it and make it again") from error
        if group and (len(group) >= limit or size + len(png) > BYTES_A_SHARD):
            yield group
            group, size = [], 0
        group.append((record, png))
        size += len(png) + BLOCK
    if group:
        yield group


def _shard(head: bytes, group: Sequence[tuple[MaskRecord, bytes]]) -> tuple[bytes, list[int]]:
    """Return a tar file, and the offset of each mask in it."""
    manifest = b"".join(to_line(record) for record, _ in group)
    members = [(HEAD, head), (MANIFEST, manifest), *((record.file, png) for record, png in group)]
    buffer = io.BytesIO()
    starts: list[int] = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)  # no owner and no time: equal masks give equal shards
            info.size = len(content)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(content))
            starts.append(tar.offset - -(-len(content) // BLOCK) * BLOCK)
    return buffer.getvalue(), starts[2:]
