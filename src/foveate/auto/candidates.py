"""The methods and settings to try, as the methods themselves declare them (`Method.auto`)."""

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
        method: Method, e.g. "fvgpt+coop".
        settings: Changes to the default settings of each part.
    """

    method: str
    settings: Mapping[str, Mapping[str, Any]]

    @property
    def title(self) -> str:
        """Its name in tables: "tip_adapter, alpha 5"."""
        changes = [f"{name} {value:g}" for part in self.settings.values() for name, value in part.items()]
        return ", ".join([self.method, *changes])

    def config(self, wish: RunConfig) -> RunConfig:
        """Return the config that trains it, from the run whose method is to be chosen."""
        return replace(wish, method=self.method, settings=self.settings, minutes=None)


def backbones_to_try() -> list[Candidate]:
    """Return backbones with settings, the cheap ones first."""
    return [
        Candidate(name, {name: dict(settings)} if settings else {})
        for name, tried in _declared(backbones())
        for settings in tried.settings
    ]


def plugins_to_try(hosts: Sequence[Candidate]) -> list[Candidate]:
    """Return plug-ins with settings, the cheap ones first, each over the first host that it accepts.

    Args:
        hosts: Backbones, the best first.
    """
    candidates: list[Candidate] = []
    for name, tried in _declared(plugins()):
        host = next((candidate for candidate in hosts if _accepts(name, candidate.method)), None)
        if host is None:
            continue
        for settings in tried.settings:
            plugin_settings = {name: dict(settings)} if settings else {}
            candidates.append(Candidate(f"{name}+{host.method}", {**host.settings, **plugin_settings}))
    return candidates


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
    declared = [(name, vars(method_class).get("auto")) for name, method_class in kinds.items()]
    return sorted(
        ((name, tried) for name, tried in declared if tried is not None), key=lambda pair: pair[1].rank
    )


def _accepts(plugin: str, host: str) -> bool:
    try:
        parts(f"{plugin}+{host}")
    except InputError:
        return False
    return True
