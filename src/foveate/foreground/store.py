"""Writes a tree of masks one by one; it can be resumed after any interruption.

The file of a mask is complete before its line in the manifest is written, and a mask without a complete
line does not count. A killed run loses only the current mask.
"""

import io
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.foreground.filenames import Places, is_tame
from foveate.foreground.proposers.base import Mask
from foveate.foreground.records import (
    HEAD,
    MANIFEST,
    MaskRecord,
    as_written,
    differences,
    from_line,
    head_bytes,
    read_head,
    to_line,
)
from foveate.foreground.stored import read_manifest as read_manifest
from foveate.foreground.stored import read_tree

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
