"""Labels in an append-only file, in the order people give them: one JSON object per line.

A line is on the disk before its label is confirmed, so a kill at any moment loses no label. Kinds of lines:

{"name": "barn owl"}                          a class that photos can be of
{"image": "a/1.jpg", "label": "barn owl"}     what a photo shows; null is none of the names
{"undo": "a/1.jpg"}                           the last label of all, which was this photo's, is taken back
"""

import json
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from foveate.data.naming import clean_name
from foveate.errors import InputError
from foveate.readers import as_table, decoded, json_lines, read_bytes


@dataclass
class Labels:
    """The state that the lines of a journal lead to.

    Attributes:
        names: Class names, in the order they were added.
        history: (photo, label) pairs in order, without those taken back; label None is "none of the names".
    """

    names: list[str] = field(default_factory=list[str])
    history: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])

    @property
    def current(self) -> dict[str, str | None]:
        """The last label of each labelled photo."""
        return dict(self.history)

    def take(self, line: Mapping[str, object]) -> None:
        """Apply one line.

        Raises:
            InputError: It is no line of a journal, or contradicts earlier lines.
        """
        match line:
            case {"name": str(name), **rest} if not rest:
                if clean_name(name) and name not in self.names:
                    self.names.append(name)
            case {"image": str(image), "label": str() | None as label, **rest} if not rest:
                if label is not None and label not in self.names:
                    raise InputError(f"the label {label!r} is none of the names before it")
                self.history.append((image, label))
            case {"undo": str(image), **rest} if not rest:
                if not self.history or self.history[-1][0] != image:
                    raise InputError(f"it takes back a label of {image}, which is not the last")
                self.history.pop()
            case _:
                raise InputError("is no line of labels")


class LabelJournal:
    """A file of labels, locked by one process.

    Args:
        path: The file; created if missing. An incomplete last line, which a kill leaves, is removed with a
            warning: its label was never confirmed.

    Attributes:
        labels: The state after all lines.
        lines: Number of lines.

    Raises:
        InputError: Another process has locked it, its folder cannot be written, or it is no journal.
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.labels, self.lines = path, Labels(), 0
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(f"{path} is open in another foveate serve: stop that one") from error
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}): keep labels elsewhere") from error
        try:
            self._read()
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            _sync_folder(path.parent)
        except BaseException:
            self._lock.release()
            raise

    def add(self, line: Mapping[str, object]) -> None:
        """Check a line, write it to the disk, then apply it.

        Raises:
            InputError: As in `Labels.take`; nothing is written.
            OSError: The disk is full, or the file cannot be written; the labels are unchanged.
        """
        updated = Labels(list(self.labels.names), list(self.labels.history))
        updated.take(line)
        data = json.dumps(line).encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, data) < len(data):
                raise OSError(28, "No space left on device", str(self.path))
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):  # half a line would corrupt the next one
                os.ftruncate(self._file, size)
            raise
        self.labels, self.lines = updated, self.lines + 1

    def close(self) -> None:
        """Close the file and unlock it."""
        os.close(self._file)
        self._lock.release()

    def _read(self) -> None:
        if not self.path.exists():
            return
        raw = read_bytes(self.path)
        complete = raw[: raw.rfind(b"\n") + 1]
        if len(complete) < len(raw):
            warnings.warn(f"{self.path}: its last line was cut off, and is removed", stacklevel=3)
            os.truncate(self.path, len(complete))
        for number, line in json_lines(self.path, decoded(complete, str(self.path))):
            try:
                self.labels.take(as_table(line) or {})
            except InputError as error:
                raise InputError(f"{self.path}, line {number}: {error}: give another file") from error
            self.lines += 1


def _sync_folder(folder: Path) -> None:
    """Write a new file's directory entry to the disk, if the system supports it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
