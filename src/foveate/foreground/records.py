"""Metadata of masks: one line of JSON for each mask, and one file for each set; and names of mask files.

A set of masks is a tree of 1-bit PNG files with two more files. `manifest.jsonl` has a line for each
mask, in the order of creation. `proposer.json` holds the settings of all masks. docs/masks-format.md
lists the fields.
"""

import hashlib
import json
import re
import unicodedata
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, cast

from foveate.configs import as_dataclass
from foveate.errors import InputError
from foveate.foreground.opening import PICTURE_SUFFIXES, LazyPicture
from foveate.readers import parse_json

MANIFEST = "manifest.jsonl"
HEAD = "proposer.json"
FORMAT = "foveate-masks"
VERSION = 1


@dataclass(frozen=True, slots=True)
class MaskRecord:
    """Metadata of one mask.

    Attributes:
        name: The picture's path relative to the root folder, with "/" between the parts.
        sha256: Hash of the picture's file, 64 hex digits; empty if the picture is not a file.
        width: Width of the upright picture and of the mask, in pixels.
        height: Height, likewise.
        area: Foreground share of the picture.
        score: Confidence of the proposer, in [0, 1]; 0 for a fallback.
        label: The picture's class name; empty if it is unknown.
        prompt: The search text for a proposer that reads texts.
        fallback: Whether the mask is the whole picture, because nothing usable was found.
        refined: Whether the mask was refined by the picture's colours.
        meta: Further values from the proposer; JSON values.
        file: The mask's path relative to its folder, with "/" between the parts; set by the store.
    """

    name: str
    sha256: str
    width: int
    height: int
    area: float
    score: float
    label: str = ""
    prompt: str = ""
    fallback: bool = False
    refined: bool = False
    meta: Mapping[str, object] = field(default_factory=dict[str, object])
    file: str = ""


class StoredMask(LazyPicture):
    """A mask of a foveate set, read on access."""

    @property
    @abstractmethod
    def fallback(self) -> bool:
        """Whether it is intentionally the whole picture, because nothing usable was found."""


def to_line(record: MaskRecord) -> bytes:
    """Return a record as one line of UTF-8 JSON, with a newline.

    Raises:
        TypeError: `meta` has a value that is not JSON.
        ValueError: A number is not finite.
    """
    options: dict[str, Any] = {"separators": (",", ":"), "allow_nan": False, "default": _plain}
    values = {name: getattr(record, name) for name in _NAMES}
    try:
        return json.dumps(values, ensure_ascii=False, **options).encode() + b"\n"
    except UnicodeEncodeError:  # a file name that is not UTF-8 needs escapes
        return json.dumps(values, **options).encode() + b"\n"


def from_line(line: bytes, where: str) -> MaskRecord:
    """Read one line of a manifest.

    Args:
        line: The line, with or without its newline.
        where: File and line number, for messages.

    Raises:
        InputError: The line is not a record.
    """
    try:
        record = as_dataclass(MaskRecord, parse_json(line, "it"), "it", ignore_unknown=True)
        has_pixels = record.width > 0 and record.height > 0
    except InputError as error:
        raise InputError(f"{where} is damaged ({_short(error)}): delete that line") from error
    if not has_pixels or not is_safe(record.name) or not is_tame(record.file):
        raise InputError(f"{where} is no record of a mask: delete that line")
    return record


def read_lines(content: bytes, where: str) -> tuple[dict[str, MaskRecord], int]:
    """Read a manifest.

    A last line without a newline is incomplete and is ignored. If several lines have the same name or
    the same file, the last one counts.

    Returns:
        The records by name, and the number of bytes of complete lines.

    Raises:
        InputError: Another line is damaged.
    """
    end = content.rfind(b"\n") + 1
    records: dict[str, MaskRecord] = {}
    owners: dict[str, str] = {}
    for number, line in enumerate(content[:end].split(b"\n")[:-1], 1):
        record = from_line(line, f"{where}, line {number}")
        owner = owners.setdefault(record.file, record.name)
        if owner != record.name:  # the old picture and mask were deleted and the file name reused
            records.pop(owner, None)
            owners[record.file] = record.name
        records[record.name] = record
    return records, end


def head_bytes(key: Mapping[str, object]) -> bytes:
    """Return the content of `proposer.json` for masks made with this key."""
    head = {"format": FORMAT, "version": VERSION, "key": key}
    return (json.dumps(head, indent=2, sort_keys=True, default=_plain) + "\n").encode()


def read_head(content: bytes, where: str) -> dict[str, object]:
    """Return the key of masks, from the content of their `proposer.json`.

    Raises:
        InputError: The content is not valid, or its format is newer.
    """
    try:
        head = parse_json(content, "JSON")
    except InputError as error:
        raise InputError(f"{where} is damaged ({_short(error)}): make the masks anew elsewhere") from error
    match head:
        case {"format": "foveate-masks", "version": int(version), "key": dict(key)}:
            if version > VERSION:
                raise InputError(f"{where} was written by a newer foveate (version {version}): upgrade")
            return cast("dict[str, object]", key)
        case _:
            raise InputError(f"{where} does not say what masks were made with: choose another folder")


def as_written(key: Mapping[str, object]) -> dict[str, object]:
    """Return a key as it is after JSON serialisation."""
    return json.loads(json.dumps(key, default=_plain))


def differences(
    stored: Mapping[str, object], requested: Mapping[str, object], above: str = ""
) -> Iterator[str]:
    """Yield the differences between two keys as text: "model.weights was 'a', now 'b'"."""
    for name in sorted(set(stored) | set(requested)):
        old, new = stored.get(name), requested.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = cast("Mapping[str, object]", old), cast("Mapping[str, object]", new)
            yield from differences(*inner, f"{above}{name}.")
        elif old != new:
            yield f"{above}{name} was {old!r}, now {new!r}"


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; empty if it does not exist."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _plain(value: object) -> object:
    """Convert numpy numbers and arrays to JSON values, and paths to strings."""
    if hasattr(value, "tolist"):
        return cast("Any", value).tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be kept with a mask: {value!r}")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:80]


_NAMES = tuple(each.name for each in fields(MaskRecord))


# Chooses file names of masks: inside the folder, and each used only once.


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
