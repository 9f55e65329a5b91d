"""A tree of masks that is written mask by mask and can be gone on with after any interruption.

A mask's file is whole before its line in the manifest is begun, and what has no whole line does not count: a
run that is killed loses the mask it was at.
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

_SYNC_EVERY = 64  # lines; a crash of the machine, not of the program, can cost as many masks


class MaskStore:
    """A folder of masks, open for writing; several threads may put masks into it.

    Attributes:
        folder: Where it is.
        finished: The record of each mask in it, by the picture's name.
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
        how = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._manifest = os.open(folder / MANIFEST, how, 0o644)
        os.ftruncate(self._manifest, end)
        os.lseek(self._manifest, end, os.SEEK_SET)
        self._unsynced = 0

    @classmethod
    def open(cls, folder: Path, key: Mapping[str, object]) -> "MaskStore":
        """Create a folder of masks, or go on with one.

        Masks whose file is gone do not count as finished: delete one to have it made again.

        Args:
            folder: Made with all above it if it is not there.
            key: What masks depend on besides the pictures: the proposer, its settings and weights; JSON
                values.

        Raises:
            InputError: The folder is a file, holds something else, or masks made with another key; its
                manifest is damaged.
            OSError: No space, no permission; names the path.
        """
        wanted = as_written(key)
        _prepare(folder, wanted)
        return cls(folder, *read_tree(folder))

    def put(self, record: MaskRecord, mask: Mask) -> None:
        """Write a mask and then its record; a mask of the same name is replaced.

        Args:
            record: Its `file` is chosen here.
            mask: `[height, width]`, True on the foreground.

        Raises:
            ValueError: The mask is not of the record's size.
            InputError: The picture's name leads out of the folder.
            OSError: No space, no permission; names the path. All masks before stay as they are.
        """
        if mask.shape != (record.height, record.width):
            raise ValueError(f"{record.name}: a mask of {mask.shape}, not {(record.height, record.width)}")
        self.put_file(record, png_bytes(mask))

    def put_file(self, record: MaskRecord, png: bytes) -> None:
        """Like `put`, for a mask that is a PNG file already."""
        with self._lock:
            before = self._records.get(record.name)
            record = replace(record, file=before.file if before else self._place(record))
            path = self.folder / record.file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, png)
            line = to_line(record)
            self._append(line)
            self._records[record.name] = from_line(line, MANIFEST)  # as it will read from now on

    def close(self) -> None:
        """Bring what the system still holds back to disk, and let go of the manifest."""
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
            return record.file  # a set that moves from elsewhere keeps its files
        return self._places.take(record.name)

    def _append(self, line: bytes) -> None:
        """Write a whole line, or leave the manifest as it was."""
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._manifest, rest) :]
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
    """Return a mask as a PNG file of one bit a pixel."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(mask)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _prepare(folder: Path, key: Mapping[str, object]) -> None:
    """Make the folder and say in it what its masks are made with, or check that it says so."""
    head = folder / HEAD
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder to write to, new or empty")
    if head.is_file():
        changes = list(differences(read_head(head.read_bytes(), str(head)), key))
        if changes:
            raise InputError(
                f"{folder} holds masks made otherwise ({changes[0]}): choose another --out, or delete it"
            )
        return
    if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no masks of foveate's: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(head, head_bytes(key))
