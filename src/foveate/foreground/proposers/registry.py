"""Proposers by name. Each is imported when it is asked for: their libraries are extras, and heavy."""

import difflib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from foveate.errors import InputError
from foveate.foreground.proposers.base import Proposer

PROPOSERS = {
    "clip-self": "clip_self:ClipSelf",
    "classical": "classical:Classical",
    "u2net": "u2net:U2Net",
    "clipseg": "clipseg:ClipSeg",
    "gdino-sam2": "gdino_sam2:GroundedSam",
    "sam3": "sam3:Sam3",
    "seem": "seem:Seem",
}

LARGEST = 10_000
"""Of a setting that is a whole number: regions, points, pixels of a side."""


def open_proposer(name: str, **settings: Any) -> Proposer:
    """Return a proposer.

    Args:
        name: One of `PROPOSERS`.
        settings: Its own, by name; those that its class does not take are refused.

    Raises:
        InputError: There is none of this name; what it needs is not installed or not there.
    """
    for setting, value in settings.items():
        if isinstance(value, int) and value > LARGEST:
            raise InputError(f"{name}: {setting} is {value}; give at most {LARGEST:,}")
    return proposer_class(name)(**settings)


def proposer_class(name: str) -> Callable[..., Proposer]:
    """Return a proposer's class.

    Raises:
        InputError: There is none of this name.
    """
    if name not in PROPOSERS:
        near = difflib.get_close_matches(name, PROPOSERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(PROPOSERS)}"
        raise InputError(f"there is no proposer {name!r}; {hint}")
    module, _, kind = PROPOSERS[name].partition(":")
    return getattr(import_module(f"foveate.foreground.proposers.{module}"), kind)


def demand(extra: str, what: str, *modules: str) -> None:
    """Check that an extra is installed, before anything of it is imported.

    Args:
        extra: Its name in our package.
        what: Who asks, for the message.
        modules: Top-level modules it brings.

    Raises:
        InputError: It is not; says what to type.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise InputError(
            f"{what} needs {', '.join(missing)}, which is not installed: pip install 'foveate[{extra}]'"
        )
