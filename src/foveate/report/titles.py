"""What data sets are called, and what the catalogue says of them."""

from foveate.datasets.catalogue import DataSet, find
from foveate.errors import InputError


def _known(key: str) -> DataSet | None:
    try:
        return find(key)
    except InputError:
        return None


def set_title(key: str) -> str:
    """Return the title of a set in the catalogue; its key, where the catalogue does not know it."""
    found = _known(key)
    return key if found is None else found.title


def is_drawn(key: str) -> bool:
    """Return whether a set's pictures are scenes that foveate draws."""
    found = _known(key)
    return key.startswith("world") if found is None else found.world is not None


def about(key: str) -> str:
    """Return what is particular about a drawn set; empty for other sets."""
    found = _known(key)
    return "" if found is None or found.world is None else f"{found.classes} classes, {found.world.about}"


def class_count(key: str, split: str) -> int | None:
    """Return how many classes a split of the whole set has; None where the catalogue does not know it.

    Args:
        key: Of the set.
        split: "base" is the first half, rounded up; "new" the rest; "all" both.
    """
    found = _known(key)
    if found is None:
        return None
    base = -(-found.classes // 2)
    return {"base": base, "new": found.classes - base}.get(split, found.classes)
