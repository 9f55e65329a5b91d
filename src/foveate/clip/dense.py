"""A feature of each patch, in the space of texts: what CLIP's image tower sees where.

The class token's feature comes out of the last block; patches' own features there are of no use, because
nothing in CLIP's training asks for them. What helps, with weights as they are: let each patch attend to
patches like itself and near it, and leave out the residual stream and the perceptron.

- MaskCLIP, where features of patches began: Zhou et al. 2022, https://arxiv.org/abs/2112.01071
- NACLIP, attention of keys to keys with a Gaussian: Hajimiri et al. 2024, https://arxiv.org/abs/2404.08181
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.model import Block, Vision
from foveate.types import Images, Tokens

Attention = Float[Tensor, "batch tokens tokens"]
Split = Float[Tensor, "batch heads tokens part"]

GAUSSIAN = 5.0
"""Deviation of NACLIP's Gaussian, in patches."""


@dataclass(frozen=True)
class PatchTokens:
    """Pictures on their way through the image tower, before its last block.

    Attributes:
        tokens: `[B, 1 + rows * columns, width]`: the class token, then patches, row by row.
        rows: Patches from top to bottom.
        columns: Patches from left to right.
        attention: Mean over the heads of the last blocks, the very last among them; None if not asked for.
            A row is what one token attends to, and sums to 1.
    """

    tokens: Tokens
    rows: int
    columns: int
    attention: Attention | None = None


def positions(vision: Vision, rows: int, columns: int) -> Float[Tensor, "tokens width"]:
    """Return position vectors for a grid of any size: the learned ones, interpolated bicubically.

    The class token's stays as it is; so do all of them at the tower's own grid.
    """
    if (rows, columns) == (vision.grid, vision.grid):
        return vision.pos
    learned = vision.pos[1:].float().T.reshape(1, -1, vision.grid, vision.grid)
    grown = F.interpolate(learned, size=(rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([vision.pos[:1], grown[0].flatten(1).T.to(vision.pos.dtype)])


@torch.no_grad()
def look(vision: Vision, images: Images, layers: int = 0) -> PatchTokens:
    """Run all blocks but the last on pictures of any size; no gradient is kept.

    Args:
        vision: The tower.
        images: Normalised; pixels beyond a whole number of patches are not seen.
        layers: Average the attention of so many of the last blocks, or of all where there are fewer; with 0
            it is not computed.
    """
    patches = vision.patches(images.to(vision.patches.weight.dtype))
    rows, columns = patches.shape[-2:]
    flat = patches.flatten(2).transpose(1, 2)
    tokens = torch.cat([vision.cls.expand(len(flat), 1, -1), flat], dim=1)
    x = vision.ln_pre(tokens + positions(vision, rows, columns))
    watched, maps = len(vision.blocks) - layers, list[Tensor]()
    for number, block in enumerate(blocks(vision)):
        if number >= watched:
            maps.append(attention_of(block, x))
        if number + 1 < len(vision.blocks):
            x = block(x)
    return PatchTokens(x, rows, columns, torch.stack(maps).mean(0) if maps else None)


def attention_of(block: Block, x: Tokens) -> Attention:
    """Return what each token attends to in a block, in float32, as the mean over its heads."""
    q, k, _ = heads(block, block.ln_1(x))
    return _weights(q, k).mean(dim=1)


@torch.no_grad()
def patch_features(
    vision: Vision, seen: PatchTokens, gaussian: float = GAUSSIAN
) -> Float[Tensor, "batch patches dim"]:
    """Return a feature of each patch, of length 1, to be compared with texts; no gradient is kept.

    In the last block, A = softmax(k kᵀ / √d + G) in each head, where G is exp(-distance² / 2 gaussian²)
    between patches and 0 at the class token; the output is `proj(A v)` alone, without the residual stream
    and the perceptron (NACLIP's reduced block).

    Args:
        vision: The tower.
        seen: From `look`.
        gaussian: In patches; 0 leaves the Gaussian out.
    """
    block = last_block(vision)
    _, k, v = heads(block, block.ln_1(seen.tokens))
    near = neighbourhood(seen.rows, seen.columns, gaussian).to(v.device) if gaussian else None
    gathered = (_weights(k, k, near).to(v.dtype) @ v)[:, :, 1:]  # patches only
    features = vision.pool(block.proj(gathered.transpose(1, 2).flatten(2)))
    return F.normalize(features.float(), dim=-1)


def class_feature(
    vision: Vision, seen: PatchTokens, normed: Tokens | None = None
) -> Float[Tensor, "batch dim"]:
    """Return the picture's feature, as the tower itself does: the last block, then the class token.

    Args:
        vision: The tower.
        seen: From `look`.
        normed: What the last block's `ln_1` makes of the tokens, where a gradient with respect to it is
            wanted.
    """
    block = last_block(vision)
    gathered = block.attend(block.ln_1(seen.tokens) if normed is None else normed)
    return vision.pool(block.feed(seen.tokens[:, 0] + gathered[:, 0]))


def neighbourhood(rows: int, columns: int, deviation: float) -> Float[Tensor, "tokens tokens"]:
    """Return a Gaussian of the distance between patches, in patches; 0 at the class token, which is first."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([y, x], dim=-1).flatten(0, 1).float()
    squared = (places[:, None] - places[None]).square().sum(-1)
    return F.pad(torch.exp(-squared / (2 * deviation**2)), (1, 0, 1, 0))


def heads(block: Block, normed: Tokens) -> tuple[Split, Split, Split]:
    """Return a block's queries, keys and values, by head."""
    rows, tokens, width = normed.shape
    split = block.qkv(normed).view(rows, tokens, 3, block.heads, width // block.heads)
    q, k, v = split.permute(2, 0, 3, 1, 4)
    return q, k, v


def blocks(vision: Vision) -> Iterator[Block]:
    """Go through the tower's blocks."""
    for block in vision.blocks:
        assert isinstance(block, Block)
        yield block


def last_block(vision: Vision) -> Block:
    """Return the tower's last block."""
    return list(blocks(vision))[-1]


def _weights(
    q: Split, k: Split, extra: Float[Tensor, "tokens tokens"] | None = None
) -> Float[Tensor, "batch heads tokens tokens"]:
    # In float32: a key's product with itself is large, and half precision would round its neighbours off.
    scores = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
    return (scores if extra is None else scores + extra).softmax(dim=-1)
