"""Learned tokens between the blocks of a tower: where they stand, and in how many blocks."""

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.clip.model import Edit
from foveate.errors import InputError
from foveate.types import Tokens

PUBLISHED_BLOCKS = 12
"""Of either tower of ViT-B/16, for which depths are published."""

LearnedTokens = Float[Tensor, "tokens width"]


def resolve_depth(given: int | None, blocks: int, published: int, setting: str, *, least: int = 1) -> int:
    """Return how many blocks, from the first on, get learned tokens.

    Args:
        given: The setting; None takes the published depth, and of a shallower tower the same share.
        blocks: Of the tower.
        published: The depth that the method's authors use with 12 blocks.
        setting: Its whole name, for messages: "promptsrc: text_depth".
        least: Smallest depth that makes sense.

    Raises:
        InputError: The tower has fewer blocks, or the depth is below the least.
    """
    if given is None:
        share = published * min(blocks, PUBLISHED_BLOCKS) / PUBLISHED_BLOCKS
        return max(least, round(share))
    if not least <= given <= blocks:
        raise InputError(f"{setting} is {given}, but the tower has {blocks} blocks: give {least} to {blocks}")
    return given


def put(tokens: Tokens, learned: LearnedTokens, start: int) -> Tokens:
    """Return the tokens of each row with `learned` in place of those from `start` on."""
    rows = learned.to(tokens.dtype).expand(len(tokens), -1, -1)
    return torch.cat([tokens[:, :start], rows, tokens[:, start + len(learned) :]], dim=1)


def insert(tokens: Tokens, learned: LearnedTokens, start: int) -> Float[Tensor, "rows grown width"]:
    """Return the tokens of each row with `learned` between those before `start` and the others."""
    rows = learned.to(tokens.dtype).expand(len(tokens), -1, -1)
    return torch.cat([tokens[:, :start], rows, tokens[:, start:]], dim=1)


def replacing(learned: Float[Tensor, "layers tokens width"], start: int) -> Edit:
    """Return the edit that puts `learned[k]` before block k + 2 (counted from 1), over what stood there.

    Args:
        learned: Tokens of the second block and of those that follow it.
        start: Their place in a row; negative counts from the end, -4 being the last four.
    """

    def edit(layer: int, tokens: Tensor) -> Tensor:
        if not 1 <= layer <= len(learned):
            return tokens
        return put(tokens, learned[layer - 1], start if start >= 0 else tokens.shape[1] + start)

    return edit
