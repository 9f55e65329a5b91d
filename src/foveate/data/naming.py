"""Class names and splits as people write them, made one."""

import unicodedata
from collections.abc import Mapping, Sequence

from foveate.errors import InputError

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def clean_name(raw: str) -> str:
    """Make a class name readable for CLIP: underscores are spaces, one at a time, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", raw).replace("_", " ").split())


def clean_names(raw: Mapping[str, str], where: str) -> tuple[str, ...]:
    """Clean the names of all classes.

    Args:
        raw: The name of each class by what the source calls it (a folder, a label).
        where: The source, for messages.

    Raises:
        InputError: A name is empty, or two classes have the same.
    """
    seen: dict[str, str] = {}
    for origin, name in raw.items():
        cleaned = clean_name(name)
        if not cleaned:
            raise InputError(f"{where}: class {origin!r} has an empty name; give it one CLIP can read")
        if cleaned in seen:
            raise InputError(
                f"{where}: classes {seen[cleaned]!r} and {origin!r} are both called {cleaned!r}; "
                f"rename one, or make them one class"
            )
        seen[cleaned] = origin
    return tuple(seen)


def read_split(raw: str, where: str) -> str | None:
    """Return "train", "val", "test", or None for an empty string.

    Raises:
        InputError: It is none of the words we know.
    """
    word = raw.strip().lower()
    if word and word not in SPLITS:
        raise InputError(f"{where}: split {raw!r} is not one of {', '.join(SPLITS)}")
    return SPLITS.get(word)


def unusual(names: Sequence[str]) -> list[str]:
    """Return a note where names are in another script than CLIP has mostly read."""
    foreign = [name for name in names if any(c.isalpha() and not _is_latin(c) for c in name)]
    shown = ", ".join(map(repr, foreign[:3])) + (", …" if len(foreign) > 3 else "")
    return [f"CLIP has mostly read English; it may not understand {shown}"] if foreign else []


def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "LATIN").startswith("LATIN")
