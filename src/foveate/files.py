"""Atomic writing of files: no reader sees an incomplete file."""

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from foveate.errors import InputError

_HALF_WRITTEN = re.compile(r"\..+\.(?:json|jsonl|safetensors|md|txt)\.[a-z0-9_]{8}")

CACHE = "FOVEATE_CACHE"
"""Environment variable with the cache folder."""


def home_of(path: str | os.PathLike[str]) -> Path:
    """Expand `~` in a path; `~user` with an unknown home directory stays unchanged.

    Raises:
        InputError: It is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{path!r} is of type {type(path).__name__}: give a path")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def cache_folder(kind: str) -> Path | None:
    """Return the cache folder for one kind of files; None if the cache is off.

    It is in `FOVEATE_CACHE`, or in the user's cache folder. An empty `FOVEATE_CACHE` turns the cache off.

    Args:
        kind: Name of the folder: "features", "fingerprints".
    """
    configured = os.environ.get(CACHE)
    if configured is not None:
        return Path(configured).expanduser() / kind if configured else None
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "foveate" / kind


def is_file(path: Path) -> bool:
    """Return whether a file exists; a path that cannot exist, such as a name of 300 letters, is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(path: Path, fault: str) -> str:
    """Rename an unusable file or folder, and return a note that begins with its fault; nothing is deleted."""
    number, target = 1, path.with_name(f"{path.name}.damaged")
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.damaged-{number}")
    with suppress(FileNotFoundError):  # another process has renamed it
        path.rename(target)
    return f"{' '.join(fault.split())}: set aside as {target.name}, and made anew"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a temporary file beside `path`, flush it to disk, and rename it into place.

    Raises:
        OSError: No space or no permission; the error names `path`, and the old file is unchanged.
    """
    # File names may be any bytes; bytes that are not valid Unicode are escaped, as in JSON.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename, error.filename2 = str(path), None  # the user does not know the temporary name
        raise


def remove_half_written(folders: Iterable[Path], min_age: float = 0) -> None:
    """Remove the unfinished files that a kill during `write_atomically` leaves.

    Args:
        folders: Folders to search, without their subfolders.
        min_age: Minimum age in seconds; a younger file may belong to a process at work.
    """
    latest = time.time() - min_age
    for path in (path for folder in folders for path in folder.glob(".*")):
        if _HALF_WRITTEN.fullmatch(path.name) and path.stat().st_mtime <= latest:
            path.unlink(missing_ok=True)
