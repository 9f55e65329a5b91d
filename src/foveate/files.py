"""Atomic writing of files: no reader sees an incomplete file."""

import os
import re
import tempfile
from pathlib import Path

from foveate.errors import InputError

HALF_WRITTEN = re.compile(r"\..+\.(?:json|jsonl|safetensors|md|txt)\.[a-z0-9_]{8}")
"""Names of unfinished files of `write_atomically` for these suffixes; a kill leaves them behind."""


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
