"""What is kept with each mask, as one line of JSON, and with each set of masks.

A set of masks is a tree of 1-bit PNG files with `manifest.jsonl`, a line a mask in the order they were made,
and `proposer.json`, what all of them were made with. docs/masks-format.md has the fields.
"""

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from foveate.configs import as_dataclass
from foveate.errors import InputError
from foveate.foreground.filenames import is_safe, is_tame
from foveate.foreground.opening import LazyPicture
from foveate.readers import parse_json

MANIFEST = "manifest.jsonl"
HEAD = "proposer.json"
FORMAT = "foveate-masks"
VERSION = 1


@dataclass(frozen=True, slots=True)
class MaskRecord:
    """What is known of one mask.

    Attributes:
        name: The picture's path below the folder of all pictures, with "/" between the parts.
        sha256: Of the picture's file, in 64 hex digits; empty where the picture is no file.
        width: Of the picture as it is looked at, and of the mask, in pixels.
        height: Likewise.
        area: The foreground's share of the picture.
        score: How sure the proposer was, in [0, 1]; 0 for a fallback.
        label: The picture's class name; empty where none was known.
        prompt: What a proposer that reads texts was told to look for.
        fallback: Whether nothing usable was found, so that the mask is the whole picture.
        refined: Whether the mask was refined by the picture's colours.
        meta: What else the proposer said; JSON values.
        file: The mask's path below its folder, with "/" between the parts; the store fills it in.
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
    """A mask of a set that foveate made, read when it is needed."""

    @property
    @abstractmethod
    def fallback(self) -> bool:
        """Whether it is the whole picture because nothing usable was found, and not by mistake."""

    @property
    @abstractmethod
    def place(self) -> str:
        """The file it is read from, for messages."""


def to_line(record: MaskRecord) -> bytes:
    """Return a record as one line of UTF-8 JSON, with its newline.

    Raises:
        TypeError: `meta` has a value that JSON does not know.
        ValueError: A number is not finite.
    """
    options: dict[str, Any] = {"separators": (",", ":"), "allow_nan": False, "default": _plain}
    values = {name: getattr(record, name) for name in _NAMES}
    try:
        return json.dumps(values, ensure_ascii=False, **options).encode() + b"\n"
    except UnicodeEncodeError:  # a file name that is not UTF-8: only escapes can carry it
        return json.dumps(values, **options).encode() + b"\n"


def from_line(line: bytes, where: str) -> MaskRecord:
    """Read one line of a manifest.

    Args:
        line: With or without its newline.
        where: File and line, for messages.

    Raises:
        InputError: It is no record.
    """
    try:
        record = as_dataclass(MaskRecord, parse_json(line, "it"), "it", more=True)
        whole = record.width > 0 and record.height > 0
    except InputError as error:
        raise InputError(f"{where} is damaged ({_short(error)}): delete that line") from error
    if not whole or not is_safe(record.name) or not is_tame(record.file):
        raise InputError(f"{where} is no record of a mask: delete that line")
    return record


def read_lines(content: bytes, where: str) -> tuple[dict[str, MaskRecord], int]:
    """Read a manifest.

    A last line without a newline was cut off while it was written, and does not count. Of several lines with
    one name, or with one file, the last counts.

    Returns:
        The records by name, and how many bytes of the content are whole lines.

    Raises:
        InputError: Another line is damaged.
    """
    whole = content.rfind(b"\n") + 1
    records: dict[str, MaskRecord] = {}
    owners: dict[str, str] = {}
    for number, line in enumerate(content[:whole].split(b"\n")[:-1], 1):
        record = from_line(line, f"{where}, line {number}")
        owner = owners.setdefault(record.file, record.name)
        if owner != record.name:  # its picture and its mask were deleted, and the place given to another
            records.pop(owner, None)
            owners[record.file] = record.name
        records[record.name] = record
    return records, whole


def head_bytes(key: Mapping[str, object]) -> bytes:
    """Return the content of `proposer.json` for masks made with this key."""
    head = {"format": FORMAT, "version": VERSION, "key": key}
    return (json.dumps(head, indent=2, sort_keys=True, default=_plain) + "\n").encode()


def read_head(content: bytes, where: str) -> dict[str, object]:
    """Return the key that masks were made with, from the content of their `proposer.json`.

    Raises:
        InputError: It is none, or of a newer format.
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
    """Return a key as it reads after a way through JSON."""
    return json.loads(json.dumps(key, default=_plain))


def differences(held: Mapping[str, object], wanted: Mapping[str, object], above: str = "") -> Iterator[str]:
    """Say what differs between two keys: "model.weights was 'a', now 'b'"."""
    for name in sorted(set(held) | set(wanted)):
        before, now = held.get(name), wanted.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            inner = cast("Mapping[str, object]", before), cast("Mapping[str, object]", now)
            yield from differences(*inner, f"{above}{name}.")
        elif before != now:
            yield f"{above}{name} was {before!r}, now {now!r}"


def read_bytes(path: Path) -> bytes:
    """Return a file's content; empty where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _plain(value: object) -> object:
    """Turn numpy's numbers and arrays into JSON's, and paths into strings."""
    if hasattr(value, "tolist"):
        return cast("Any", value).tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be kept with a mask: {value!r}")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:80]


_NAMES = tuple(one.name for one in fields(MaskRecord))
