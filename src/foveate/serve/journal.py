"""Labels as people give them, in a file that only grows: a line of JSON each.

A line is on the disk before anybody is told that it was taken, so a kill at any moment loses no label. Kinds:

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
    """What a journal amounts to.

    Attributes:
        names: Of the classes, in the order they came.
        history: Photo and label of every label that was not taken back, in order; None is none of the names.
    """

    names: list[str] = field(default_factory=list[str])
    history: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])

    @property
    def current(self) -> dict[str, str | None]:
        """The label of each photo that has one; the last of several."""
        return dict(self.history)

    def take(self, line: Mapping[str, object]) -> None:
        """Do what a line says.

        Raises:
            InputError: It is no line of a journal, or does not fit those before.
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
    """A file of labels, in the hands of one process.

    Args:
        path: Of the file; made if it is not there. A last line that a kill has cut is removed, with a
            warning: nobody was told that it was taken.

    Attributes:
        labels: What it amounts to.
        lines: How many lines it has.

    Raises:
        InputError: Another process has it, its folder cannot be written, or it is no journal.
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
        """Take a line: check it, put it on the disk, and then do what it says.

        Raises:
            InputError: As `Labels.take`; nothing is written then.
            OSError: The disk is full, or the file may not be written; the labels are then as before.
        """
        after = Labels(list(self.labels.names), list(self.labels.history))
        after.take(line)
        data = json.dumps(line).encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, data) < len(data):
                raise OSError(28, "No space left on device", str(self.path))
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):  # half a line would spoil the next one
                os.ftruncate(self._file, size)
            raise
        self.labels, self.lines = after, self.lines + 1

    def close(self) -> None:
        """Give the file to whoever wants it next."""
        os.close(self._file)
        self._lock.release()

    def _read(self) -> None:
        if not self.path.exists():
            return
        raw = read_bytes(self.path)
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            warnings.warn(f"{self.path}: its last line was cut off, and is removed", stacklevel=3)
            os.truncate(self.path, len(whole))
        for number, line in json_lines(self.path, decoded(whole, str(self.path))):
            try:
                self.labels.take(as_table(line) or {})
            except InputError as error:
                raise InputError(f"{self.path}, line {number}: {error}: give another file") from error
            self.lines += 1


def _sync_folder(folder: Path) -> None:
    """Put a new file's name on the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
