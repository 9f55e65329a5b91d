"""The selectors by name, and the one door to them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from foveate.select.cal import cal
from foveate.select.configs import configure
from foveate.select.forgetting import forgetting
from foveate.select.geometry import herding, k_center
from foveate.select.glister import glister
from foveate.select.gradients import grand
from foveate.select.pool import ClassFeatures, PoolFeatures
from foveate.select.submodular import craig, facility, graph_cut
from foveate.select.uncertainty import confidence, entropy, margin, uniform

Pick = Callable[[ClassFeatures, int, Any, torch.Generator], list[int]]
"""A class's pictures, how many of them, settings, and whatever is drawn, to places in the class."""


def _plain(pick: Callable[[ClassFeatures, int], list[int]]) -> Pick:
    def call(block: ClassFeatures, count: int, config: Any, generator: torch.Generator) -> list[int]:
        return pick(block, count)

    return call


def _set(pick: Callable[[ClassFeatures, int, Any], list[int]]) -> Pick:
    def call(block: ClassFeatures, count: int, config: Any, generator: torch.Generator) -> list[int]:
        return pick(block, count, config)

    return call


def _uniform(block: ClassFeatures, count: int, config: Any, generator: torch.Generator) -> list[int]:
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
    seen: PoolFeatures,
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
