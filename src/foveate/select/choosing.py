"""The selectors by name, and the one door to them."""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

import torch
from jaxtyping import Int
from torch import Tensor

from foveate.errors import InputError
from foveate.select.cal import CalConfig, cal
from foveate.select.forgetting import forgetting
from foveate.select.geometry import HerdingConfig, herding, k_center
from foveate.select.glister import GlisterConfig, glister
from foveate.select.gradients import grand
from foveate.select.seen import Block, Seen
from foveate.select.submodular import GraphCutConfig, craig, facility, graph_cut
from foveate.select.uncertainty import confidence, entropy, margin, uniform

Name = Literal[
    "uniform",
    "herding",
    "kcenter",
    "confidence",
    "entropy",
    "margin",
    "grand",
    "graphcut",
    "facility",
    "craig",
    "glister",
    "cal",
    "forgetting",
]
"""What `--select` takes."""

Pick = Callable[[Block, int, Any, torch.Generator], list[int]]
"""A class's pictures, how many of them, settings, and whatever is drawn, to places in the class."""

CONFIGS: dict[str, type] = {
    "herding": HerdingConfig,
    "graphcut": GraphCutConfig,
    "glister": GlisterConfig,
    "cal": CalConfig,
}
"""Settings of those selectors that have any."""


def _plain(pick: Callable[[Block, int], list[int]]) -> Pick:
    def call(block: Block, count: int, config: Any, generator: torch.Generator) -> list[int]:
        return pick(block, count)

    return call


def _set(pick: Callable[[Block, int, Any], list[int]]) -> Pick:
    def call(block: Block, count: int, config: Any, generator: torch.Generator) -> list[int]:
        return pick(block, count, config)

    return call


def _uniform(block: Block, count: int, config: Any, generator: torch.Generator) -> list[int]:
    return uniform(block, count, generator)


_PICKS: dict[str, Pick] = {
    "uniform": _uniform,
    "herding": _set(herding),
    "kcenter": _plain(k_center),
    "confidence": _plain(confidence),
    "entropy": _plain(entropy),
    "margin": _plain(margin),
    "grand": _plain(grand),
    "graphcut": _set(graph_cut),
    "facility": _plain(facility),
    "craig": _plain(craig),
    "glister": glister,
    "cal": _set(cal),
    "forgetting": _plain(forgetting),
}


def choose(
    name: str,
    seen: Seen,
    budget: Sequence[int],
    generator: torch.Generator,
    **settings: Any,
) -> Int[Tensor, " chosen"]:
    """Choose pictures of a pool, class by class.

    The choice depends on the pool, the budget, the settings and the generator alone; of pictures that are
    equal to a selector, the first are chosen.

    Args:
        name: Of the selector, e.g. "herding".
        seen: The pool.
        budget: How many pictures of each class, a number for each row of the texts.
        generator: Of what is drawn: all of "uniform", the held-out pictures of "glister".
        settings: What differs from the selector's defaults, e.g. `deepcore=True`.

    Returns:
        Places in the pool, in the order of the pool.

    Raises:
        InputError: No such selector or setting; a log that is needed and not there.
    """
    config = configure(name, settings)
    found: list[Tensor] = []
    for label, count in enumerate(budget):
        rows = seen.rows(label)
        if 0 < count < len(rows):
            rows = rows[_PICKS[name](seen.block(label), count, config, generator)]
        found.append(rows if count else rows[:0])
    return torch.cat(found).sort().values


@dataclass(frozen=True)
class NoSettings:
    """Of selectors that have none."""


def configure(name: str, settings: dict[str, Any]) -> Any:
    """Return the settings of a selector.

    Raises:
        InputError: No such selector or setting, or a value out of its range.
    """
    names = get_args(Name)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
        raise InputError(f"there is no selector {name!r}; {hint}")
    kind = CONFIGS.get(name, NoSettings)
    known = [field.name for field in fields(kind)]
    strange = next((one for one in settings if one not in known), None)
    if strange:
        there = f"it has {', '.join(known)}" if known else "it has none"
        raise InputError(f"{name} has no setting {strange!r}: {there}")
    hints = get_type_hints(kind)
    for one, value in settings.items():
        if not _fits(value, hints[one]):
            wanted = " or ".join(get_args(hints[one])) or _WANTED[hints[one]]
            raise InputError(f"{name}: {one} is {value!r}; give {wanted}")
    return kind(**settings)


_WANTED = {bool: "True or False", int: "a whole number", float: "a number"}


def _fits(value: object, hint: Any) -> bool:
    """Return whether a setting from Python is of its declared kind; the command line's parser asks before."""
    if get_args(hint):
        return value in get_args(hint)
    if hint is bool:
        return isinstance(value, bool)
    kinds = int if hint is int else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
