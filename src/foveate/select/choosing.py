"""All selectors by name, and the function that runs them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from foveate.select.configs import configure
from foveate.select.pool import ClassFeatures, PoolFeatures, grand
from foveate.select.rules import (
    cal,
    confidence,
    craig,
    entropy,
    facility,
    forgetting,
    glister,
    graph_cut,
    herding,
    k_center,
    margin,
    uniform,
)

Pick = Callable[[ClassFeatures, int, Any, torch.Generator], list[int]]
"""Function from a class's pictures, a count, settings and a generator to indices in the class."""


def _plain(pick: Callable[[ClassFeatures, int], list[int]]) -> Pick:
    def call(block: ClassFeatures, count: int, config: Any, generator: torch.Generator) -> list[int]:
        return pick(block, count)

    return call


def _with_config(pick: Callable[[ClassFeatures, int, Any], list[int]]) -> Pick:
    def call(block: ClassFeatures, count: int, config: Any, generator: torch.Generator) -> list[int]:
        return pick(block, count, config)

    return call


def _uniform(block: ClassFeatures, count: int, config: Any, generator: torch.Generator) -> list[int]:
    return uniform(block, count, generator)


_PICKS: dict[str, Pick] = {
    "uniform": _uniform,
    "herding": _with_config(herding),
    "kcenter": _plain(k_center),
    "confidence": _plain(confidence),
    "entropy": _plain(entropy),
    "margin": _plain(margin),
    "grand": _plain(grand),
    "graphcut": _with_config(graph_cut),
    "facility": _plain(facility),
    "craig": _plain(craig),
    "glister": glister,
    "cal": _with_config(cal),
    "forgetting": _plain(forgetting),
}


def choose(
    name: str,
    pool: PoolFeatures,
    budget: Sequence[int],
    generator: torch.Generator,
    *,
    watch: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Int[Tensor, " chosen"]:
    """Choose pictures from a pool, class by class.

    The choice depends only on the pool, the budget, the settings and the generator. Among pictures that
    are equal for a selector, the first are chosen.

    Args:
        name: Name of the selector, e.g. "herding".
        pool: The pool.
        budget: Number of pictures for each class, in the order of the texts' rows.
        generator: Random generator: for all of "uniform", and for the held-out pictures of "glister".
        watch: Called with the number of finished classes and of all.
        settings: Changes to the selector's default settings, e.g. `deepcore=True`.

    Returns:
        Indices in the pool, in the order of the pool.

    Raises:
        InputError: The selector or a setting does not exist, or a required log is missing.
    """
    config = configure(name, settings)
    chosen: list[Tensor] = []
    for label, count in enumerate(budget):
        rows = pool.rows(label)
        if 0 < count < len(rows):
            rows = rows[_PICKS[name](pool.block(label), count, config, generator)]
        chosen.append(rows if count else rows[:0])
        if watch:
            watch(label + 1, len(budget))
    return torch.cat(chosen).sort().values
