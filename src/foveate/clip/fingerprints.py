"""Remembers hashes of weight files, so that hundreds of megabytes are not hashed again by each command.

A hash is stored under the file's path, size, modification time and inode. A file that is copied, replaced or
changed is hashed again. `FOVEATE_CACHE` is the folder; if it is empty, every load hashes all weights.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from foveate.files import cache_folder, write_atomically

KIND = "fingerprints"


def key_of(files: Sequence[Path], *details: object) -> str | None:
    """Return a key for the state of these files.

    Args:
        files: Weight files; none gives no key.
        details: Everything else that the hash depends on, such as the precision.

    Returns:
        32 hex digits; None if there are no files, or one cannot be examined.
    """
    if not files:
        return None
    parts: list[object] = [repr(detail) for detail in details]
    with suppress(OSError):
        for path in files:
            resolved = path.resolve(strict=True)
            status = resolved.stat()
            parts.append([os.fsdecode(resolved), status.st_size, status.st_mtime_ns, status.st_ino])
        return hashlib.sha256(json.dumps(parts).encode(errors="surrogateescape")).hexdigest()[:32]
    return None


def read(key: str | None) -> str | None:
    """Return the stored hash; None if there is none."""
    folder = cache_folder(KIND)
    if key is None or folder is None:
        return None
    try:
        fingerprint = (folder / key).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return fingerprint if re.fullmatch(r"[0-9a-f]{16}", fingerprint) else None


def keep(key: str | None, fingerprint: str) -> None:
    """Store a hash; if the folder cannot be written, do nothing."""
    folder = cache_folder(KIND)
    if key is None or folder is None:
        return
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / key, fingerprint)
