"""FALIP: a region of a test picture, given by a mask, re-weights what the class token attends to.

N patches in a grid; the region is the H' × W' rectangle of patches around the mask, and (y, x) a place in it.
A is the logit of the class token's attention to each token, QKᵀ/√d, in one of the last blocks. The numbers
of the equations are ours.

    (1)  R(y, x) = exp(−((y − (H' − 1)/2)² + (x − (W' − 1)/2)²) / 2σ²)
    (2)  M = α (R − min R + ε) / (max R − min R + ε) in the region, 0 elsewhere and for other tokens
    (3)  attention of the class token = softmax(A + M) V

No pixel changes, and nothing is learned. An empty mask, or none, gives M = 0 and the host's logits.

- [0]: FALIP: Visual Prompt as Foveal Attention Boosts CLIP Zero-Shot Performance, Zhuang et al. 2024,
  https://arxiv.org/abs/2407.05578
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.model import Block
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.capabilities import RegionEncoder, first_patch
from foveate.methods.configs import FalipConfig
from foveate.methods.frozen import boxes_around
from foveate.methods.known import exact
from foveate.types import ImageFeatures, Images, Masks

Bias = Float[Tensor, "batch tokens"]  # added to the logits of the class token's attention
PatchBias = Float[Tensor, "batch grid grid"]

PUBLISHED_BLOCKS = 4
"""Number of blocks that the authors' code changes: the last 4 of the 12 of ViT-B/16."""

_LEAST = 1e-6  # ε of Eq. 2: a region of one patch has max R = min R


class Falip(RegionEncoder):
    """Foveal attention over a tuned host, or over CLIP itself; it has no tensors of its own.

    Args:
        host: A tuned method; its image tower's attention is re-weighted, its texts do not change.
        config: Settings.
        generator: Not used: nothing is random.

    Attributes:
        blocks: Number of blocks that it changes, the last ones.

    Raises:
        InputError: A setting is out of range, or the tower has fewer blocks.
    """

    name, title, config_type = "falip", "FALIP", FalipConfig

    def __init__(
        self, host: Method, config: FalipConfig | None = None, generator: torch.Generator | None = None
    ):
        super().__init__(host)
        self.config = config or FalipConfig()
        depth = len(self.clip.vision.blocks)
        self.blocks = min(PUBLISHED_BLOCKS, depth) if self.config.blocks is None else self.config.blocks
        if self.blocks > depth:
            raise InputError(
                f"falip: blocks is {self.blocks}, but the image tower has {depth}: give {depth} at most"
            )

    def encode_region(self, images: Images, masks: Masks) -> ImageFeatures:
        """Return `[H, B, D]` raw features with the re-weighted attention (Eq. 3); see `RegionEncoder`."""
        patches = patch_bias(masks, self.clip.config.patch_size, self.config)
        if not patches.any():
            return self.encode_images(images)
        blocks = self.clip.vision.blocks[-self.blocks :]
        with biased_attention(cast("Iterable[Block]", blocks), patches, first_patch(self.host)):
            return self.encode_images(images)


def patch_bias(masks: Masks, patch: int, config: FalipConfig) -> PatchBias:
    """Return M (Eq. 1 and 2) of each patch, by row and column.

    Args:
        masks: 1 in the region; a patch belongs to the region if any of its pixels does.
        patch: Side of a patch, in pixels.
        config: α, σ, and whether the region is the whole rectangle or the masked patches in it.
    """
    # In float64: if σ is much larger than the region, R is nearly flat, and float32 too coarse for Eq. 2.
    inside = exact(F.max_pool2d((masks > 0).float(), patch))
    box = boxes_around(inside)[:, 0] > 0
    grid = torch.arange(box.shape[1], device=inside.device, dtype=inside.dtype)
    down = (grid - _middle(box.any(2), grid)[:, None]).square()
    across = (grid - _middle(box.any(1), grid)[:, None]).square()
    fovea = torch.exp(-(down[:, :, None] + across[:, None, :]) / (2 * config.sigma**2))
    low = fovea.masked_fill(~box, torch.inf).amin((1, 2), keepdim=True)
    high = fovea.masked_fill(~box, -torch.inf).amax((1, 2), keepdim=True)
    normalised = config.strength * (fovea - low + _LEAST) / (high - low + _LEAST)
    region = box if config.region == "box" else box & (inside[:, 0] > 0)
    return torch.where(region, normalised, 0.0).float().to(masks.device)


def _middle(inside: Bool[Tensor, "batch grid"], grid: Float[Tensor, " grid"]) -> Float[Tensor, " batch"]:
    """Return the mean index of the true entries of each row; 0 if there are none."""
    return (inside * grid).sum(1) / inside.sum(1).clamp_min(1)


@contextmanager
def biased_attention(blocks: Iterable[Block], patches: PatchBias, first: int) -> Generator[None]:
    """Inside, add a bias to the class token's attention to patches in these blocks.

    The pictures pass through the blocks in the order of the rows of `patches`, all at once or some at a time.

    Args:
        blocks: Blocks of an image tower. Blocks that share their `qkv` and `proj` are changed too.
        patches: M.
        first: Index of the first patch, if there are learned tokens.
    """
    handles = []
    for block in blocks:
        reweighting = _Reweighting(block.heads, patches.flatten(1), first)
        handles.append(block.qkv.register_forward_hook(reweighting.keep))
        handles.append(block.proj.register_forward_pre_hook(reweighting.replace))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Reweighting:
    """Computes the class token's attention of one block again, with the bias.

    Args:
        heads: Number of heads of the block.
        patches: `[B, N]` M of all pictures.
        first: Index of the first patch, if there are learned tokens.
    """

    def __init__(self, heads: int, patches: Bias, first: int):
        self.heads, self.patches, self.first = heads, patches, first
        self.done = 0  # pictures that have passed
        self.qkv: Tensor | None = None

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...], qkv: Tensor) -> None:
        """Store queries, keys and values `[B, tokens, 3 width]` of the current pictures."""
        self.qkv = qkv

    def replace(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Return the gathered values `[B, kept, width]` with the class token's, the first row, replaced."""
        assert self.qkv is not None
        (gathered,), qkv, self.qkv = inputs, self.qkv, None
        bias = self._next(qkv)
        row = class_row(qkv, bias, self.heads)
        empty = ~bias.any(1)[:, None, None]  # these pictures keep their features bit for bit
        return (torch.cat([torch.where(empty, gathered[:, :1], row), gathered[:, 1:]], dim=1),)

    def _next(self, qkv: Tensor) -> Bias:
        """Return the bias of the current pictures, over all tokens."""
        rows, tokens = qkv.shape[:2]
        patches = self.patches[self.done : self.done + rows].to(qkv.dtype)
        self.done = (self.done + rows) % len(self.patches)  # a host may encode all of them again
        first = 1 if tokens == patches.shape[1] + 1 else self.first  # no learned tokens, or not yet
        return F.pad(patches, (first, tokens - first - patches.shape[1]))


def class_row(
    qkv: Float[Tensor, "batch tokens three_width"], bias: Bias, heads: int
) -> Float[Tensor, "batch 1 width"]:
    """Return softmax(A + M) V of the class token (Eq. 3), with concatenated heads."""
    rows, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.view(rows, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    gathered = F.scaled_dot_product_attention(q[:, :, :1], k, v, attn_mask=bias[:, None, None, :])
    return gathered.transpose(1, 2).flatten(2)
