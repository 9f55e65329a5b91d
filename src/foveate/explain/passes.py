"""A method's passes through the image tower, and where the patches are among its tokens."""

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.errors import InputError

Heat = Float[Tensor, "batch grid grid"]
"""How much each patch counts: not negative, summing to 1 over a picture, or 0 everywhere."""

TokenValues = Float[Tensor, "batch tokens *rest"]
PatchValues = Float[Tensor, "batch patches *rest"]


def first_patch(tokens: int, patches: int, own: int) -> int:
    """Return where the patches begin among the tokens of a pass.

    Args:
        tokens: How many tokens there are: class token, patches, and those that the method has put among them.
        patches: How many of them are patches.
        own: Where patches begin in the method's own passes (`Method.first_patch`).
    """
    return 1 if tokens == patches + 1 else own  # none were put: untouched CLIP, or a block before they are


def patches_of(values: TokenValues, patches: int, own: int) -> PatchValues:
    """Cut the patches out of one pass; the class token and learned tokens are left out.

    Args:
        values: Something of each token.
        patches: How many patches there are.
        own: `Method.first_patch`.
    """
    first = first_patch(values.shape[1], patches, own)
    return values[:, first : first + patches]


def block_index(layer: int, blocks: int) -> int:
    """Return a block's place, counted from 0, of a tower with so many blocks.

    Args:
        layer: From 0 on, or from the end: -1 is the last.
        blocks: How many there are.

    Raises:
        InputError: There is no such block.
    """
    if not -blocks <= layer < blocks:
        raise InputError(
            f"layer is {layer}: the image tower has {blocks} blocks, give {-blocks} to {blocks - 1}"
        )
    return layer % blocks


def as_heat(relevance: Float[Tensor, "batch patches"], grid: int) -> Heat:
    """Return relevance of patches as a map: what is negative is 0, the rest sums to 1."""
    positive = relevance.clamp_min(0)
    heat = positive / positive.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(positive.dtype).tiny)
    return heat.view(-1, grid, grid)
