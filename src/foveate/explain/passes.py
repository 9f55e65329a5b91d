"""Forward passes of a method through the image tower, and the positions of patches among its tokens."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.errors import InputError
from foveate.types import Labels, Logits

Heat = Float[Tensor, "batch grid grid"]
"""Relevance of each patch: not negative, with sum 1 per picture, or 0 everywhere."""

TokenValues = Float[Tensor, "batch tokens *rest"]
PatchValues = Float[Tensor, "batch patches *rest"]


@dataclass(frozen=True)
class Gaze:
    """Heat maps, and the answers of the same passes.

    Attributes:
        heat: `[B, grid, grid]` heat maps.
        logits: `[B, C]` logits of the pictures.
        labels: `[B]` explained class of each picture.
    """

    heat: Heat
    logits: Logits
    labels: Labels


def first_patch(tokens: int, patches: int, own_first: int) -> int:
    """Return the index of the first patch among the tokens of a pass.

    Args:
        tokens: Number of tokens: class token, patches, and learned tokens.
        patches: Number of patches.
        own_first: Index of the first patch in the method's own passes (`Method.first_patch`).
    """
    return 1 if tokens == patches + 1 else own_first  # no learned tokens: unchanged CLIP, or an earlier block


def patches_of(values: TokenValues, patches: int, own_first: int) -> PatchValues:
    """Return the patches of one pass, without the class token and learned tokens.

    Args:
        values: Values of each token.
        patches: Number of patches.
        own_first: `Method.first_patch`.
    """
    first = first_patch(values.shape[1], patches, own_first)
    return values[:, first : first + patches]


def block_index(layer: int, blocks: int) -> int:
    """Return the index of a block, counted from 0.

    Args:
        layer: Index from 0, or from the end if negative: -1 is the last block.
        blocks: Number of blocks.

    Raises:
        InputError: The block does not exist.
    """
    if not -blocks <= layer < blocks:
        raise InputError(
            f"layer is {layer}: the image tower has {blocks} blocks, give {-blocks} to {blocks - 1}"
        )
    return layer % blocks


def as_heat(relevance: Float[Tensor, "batch patches"], grid: int) -> Heat:
    """Return relevance as a map: negative values become 0, the rest is normalised to sum 1."""
    positive = relevance.clamp_min(0)
    heat = positive / positive.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(positive.dtype).tiny)
    return heat.view(-1, grid, grid)
