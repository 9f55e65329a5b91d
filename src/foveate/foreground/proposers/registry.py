"""Creates proposers by name. Each is imported only when needed, because its libraries are large extras."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from foveate.configs import nearest
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
"""Maximum of integer settings: regions, points, pixels of a side."""


def open_proposer(name: str, **settings: Any) -> Proposer:
    """Create a proposer.

    Args:
        name: One of `PROPOSERS`.
        settings: Settings of the proposer, by name; unknown ones are refused.

    Raises:
        InputError: The name is unknown; a requirement is not installed or does not exist.
    """
    for setting, value in settings.items():
        if isinstance(value, int) and value > LARGEST:
            raise InputError(f"{name}: {setting} is {value}; give at most {LARGEST:,}")
    return proposer_class(name)(**settings)


def proposer_class(name: str) -> Callable[..., Proposer]:
    """Return a proposer's class.

    Raises:
        InputError: The name is unknown.
    """
    if name not in PROPOSERS:
        raise InputError(f"there is no proposer {name!r}; {nearest(name, PROPOSERS)}")
    module, _, class_name = PROPOSERS[name].partition(":")
    return getattr(import_module(f"foveate.foreground.proposers.{module}"), class_name)


def demand(extra: str, what: str, *modules: str) -> None:
    """Check that an extra is installed, before any of its modules is imported.

    Args:
        extra: Name of the extra of foveate.
        what: What needs it, for the message.
        modules: Top-level modules of the extra.

    Raises:
        InputError: The extra is not installed; the message gives the command.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise InputError(
            f"{what} needs {', '.join(missing)}, which is not installed: pip install 'foveate[{extra}]'"
        )
