"""Stores masks in a tree, one by one, and resumes after any interruption; reads a tree, and packs it.

The file of a mask is complete before its line in the manifest is written, and a mask without a complete
line does not count. A killed run loses only the current mask.
"""

import io
import os
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.foreground.opening import BadPicture, opened
from foveate.foreground.proposers.base import Mask
from foveate.foreground.records import (
    HEAD,
    MANIFEST,
    MaskRecord,
    Places,
    StoredMask,
    as_written,
    differences,
    from_line,
    head_bytes,
    is_tame,
    read_bytes,
    read_head,
    read_lines,
    to_line,
)
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

_SYNC_EVERY = 64  # lines; a crash of the machine (not of the program) can lose this many masks


class MaskStore:
    """A folder of masks, open for writing; it is thread-safe.

    Attributes:
        folder: The folder.
        finished: Record of each mask in it, by name of the picture.
    """

    def __init__(self, folder: Path, records: dict[str, MaskRecord], end: int) -> None:
        """See `open`."""
        self.folder = folder
        self._records = records
        self.finished: Mapping[str, MaskRecord] = MappingProxyType(records)
        self._places = Places(MANIFEST, HEAD)
        for record in records.values():
            self._places.claim(record.file)
        self._lock = threading.Lock()
        self._end = end
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._manifest = os.open(folder / MANIFEST, flags, 0o644)
        os.ftruncate(self._manifest, end)
        os.lseek(self._manifest, end, os.SEEK_SET)
        self._unsynced = 0

    @classmethod
    def open(cls, folder: Path, key: Mapping[str, object]) -> "MaskStore":
        """Create a folder of masks, or continue one.

        A mask whose file is missing is not finished: delete a file to make the mask again.

        Args:
            folder: The folder; created with its parents if missing.
            key: All settings of masks except the pictures: the proposer, its settings and weights; JSON
                values.

        Raises:
            InputError: The folder is a file, holds something else or masks with another key, or its
                manifest is damaged.
            OSError: No space, or no permission; the message gives the path.
        """
        written_key = as_written(key)
        _prepare(folder, written_key)
        return cls(folder, *read_tree(folder))

    def put(self, record: MaskRecord, mask: Mask) -> None:
        """Write a mask and then its record; replace a mask of the same name.

        Args:
            record: The record; its `file` is set here.
            mask: `[height, width]`, True on the foreground.

        Raises:
            ValueError: The size of the mask differs from the record's.
            InputError: The picture's name leaves the folder.
            OSError: No space, or no permission; the message gives the path. All earlier masks are
                unchanged.
        """
        if mask.shape != (record.height, record.width):
            raise ValueError(f"{record.name}: a mask of {mask.shape}, not {(record.height, record.width)}")
        self.put_file(record, png_bytes(mask))

    def put_file(self, record: MaskRecord, png: bytes) -> None:
        """Write a mask that is a PNG file already; otherwise like `put`."""
        with self._lock:
            previous = self._records.get(record.name)
            record = replace(record, file=previous.file if previous else self._place(record))
            path = self.folder / record.file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, png)
            line = to_line(record)
            self._append(line)
            self._records[record.name] = from_line(line, MANIFEST)  # the value that later reads return

    def close(self) -> None:
        """Flush all data to disk and close the manifest."""
        with self._lock:
            if self._manifest >= 0:
                os.fsync(self._manifest)
                os.close(self._manifest)
                self._manifest = -1

    def __enter__(self) -> "MaskStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self, record: MaskRecord) -> str:
        if record.file and is_tame(record.file) and self._places.claim(record.file):
            return record.file  # a set from elsewhere keeps its files
        return self._places.take(record.name)

    def _append(self, line: bytes) -> None:
        """Write a complete line, or leave the manifest unchanged."""
        try:
            remaining = memoryview(line)
            while remaining:
                remaining = remaining[os.write(self._manifest, remaining) :]
            self._unsynced += 1
            if self._unsynced >= _SYNC_EVERY:
                os.fsync(self._manifest)
                self._unsynced = 0
        except OSError as error:
            os.ftruncate(self._manifest, self._end)
            os.lseek(self._manifest, self._end, os.SEEK_SET)
            error.filename = str(self.folder / MANIFEST)
            raise
        self._end += len(line)


