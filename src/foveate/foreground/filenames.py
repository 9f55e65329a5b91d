"""Chooses file names of masks: inside the folder, and each used only once."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath

from foveate.errors import InputError
from foveate.foreground.opening import PICTURE_SUFFIXES

_ODD = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')  # refused by some file systems
_UNSAFE = re.compile(r"(^|/)\.{0,2}(/|\Z)|\0")  # a part that is empty, . or ..
_LONGEST = 200  # bytes of one part: a temporary name beside it must stay below 255


class Places:
    """The used paths below a folder.

    Paths that differ only in case or in Unicode composition count as one, because some file systems
    treat them so.
    """

    def __init__(self, *reserved: str) -> None:
        self._files = {_key(path) for path in reserved}
        self._folders: set[str] = set()

    def take(self, name: str) -> str:
        """Choose the mask file of a picture: its path with the suffix .png, or with .png appended.

        Raises:
            InputError: The name would leave the folder.
        """
        return next(path for path in _candidates(name) if self.claim(path))

    def claim(self, path: str) -> bool:
        """Reserve exactly this path; return whether it was free."""
        key = _key(path)
        parents = [key[:end] for end, character in enumerate(key) if character == "/"]
        if key in self._files or key in self._folders or not self._files.isdisjoint(parents):
            return False
        self._files.add(key)
        self._folders.update(parents)
        return True


def is_safe(path: str) -> bool:
    """Whether a path with "/" between its parts stays inside its base folder."""
    return _UNSAFE.search(path) is None


def is_tame(path: str) -> bool:
    """Whether a path could be foveate's: safe, and without characters that file systems reinterpret."""
    return is_safe(path) and _ODD.search(path) is None


def _candidates(name: str) -> Iterator[str]:
    if not is_safe(name):
        raise InputError(
            f"picture {name!r}: its path leads out of the folder of masks; give a path below one"
        )
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    parts = [_tame(part) for part in name.split("/")]
    stem, dot, suffix = parts[-1].rpartition(".")
    if stem and dot and f".{suffix.lower()}" in PICTURE_SUFFIXES:
        yield "/".join([*parts[:-1], f"{stem}.png"])
    yield "/".join([*parts[:-1], f"{parts[-1]}.png"])
    yield f"_{digest[:32]}.png"  # e.g. a file where a folder is needed
    yield f"_{digest}.png"


def _tame(part: str) -> str:
    part = _ODD.sub(lambda match: f"%{ord(match[0]):02X}", part)
    encoded = part.encode(errors="surrogatepass")
    if len(encoded) <= _LONGEST:
        return part
    beginning = encoded[: _LONGEST - 40].decode(errors="ignore")
    suffix = PurePosixPath(part).suffix
    kept_suffix = suffix if suffix.lower() in PICTURE_SUFFIXES else ""
    return f"{beginning}-{hashlib.sha256(encoded).hexdigest()[:16]}{kept_suffix}"


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()
