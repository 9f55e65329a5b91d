"""Writing files so that nobody ever sees half of one."""

import os
import re
import tempfile
from pathlib import Path

HALF_WRITTEN = re.compile(r"\..+\.(?:json|jsonl|safetensors|md|txt)\.[a-z0-9_]{8}")
"""What `write_atomically` calls a file of these kinds that it has not finished; a kill leaves it there."""


def home_of(path: str | os.PathLike[str]) -> Path:
    """Return a path with its `~` written out; `~nobody`, whose home is not known, stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a temporary file beside `path`, flush it to disk, and rename it into place.

    Raises:
        OSError: No space, no permission; it names `path`, which is then as it was before.
    """
    # File names may be any bytes: what is no Unicode is written escaped, as JSON does it.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename, error.filename2 = str(path), None  # a person does not know the temporary one
        raise