def png_bytes(mask: Mask) -> bytes:
    """Return a mask as a PNG file with one bit for each pixel."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(mask)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _prepare(folder: Path, key: Mapping[str, object]) -> None:
    """Create the folder and write the key of its masks, or check the existing key."""
    head_path = folder / HEAD
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder to write to, new or empty")
    if head_path.is_file():
        changes = list(differences(read_head(head_path.read_bytes(), str(head_path)), key))
        if changes:
            raise InputError(
                f"{folder} holds masks made otherwise ({changes[0]}): choose another --out, or delete it"
            )
        return
    if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no masks of foveate's: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(head_path, head_bytes(key))


# Reads foveate's masks, from a tree or a packed set.


class TreeMask(StoredMask):
    """One mask of a tree."""

    def __init__(self, folder: Path, file: str, fallback: bool) -> None:
        self._folder, self._file, self._fallback = folder, file, fallback

    @property
    def name(self) -> str:
        return self._file

    @property
    def fallback(self) -> bool:
        return self._fallback

    def load(self) -> Image.Image:
        with opened(self._folder / self._file) as image:
            image.load()
            return image


def read_key(folder: Path) -> dict[str, object]:
    """Return the settings of the masks in a tree or in a packed set.

    Raises:
        InputError: The masks are not foveate's, are damaged, or have a newer format.
    """
    if is_packed(folder):
        return dict(open_shards(folder).key)
    path = folder / HEAD
    if not path.is_file():
        raise InputError(f"{folder} has no {HEAD}: it holds no masks that foveate made")
    return read_head(path.read_bytes(), str(path))


def read_manifest(folder: Path) -> list[MaskRecord]:
    """Return the records of a tree or a packed set, each name once, in the order of creation.

    Records without a mask file are left out.

    Raises:
        InputError: There is no manifest, or it is damaged.
    """
    if is_packed(folder):
        shards = [folder] if folder.is_file() else open_shards(folder).shards
        return [record for shard in shards for record in read_shard(shard)[1]]
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} has no {MANIFEST}: it holds no masks that foveate made")
    return list(read_tree(folder)[0].values())


def stored_masks(folder: Path) -> Mapping[str, StoredMask] | None:
    """Return foveate's masks in this folder, by name of the picture; None if there are none.

    Args:
        folder: A tree, a packed set or one shard of it.

    Raises:
        InputError: The manifest or the index is damaged.
    """
    if is_packed(folder):
        return open_shards(folder).masks()
    if not (folder / MANIFEST).is_file() or not (folder / HEAD).is_file():
        return None
    read_key(folder)
    records, _ = read_tree(folder)
    return {name: TreeMask(folder, record.file, record.fallback) for name, record in records.items()}


def read_tree(folder: Path) -> tuple[dict[str, MaskRecord], int]:
    """Return the records whose mask exists, and the number of bytes of complete manifest lines."""
    manifest = folder / MANIFEST
    records, end = read_lines(read_bytes(manifest), str(manifest))
    existing = _existing(folder, (record.file for record in records.values()))
    return {name: entry for name, entry in records.items() if entry.file in existing}, end


def _existing(folder: Path, files: Iterable[str]) -> set[str]:
    """Return those files that exist; this lists folders instead of checking each file."""
    requested = set(files)
    listed: set[str] = set()
    for parent in {file.rpartition("/")[0] for file in requested}:
        if (folder / parent).is_dir():
            prefix = f"{parent}/" if parent else ""
            with os.scandir(folder / parent) as entries:
                listed.update(prefix + entry.name for entry in entries)
    return requested & listed


# Packs a tree of masks into a few shards, and unpacks it.


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
    _prepare_shards(out)
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


def _prepare_shards(out: Path) -> None:
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
