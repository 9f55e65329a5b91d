"""Checks of settings: settings are dataclasses, and this module checks their names and types.

Settings from Python, YAML and the command line are mappings; `typed` reads them. `check_types` compares
a finished dataclass with its type annotations. Each error message is one line and lists the allowed
values. The `__post_init__` of a dataclass checks ranges.
"""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from foveate.errors import InputError

T = TypeVar("T")

LARGEST = 1 << 63
"""Exclusive upper bound of whole numbers: files and libraries hold no larger ones."""

ADDED = {"added": True}
"""Metadata of a field that was added to its dataclass later; see `deciding`."""

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "none"}


def typed(kind: type, values: object, title: str) -> dict[str, Any]:
    """Convert settings to the types that their dataclass declares.

    Lists become tuples and whole numbers become floats where the type requires it, because YAML and JSON
    have no tuples.

    Args:
        kind: The dataclass.
        values: Settings by name, some or all of them.
        title: Name of the settings in messages, e.g. "coop"; empty for options.

    Raises:
        InputError: A setting does not exist, or a value has the wrong type; the message lists what is
            allowed.
    """
    hints = declared(kind)
    settings = mapping(values, f"{title} is {values!r}: give its settings by name, as in {{name: value}}")
    prefix = f"{title}: " if title else ""
    for name in settings:
        if name not in hints:
            raise InputError(f"{title or 'this'} has no setting {name!r}; {nearest(name, hints)}")
    return {name: check(prefix + name, value, hints[name]) for name, value in settings.items()}


def check_types(config: Any, title: str | None = None) -> None:
    """Check that each setting has its declared type.

    Args:
        config: A dataclass, e.g. `CoOpConfig`.
        title: Name of the settings in messages; None takes the class name without "Config".

    Raises:
        InputError: A setting has the wrong type; the message says what is allowed.
    """
    kind = type(config)
    title = kind.__name__.removesuffix("Config").lower() if title is None else title
    prefix = f"{title}: " if title else ""
    for name, hint in declared(kind).items():
        check(prefix + name, getattr(config, name), hint)


def check(name: str, value: object, hint: Any) -> Any:
    """Convert a value to its declared type.

    Args:
        name: Name of the value in messages.
        value: Any value.
        hint: The declared type: a plain type, a `Literal`, a tuple of these, or a union with None.

    Raises:
        InputError: The value has the wrong type.
    """
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = cast("Any", value).item()
    if not _fits(value, hint):
        rejected, allowed = value, hint
        if get_origin(hint) is tuple and isinstance(value, tuple | list):
            allowed = get_args(hint)[0]
            rejected = next(item for item in cast("list[object]", value) if not _fits(item, allowed))
        raise InputError(
            f"{name} is {rejected!r}: give {expected(allowed)}{_spelling_hint(rejected, allowed)}"
        )
    kinds = members(hint)
    if isinstance(value, list):
        return (
            tuple(cast("list[object]", value)) if any(get_origin(kind) is tuple for kind in kinds) else value
        )
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds and int not in kinds:
        return float(value)
    return value


def deciding(config: Any) -> dict[str, Any]:
    """Return the settings that identify a run, by name.

    A field with the metadata `ADDED` is left out if it has its default value, so that runs from before the
    field existed keep their identity.

    Args:
        config: A dataclass, e.g. `FvgPtConfig`.
    """
    values = asdict(config)
    for field in fields(config):
        if field.metadata.get("added") and values[field.name] == field.default:
            del values[field.name]
    return values


def from_text(name: str, text: str, hint: Any) -> Any:
    """Convert a word from the command line to its declared type.

    Args:
        name: Name of the value in messages.
        text: The word; "none" and "null" are None if the type allows None.
        hint: The declared type, as for `check`.

    Raises:
        InputError: The word is no value of that type.
    """
    kinds = members(hint)
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


def as_dataclass(kind: type[T], values: object, where: str, *, ignore_unknown: bool = False) -> T:
    """Convert a table that a program wrote to a dataclass; each field gets its declared type.

    Args:
        kind: The dataclass.
        values: A table from JSON or YAML; lists stand for tuples, and tables for dataclasses, at any depth.
        where: Name of the table in messages; empty if the caller adds it.
        ignore_unknown: Whether to ignore unknown entries; otherwise they are refused.

    Raises:
        InputError: An entry is missing, unknown, or has the wrong type.
    """
    prefix = f"{where}: " if where else ""
    if not isinstance(values, Mapping):
        raise InputError(f"{prefix}is no table, but {_shown(values)}")
    table = cast("Mapping[object, object]", values)
    known = {field.name: field for field in fields(cast("Any", kind)) if field.init}
    unknown = next((name for name in table if name not in known), None)
    if unknown is not None and not ignore_unknown:
        raise InputError(f"{prefix}there is no {unknown!r}; there are {', '.join(known)}")
    hints = declared(kind)
    arguments: dict[str, Any] = {}
    for name, field in known.items():
        if name in table:
            if not _fits(table[name], hints[name], finite=False):
                raise InputError(f"{prefix}{name} is {_shown(table[name])}, which it cannot be")
            arguments[name] = _converted(table[name], hints[name])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{prefix}{name} is missing")
    return kind(**arguments)


