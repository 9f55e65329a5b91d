"""Remembers hashes of weight files, so that hundreds of megabytes are not hashed again by each command.

A hash is kept under the file's path, size, time of change and inode. A file that is copied, replaced or
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
    found: list[object] = [repr(one) for one in details]
    with suppress(OSError):
        for path in files:
            whole = path.resolve(strict=True)
            status = whole.stat()
            found.append([os.fsdecode(whole), status.st_size, status.st_mtime_ns, status.st_ino])
        return hashlib.sha256(json.dumps(found).encode(errors="surrogateescape")).hexdigest()[:32]
    return None


def read(key: str | None) -> str | None:
    """Return the kept hash; None if there is none."""
    place = cache_folder(KIND)
    if key is None or place is None:
        return None
    try:
        held = (place / key).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return held if re.fullmatch(r"[0-9a-f]{16}", held) else None


def keep(key: str | None, fingerprint: str) -> None:
    """Keep a hash; a folder that cannot be written keeps none."""
    place = cache_folder(KIND)
    if key is None or place is None:
        return
    with suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(place / key, fingerprint)
