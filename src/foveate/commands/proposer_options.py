"""Settings of proposers as options, read from the signatures and docstrings of their constructors."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import field, make_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_origin

from foveate.configs import members
from foveate.errors import InputError
from foveate.foreground.proposers.base import Proposer
from foveate.foreground.proposers.registry import PROPOSERS, proposer_class

COMMON = ("clip", "device")
"""Settings that are one option shared by all proposers."""

_PLAIN = (int, float, bool)


def part_of(proposer: str) -> str:
    """Return the prefix of a proposer's settings: "clip_self"."""
    return proposer.replace("-", "_")


def proposer_settings() -> dict[str, type]:
    """Return the settings of each proposer as a dataclass, by prefix.

    A required argument of a constructor has the default None there; `constructor_arguments` checks it.
    """
    return {part_of(name): _dataclass(name, proposer_class(name)) for name in PROPOSERS}


def constructor_arguments(
    proposer: str, settings: Mapping[str, Any], common: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a proposer's constructor.

    Args:
        proposer: Name of the proposer.
        settings: Settings of the proposer that the user gave.
        common: Options for all proposers; those that the constructor does not have are left out.

    Raises:
        InputError: The proposer does not exist, or a required setting is missing.
    """
    parameters = _parameters(proposer_class(proposer))
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and settings.get(name) is None and name not in common:
            raise InputError(
                f"{proposer} needs --{proposer}.{name.replace('_', '-')}: give it (see foveate masks --help)"
            )
    return {name: value for name, value in common.items() if name in parameters} | dict(settings)


def _dataclass(name: str, kind: Callable[..., Proposer]) -> type:
    fields: list[tuple[str, Any, Any]] = []
    for key, parameter in _parameters(kind).items():
        hint = _typed(parameter.annotation)
        if hint is None or key in COMMON:
            continue
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        value = str(default) if isinstance(default, Path) else default
        fields.append((key, hint | None if value is None else hint, field(default=value)))
    config_type = make_dataclass(kind.__name__, fields, frozen=True)
    config_type.__doc__ = f"Settings of {name}.\n\n{_arguments(kind)}"
    return config_type


def _parameters(kind: Callable[..., Proposer]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(kind).parameters.values()
    keyword_kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name: parameter for parameter in parameters if parameter.kind in keyword_kinds}


def _typed(hint: Any) -> Any:
    """Return the type that an option can have for a parameter: a path becomes text; None if there is none."""
    kinds = [kind for kind in members(hint) if kind is not NoneType]
    if Path in kinds or str in kinds:
        return str
    return next((kind for kind in kinds if kind in _PLAIN or get_origin(kind) in (Literal, tuple)), None)


def _arguments(kind: Callable[..., Proposer]) -> str:
    """Return the `Args` section of a docstring, of the constructor or the class."""
    for doc in (inspect.getdoc(getattr(kind, "__init__", None)), inspect.getdoc(kind)):
        match = re.search(r"^Args:$", doc or "", flags=re.M)
        if match:
            return (doc or "")[match.start() :]
    return ""