def members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union of types; any other type is its only member."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _converted(value: Any, hint: Any) -> Any:
    """Convert a fitting JSON value to its declared type: lists become tuples."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _converted(value, next(member for member in inner if _fits(value, member, finite=False)))
    if origin in (tuple, list, Sequence):
        kinds = inner if origin is tuple and ... not in inner else (inner[0],) * len(value)
        items = [_converted(item, kind) for item, kind in zip(value, kinds, strict=True)]
        return tuple(items) if origin is tuple else items
    if origin in (dict, Mapping):
        return {name: _converted(item, inner[1]) for name, item in value.items()}
    if _is_table_for(value, hint):
        return as_dataclass(hint, value, "")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def as_whole(name: str, value: object, least: int = 0) -> int:
    """Return an argument as a Python int; NumPy integers are accepted.

    Raises:
        InputError: The argument is no whole number, or below `least`.
    """
    whole: int = check(name, value, int)
    if whole < least:
        raise InputError(f"{name} is {whole}: give {least} or more")
    return whole


def expected(hint: Any) -> str:
    """Describe the allowed values of a type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is tuple and ... not in inner:
        return f"{len(inner)} values"
    if origin is tuple:
        return f"a list of {', '.join(get_args(inner[0])) or expected(inner[0])}"
    if origin is Literal:
        return f"one of {', '.join(inner)}"
    if origin in (Union, UnionType):
        return " or ".join(expected(member) for member in inner)
    return _KINDS.get(hint, "a table of names and values")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint with the most similar name in any case, or else a list of all names."""
    names = list(known)
    by_key = {known_name.casefold(): known_name for known_name in names}
    matches = difflib.get_close_matches(name.casefold(), by_key, n=1)
    if matches:
        return f"did you mean {by_key[matches[0]]!r}?"
    return f"there are {', '.join(names)}" if names else "there is none"


def mapping(values: object, wrong: str) -> dict[str, Any]:
    """Return a mapping with string keys; None becomes an empty mapping.

    Raises:
        InputError: The value is something else; the message is `wrong`.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise InputError(wrong)
    return {str(name): value for name, value in cast("Mapping[object, Any]", values).items()}


@cache
def declared(kind: type) -> dict[str, Any]:
    """Return the declared types of a dataclass's fields, by name."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _fits(value: object, hint: Any, *, finite: bool = True) -> bool:
    """Return whether a value has a declared type; lists count as tuples, whole numbers as floats."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any or hint is object or _is_table_for(value, hint):
        return True
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin in (Union, UnionType):
        return any(_fits(value, member, finite=finite) for member in inner)
    if origin in (tuple, list, Sequence, dict, Mapping):
        return _fits_inside(value, origin, inner, finite)
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if hint is float:
        return isinstance(value, int | float) and (math.isfinite(value) or not finite)
    if hint is int:
        return isinstance(value, int) and abs(value) < LARGEST
    return isinstance(value, hint)


def _is_table_for(value: object, hint: Any) -> bool:
    """Return whether a value is a table for a dataclass; its fields are checked when it is read."""
    return is_dataclass(hint) and isinstance(value, Mapping)


def _fits_inside(value: object, origin: Any, inner: tuple[Any, ...], finite: bool) -> bool:
    """Return whether the items of a list or table have their declared types."""
    if origin in (dict, Mapping):
        table = cast("Mapping[object, object]", value) if isinstance(value, Mapping) else None
        pairs = (
            None
            if table is None
            else [pair for entry in table.items() for pair in zip(entry, inner, strict=True)]
        )
    else:
        items = cast("Sequence[object]", value) if isinstance(value, tuple | list) else None
        kinds = inner if origin is tuple and ... not in inner else (inner[0],) * len(items or ())
        pairs = None if items is None or len(items) != len(kinds) else list(zip(items, kinds, strict=True))
    return pairs is not None and all(_fits(member, kind, finite=finite) for member, kind in pairs)


def _spelling_hint(value: object, hint: Any) -> str:
    words = [word for kind in (hint, *get_args(hint)) for word in get_args(kind) if isinstance(word, str)]
    matches = difflib.get_close_matches(value, words, n=1) if isinstance(value, str) else []
    return f" (did you mean {matches[0]!r}?)" if matches else ""
