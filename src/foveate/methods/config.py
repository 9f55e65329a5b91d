"""Settings of a method: what each settings dataclass is, and whether given values are of its types."""

import difflib
import math
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, cast, get_args, get_origin, get_type_hints

from foveate.errors import InputError

_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", NoneType: "None"}


@dataclass(frozen=True)
class MethodConfig:
    """Settings of a method: a frozen dataclass, every field with a default and a line in `Attributes`.

    A subclass that checks more calls `super().__post_init__()` first.

    Attributes:
        part: What messages call the method; by default the class name without "Config", in lower case.
    """

    part: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        cls.part = vars(cls).get("part") or cls.__name__.removesuffix("Config").lower()

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def needs_masks(self) -> bool:
        """Whether a method with these settings learns from foreground masks."""
        return False

    @property
    def needs_val(self) -> bool:
        """Whether it chooses others on a few validation pictures."""
        return False

    @property
    def without_new_names(self) -> str | None:
        """The setting that leaves nothing for classes that were not trained on, if there is one."""
        return None

    def demand(self, **demands: tuple[bool, str]) -> None:
        """Refuse settings that are out of their range.

        Args:
            demands: By setting, whether its value is in range, and what to give instead.

        Raises:
            InputError: The first that is not; it names the method, the setting, the value and the remedy.
        """
        for name, (holds, wanted) in demands.items():
            if not holds:
                raise InputError(f"{self.part}: {name} is {getattr(self, name)}: give {wanted}")


def check_choices(config: Any) -> None:
    """Refuse a setting that is not of its declared type.

    Args:
        config: A settings dataclass; messages begin with its `part`, or its class name without "Config".

    Raises:
        InputError: The first such setting, and what there is instead.
    """
    kind = type(config)
    hints = get_type_hints(kind)
    part = getattr(kind, "part", kind.__name__.removesuffix("Config").lower())
    for field in fields(config):
        _check(part, field.name, getattr(config, field.name), hints)


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse an argument that is none of a `Literal`'s words.

    Raises:
        InputError: It names the argument and the words.
    """
    if not _fits(value, choices):
        raise InputError(f"{name} is {value!r}; {_wanted(choices, value)}")


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
        return isinstance(value, int) and not isinstance(value, bool)
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
    return f"give {_WORDS[hint]}"


def _known(hint: Any) -> str:
    return ", ".join(get_args(hint))
