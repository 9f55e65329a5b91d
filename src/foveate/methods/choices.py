"""Whether settings given from Python are what their dataclass says; the command line's parser asks before."""

import difflib
import math
import operator
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, SupportsIndex, Union, cast, get_args, get_origin, get_type_hints

from foveate.errors import InputError

LARGEST = 100_000
"""Of a setting that is a whole number: tokens, widths, steps. What is larger would fill any memory."""

_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", NoneType: "None"}


def check_choices(config: Any) -> None:
    """Refuse a setting that is not of its declared type.

    Args:
        config: A settings dataclass, e.g. `CoOpConfig`; the part's name is its class name without "Config".

    Raises:
        InputError: The first such setting, and what there is instead.
    """
    kind = type(config)
    hints = get_type_hints(kind)
    for field in fields(config):
        _check(kind.__name__.removesuffix("Config").lower(), field.name, getattr(config, field.name), hints)


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse an argument that is none of a `Literal`'s words.

    Raises:
        InputError: It names the argument and the words.
    """
    if not _fits(value, choices):
        raise InputError(f"{name} is {value!r}; {_wanted(choices, value)}")


def as_whole(name: str, value: object, least: int = 0) -> int:
    """Return an argument that is a whole number, NumPy's or Python's.

    Raises:
        InputError: It is none, or below `least`.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(f"{name} is {value!r}; it must be a whole number")
    whole = operator.index(cast("SupportsIndex", value))
    if whole < least:
        raise InputError(f"{name} is {whole}; it must be at least {least}")
    if whole >= 1 << 63:
        raise InputError(f"{name} is {whole}; it must be below 2^63")
    return whole


def _check(part: str, name: str, value: object, hints: dict[str, Any]) -> None:
    hint = hints[name]
    if _fits(value, hint):
        return
    told = value
    if get_origin(hint) is tuple and isinstance(value, tuple | list):
        hint = get_args(hint)[0]
        told = next(one for one in cast("list[object]", value) if not _fits(one, hint))
    raise InputError(f"{part}: {name} is {told!r}; {_wanted(hint, told)}")


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
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST
    return isinstance(value, hint)


def _wanted(hint: Any, given: object) -> str:
    origin = get_origin(hint)
    if origin is tuple:
        return f"give a list of {_known(get_args(hint)[0])}"
    if origin is Literal:
        near = difflib.get_close_matches(given, get_args(hint), n=1) if isinstance(given, str) else []
        return f"there are {_known(hint)}" + (f" (did you mean {near[0]!r}?)" if near else "")
    if origin in (Union, UnionType):
        return "give " + " or ".join(_WORDS[one] for one in get_args(hint))
    if hint is int and isinstance(given, int) and not isinstance(given, bool):
        return f"give a whole number up to {LARGEST:,}"
    return f"give {_WORDS[hint]}"


def _known(hint: Any) -> str:
    return ", ".join(get_args(hint))
