"""Learned tokens between the blocks of a tower: where they stand, and in how many blocks."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.clip.model import Edit, Vision
from foveate.errors import InputError
from foveate.methods.prompts import noise
from foveate.types import ImageFeatures, Images, Tokens

PUBLISHED_BLOCKS = 12
"""Of either tower of ViT-B/16, for which depths are published."""

LearnedTokens = Float[Tensor, "learned channels"]
DeepTokens = Float[Tensor, "layers learned channels"]  # of the second block and of those behind it


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


def replacing(deeper: DeepTokens | None, start: int) -> Edit | None:
    """Return the edit that puts `deeper[k]` before block k + 2 (counted from 1), over what stood there.

    Args:
        deeper: Tokens of the second block and of those that follow it; None leaves all blocks alone.
        start: Their place in a row; negative counts from the end, -4 being the last four.
    """
    if deeper is None:
        return None

    def edit(layer: int, tokens: Tensor) -> Tensor:
        if not 1 <= layer <= len(deeper):
            return tokens
        return put(tokens, deeper[layer - 1], start if start >= 0 else tokens.shape[1] + start)

    return edit


def encode_prompted(
    vision: Vision, images: Images, first: LearnedTokens, deeper: DeepTokens | None
) -> ImageFeatures:
    """Return raw features `[1, B, D]` of a tower with learned tokens behind the patches.

    The first block's tokens have no position and pass `ln_pre`; before each further block its own take their
    place as they are. Blocks behind those with tokens of their own read what these made of the last ones.

    Args:
        vision: The image tower.
        images: Normalised pictures.
        first: Tokens of the first block.
        deeper: Tokens of the blocks that follow, if any.
    """
    tokens = vision.tokens(images)
    tokens = insert(tokens, first, tokens.shape[1])
    feature = vision.pool(vision.encode(tokens, replacing(deeper, -len(first)))[:, 0])
    return feature.to(torch.promote_types(feature.dtype, torch.float32))[None]


def deep_start(
    depth: int, tokens: int, width: int, *, generator: torch.Generator, like: Tensor
) -> nn.Parameter | None:
    """Return the start of the tokens of all blocks but the first, N(0, 0.02²), where `like` is.

    Args:
        depth: Blocks with learned tokens, the first included; with fewer than two there is nothing to learn.
        tokens: How many a block.
        width: Of the tower.
        generator: Of the random start.
        like: Where to put it.
    """
    if depth < 2:
        return None
    return nn.Parameter(noise(depth - 1, tokens, width, generator=generator, like=like))


def official_deep(tower: str, deeper: DeepTokens) -> list[str]:
    """Return the names of these tokens in checkpoints of the authors' code of IVLP, PromptSRC and VPT."""
    return [f"{tower}.transformer.resblocks.{k}.VPT_shallow" for k in range(1, len(deeper) + 1)]
