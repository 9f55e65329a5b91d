"""Patch features in the text space, from CLIP's image tower.

The last block computes the feature of the class token. Its patch features are not useful, because CLIP's
training does not constrain them. With unchanged weights, two changes help: each patch attends to similar
and near patches, and the residual stream and the MLP are left out.

- MaskCLIP, the first patch features: Zhou et al. 2022, https://arxiv.org/abs/2112.01071
- NACLIP, attention of keys to keys with a Gaussian: Hajimiri et al. 2024, https://arxiv.org/abs/2404.08181
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.model import Block, Split, Vision, blocks_of
from foveate.types import Images, Tokens

Attention = Float[Tensor, "batch tokens tokens"]

GAUSSIAN = 5.0
"""Standard deviation of NACLIP's Gaussian, in patches."""


@dataclass(frozen=True)
class PatchTokens:
    """Tokens of pictures in the image tower, before its last block.

    Attributes:
        tokens: `[B, 1 + rows * columns, width]`: the class token, then the patches in row-major order.
        rows: Number of rows of patches.
        columns: Number of columns of patches.
        attention: Mean attention over the heads of the last blocks, including the very last; None if not
            requested. Each row holds the weights of one token and sums to 1.
    """

    tokens: Tokens
    rows: int
    columns: int
    attention: Attention | None = None


def positions(vision: Vision, rows: int, columns: int) -> Float[Tensor, "tokens width"]:
    """Return position embeddings for a grid of any size: the learned ones, interpolated bicubically.

    The embedding of the class token is unchanged; at the tower's own grid, all are unchanged.
    """
    if (rows, columns) == (vision.grid, vision.grid):
        return vision.pos
    learned = vision.pos[1:].float().T.reshape(1, -1, vision.grid, vision.grid)
    resized = F.interpolate(learned, size=(rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([vision.pos[:1], resized[0].flatten(1).T.to(vision.pos.dtype)])


@torch.no_grad()
def look(vision: Vision, images: Images, layers: int = 0) -> PatchTokens:
    """Run all blocks except the last on pictures of any size, without gradients.

    Args:
        vision: The tower.
        images: Normalised pictures; pixels beyond a whole number of patches are ignored.
        layers: Number of last blocks whose attention is averaged (all blocks, if there are fewer); 0
            computes no attention.
    """
    patches = vision.patches(images.to(vision.patches.weight.dtype))
    rows, columns = patches.shape[-2:]
    flat = patches.flatten(2).transpose(1, 2)
    tokens = torch.cat([vision.cls.expand(len(flat), 1, -1), flat], dim=1)
    x = vision.ln_pre(tokens + positions(vision, rows, columns))
    first_layer, attentions = len(vision.blocks) - layers, list[Tensor]()
    for layer, block in enumerate(blocks_of(vision)):
        if layer >= first_layer:
            attentions.append(attention_of(block, x))
        if layer + 1 < len(vision.blocks):
            x = block(x)
    return PatchTokens(x, rows, columns, torch.stack(attentions).mean(0) if attentions else None)


def attention_of(block: Block, x: Tokens) -> Attention:
    """Return the attention weights of a block in float32, averaged over its heads."""
    q, k, _ = block.split(block.qkv(block.ln_1(x)))
    return _weights(q, k).mean(dim=1)


@torch.no_grad()
def patch_features(
    vision: Vision, patches: PatchTokens, gaussian: float = GAUSSIAN
) -> Float[Tensor, "batch patches dim"]:
    """Return a feature of each patch, of norm 1, for comparison with texts; no gradients.

    In the last block, each head computes A = softmax(k kᵀ / √d + G). G is exp(-distance² / 2 gaussian²)
    between patches and 0 at the class token. The output is only `proj(A v)`, without the residual stream
    and the MLP (NACLIP's reduced block).

    Args:
        vision: The tower.
        patches: Result of `look`.
        gaussian: Standard deviation in patches; 0 leaves the Gaussian out.
    """
    block = last_block(vision)
    _, k, v = block.split(block.qkv(block.ln_1(patches.tokens)))
    bias = neighbourhood(patches.rows, patches.columns, gaussian).to(v.device) if gaussian else None
    gathered = (_weights(k, k, bias).to(v.dtype) @ v)[:, :, 1:]  # patches only
    features = vision.pool(block.proj(gathered.transpose(1, 2).flatten(2)))
    return F.normalize(features.float(), dim=-1)


def class_feature(
    vision: Vision, patches: PatchTokens, normed: Tokens | None = None
) -> Float[Tensor, "batch dim"]:
    """Return the image feature as the tower computes it: the last block, then the class token.

    Args:
        vision: The tower.
        patches: Result of `look`.
        normed: Output of the last block's `ln_1`, if a gradient with respect to it is needed.
    """
    block = last_block(vision)
    gathered = block.attend(block.ln_1(patches.tokens) if normed is None else normed)
    return vision.pool(block.feed(patches.tokens[:, 0] + gathered[:, 0]))


def neighbourhood(rows: int, columns: int, deviation: float) -> Float[Tensor, "tokens tokens"]:
    """Return a Gaussian of the distance between patches, in patches; 0 at the class token, which is first."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    coordinates = torch.stack([y, x], dim=-1).flatten(0, 1).float()
    squared = (coordinates[:, None] - coordinates[None]).square().sum(-1)
    return F.pad(torch.exp(-squared / (2 * deviation**2)), (1, 0, 1, 0))


def last_block(vision: Vision) -> Block:
    """Return the tower's last block."""
    return list(blocks_of(vision))[-1]


def _weights(
    q: Split, k: Split, bias: Float[Tensor, "tokens tokens"] | None = None
) -> Float[Tensor, "batch heads tokens tokens"]:
    # In float32: products of a key with itself are large, and half precision would lose the smaller
    # ones.
    scores = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
    return (scores if bias is None else scores + bias).softmax(dim=-1)
