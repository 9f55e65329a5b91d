"""Settings are dataclasses. Here is the one check of their names and kinds, whoever gives them.

Python, YAML and the command line give settings as mappings, which `typed` reads. `check_types` compares a
finished dataclass with its declaration. What is wrong is one line that says what may be given. A range is
checked by the `__post_init__` of its dataclass.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from foveate.errors import InputError

LARGEST = 1 << 63
"""Whole numbers are smaller: files and libraries hold no larger ones."""

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "none"}


def typed(kind: type, values: object, title: str) -> dict[str, Any]:
    """Read settings as their dataclass declares them.

    Lists become tuples and whole numbers floats, where these are declared: YAML and JSON know no better.

    Args:
        kind: The dataclass.
        values: By name, some or all of its settings.
        title: What messages call them, e.g. "coop"; nothing for options.

    Raises:
        InputError: There is no such setting, or a value is of another kind; the message says what there is.
    """
    hints = declared(kind)
    given = mapping(values, f"{title} is {values!r}: give its settings by name, as in {{name: value}}")
    before = f"{title}: " if title else ""
    for name in given:
        if name not in hints:
            raise InputError(f"{title or 'this'} has no setting {name!r}; {nearest(name, hints)}")
    return {name: check(before + name, value, hints[name]) for name, value in given.items()}


def check_types(config: Any, title: str | None = None) -> None:
    """Refuse a setting that is not of its declared kind.

    Args:
        config: A dataclass, e.g. `CoOpConfig`.
        title: What messages call it; None takes its class's name without "Config".

    Raises:
        InputError: The first such setting, and what may be given.
    """
    kind = type(config)
    title = kind.__name__.removesuffix("Config").lower() if title is None else title
    before = f"{title}: " if title else ""
    for name, hint in declared(kind).items():
        check(before + name, getattr(config, name), hint)


def check(name: str, value: object, hint: Any) -> Any:
    """Return a value as its declared kind has it.

    Args:
        name: What messages call it.
        value: Of any kind.
        hint: The declared one: a plain type, a `Literal`, a tuple of these, or a union with None.

    Raises:
        InputError: It is of another kind.
    """
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = cast("Any", value).item()
    if not _fits(value, hint):
        wrong, wanted = value, hint
        if get_origin(hint) is tuple and isinstance(value, tuple | list):
            wanted = get_args(hint)[0]
            wrong = next(one for one in cast("list[object]", value) if not _fits(one, wanted))
        raise InputError(f"{name} is {wrong!r}: give {expected(wanted)}{_meant(wrong, wanted)}")
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if isinstance(value, list):
        return tuple(cast("list[object]", value)) if any(get_origin(one) is tuple for one in kinds) else value
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds and int not in kinds:
        return float(value)
    return value


def from_text(name: str, text: str, hint: Any) -> Any:
    """Return what a typed word says, as its declared kind has it.

    Args:
        name: What messages call it.
        text: The word; "none" and "null" are None, where that may be given.
        hint: The declared kind, as for `check`.

    Raises:
        InputError: It does not say a value of that kind.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    value: object = text
    if NoneType in kinds and text.lower() in ("none", "null"):
        value = None
    elif bool in kinds and text.lower() in ("true", "false"):
        value = text.lower() == "true"
    elif int in kinds or float in kinds:
        with suppress(ValueError):
            number = int(text) if int in kinds else float(text)
            value = number if math.isfinite(number) else text
    return check(name, value, hint)


def as_whole(name: str, value: object, least: int = 0) -> int:
    """Return an argument that is a whole number, NumPy's or Python's.

    Raises:
        InputError: It is none, or below `least`.
    """
    whole: int = check(name, value, int)
    if whole < least:
        raise InputError(f"{name} is {whole}: give {least} or more")
    return whole


def expected(hint: Any) -> str:
    """Return what may be given, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is tuple and ... not in inner:
        return f"{len(inner)} values"
    if origin is tuple:
        return f"a list of {', '.join(get_args(inner[0])) or expected(inner[0])}"
    if origin is Literal:
        return f"one of {', '.join(inner)}"
    if origin in (Union, UnionType):
        return " or ".join(expected(one) for one in inner)
    return _KINDS.get(hint, "a table of names and values")


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which name was probably meant, or else which there are."""
    there = list(known)
    near = difflib.get_close_matches(name, there, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there are {', '.join(there)}" if there else "there is none"


def mapping(values: object, wrong: str) -> dict[str, Any]:
    """Return a mapping whose keys are text; nothing at all is an empty one.

    Raises:
        InputError: With the message `wrong`, for anything else.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise InputError(wrong)
    return {str(name): value for name, value in cast("Mapping[object, Any]", values).items()}


@cache
def declared(kind: type) -> dict[str, Any]:
    """Return the declared kinds of a dataclass's settings, by name."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _fits(value: object, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if origin is tuple:
        each = get_args(hint)[0]
        return isinstance(value, tuple | list) and all(_fits(one, each) for one in cast("list[Any]", value))
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    return isinstance(value, origin or hint)


def _meant(value: object, hint: Any) -> str:
    words = [one for kind in (hint, *get_args(hint)) for one in get_args(kind) if isinstance(one, str)]
    near = difflib.get_close_matches(value, words, n=1) if isinstance(value, str) else []
    return f" (did you mean {near[0]!r}?)" if near else ""
