"""Towers whose blocks are changed inside: everything else they share with CLIP's own, which stays as it is.

Learned tokens go between blocks, and an edit brings them there. What is learned within a block (MMA's
adapters, low-rank updates of its weights) needs another block. It is made of the old one's parts, which costs
nothing: no tensor is copied, and what is moved, replaced or watched in the one is so in the other.
"""

from collections.abc import Callable
from typing import TypeVar, cast

from torch import nn

from foveate.clip.model import Block, Text, Vision

Tower = TypeVar("Tower", Text, Vision)
Kind = TypeVar("Kind", bound=nn.Module)


def twin(module: nn.Module, kind: type[Kind]) -> Kind:
    """Return a module of another kind that shares tensors, children and hooks with this one.

    Args:
        module: It is left alone.
        kind: A subclass of its class; its own `__init__` is not called.
    """
    made = kind.__new__(kind)
    vars(made).update(vars(module))
    vars(made)["_modules"] = dict(vars(module)["_modules"])  # so that a child can be replaced in one of them
    return made


def with_blocks(tower: Tower, change: Callable[[int, Block], Block]) -> Tower:
    """Return a tower that differs in its blocks alone.

    Args:
        tower: It is left alone.
        change: Called with a block's number, counted from 0, and the block; returns what takes its place.
    """
    made = twin(tower, type(tower))
    blocks = [change(layer, cast("Block", block)) for layer, block in enumerate(tower.blocks)]
    made.blocks = nn.ModuleList(blocks)
    return made
