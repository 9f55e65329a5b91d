"""The methods and settings that are tried, as the methods themselves declare them (`Method.auto`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.capabilities import walk
from foveate.methods.config import Tried
from foveate.methods.registry import backbones, build, parts, plugins
from foveate.train.config import RunConfig


@dataclass(frozen=True)
class Candidate:
    """A method with settings.

    Attributes:
        method: E.g. "fvgpt+coop".
        settings: Changes to the default settings of each part.
    """

    method: str
    settings: Mapping[str, Mapping[str, Any]]

    @property
    def title(self) -> str:
        """Its name in tables: "tip_adapter, alpha 5"."""
        own = [f"{name} {value:g}" for part in self.settings.values() for name, value in part.items()]
        return ", ".join([self.method, *own])

    def config(self, wish: RunConfig) -> RunConfig:
        """Return the run that trains it, of a run whose method is to be chosen."""
        return replace(wish, method=self.method, settings=self.settings, minutes=None)


def backbones_to_try() -> list[Candidate]:
    """Return backbones with settings, the cheap ones first."""
    return [
        Candidate(name, {name: dict(one)} if one else {})
        for name, how in _declared(backbones())
        for one in how.settings
    ]


def plugins_to_try(hosts: Sequence[Candidate]) -> list[Candidate]:
    """Return plug-ins with settings, the cheap ones first, each over the first host that it accepts.

    Args:
        hosts: Backbones, the best first.
    """
    found: list[Candidate] = []
    for name, how in _declared(plugins()):
        host = next((one for one in hosts if _accepts(name, one.method)), None)
        if host is None:
            continue
        for one in how.settings:
            own = {name: dict(one)} if one else {}
            found.append(Candidate(f"{name}+{host.method}", {**host.settings, **own}))
    return found


def reason_against(candidate: Candidate, wish: RunConfig, clip: Clip, *, masks: bool) -> str | None:
    """Return why a candidate cannot be tried; None if it can.

    Args:
        candidate: The candidate.
        wish: The run whose method is to be chosen.
        clip: The towers.
        masks: Whether there are masks.
    """
    if candidate.config(wish).needs_masks and not masks:
        return "it learns from foreground masks, and there are none (--masks)"
    built = build(candidate.method, clip, candidate.settings, wish.seed)
    if any(part.tunes_vision for part in walk(built)):
        return "it tunes the image tower, so no features can be kept"
    return None


def _declared(kinds: Mapping[str, Any]) -> list[tuple[str, Tried]]:
    """Return what the classes themselves declare; a subclass does not inherit it."""
    found = [(name, vars(kind).get("auto")) for name, kind in kinds.items()]
    return sorted(((name, how) for name, how in found if how is not None), key=lambda one: one[1].rank)


def _accepts(plugin: str, host: str) -> bool:
    try:
        parts(f"{plugin}+{host}")
    except InputError:
        return False
    return True
