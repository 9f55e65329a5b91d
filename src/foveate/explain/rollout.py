"""Attention rollout: the share of each patch in the class token of a vision transformer.

With A the attention of a block, averaged over its heads, R = Π_l (½ A_l + ½ I) ([0], Sec. 3). The map is
the class token's row of R and does not depend on a class. The shares of the class token itself and of
learned tokens are removed, and the rest is normalised to sum 1.

- [0]: Quantifying Attention Flow in Transformers, Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from foveate.explain.passes import Heat, as_heat, block_index, first_patch
from foveate.methods.base import Method
from foveate.methods.capabilities import first_patch as first_patch_of
from foveate.types import Branch, Features, Images, Tokens

Rows = Float[Tensor, "batch tokens sources"]
"""For each token, the shares of the class token, of each patch, and of the learned tokens."""


def attention_rollout(
    method: Method, images: Images, branch: Branch = "base", *, layer: int = -1, residual: float = 0.5
) -> Heat:
    """Return the share of each patch in the class token.

    A method may use the tower several times (FVG-PT: the backbone and CLIP): the map is the mean of all
    passes.

    Args:
        method: The method with its classes set.
        images: `[B, 3, S, S]` normalised pictures.
        branch: Label space of the class names; the passes depend on it.
        layer: Last block of the product, counted from 0, or from the end if negative.
        residual: Weight of the residual connection, in [0, 1].

    Returns:
        `[B, grid, grid]`.

    Raises:
        InputError: The block does not exist.
    """
    passes, _ = rolled_out(method, images, branch, layer=layer, residual=residual)
    return mean_share(passes, method.clip.vision.grid)


def mean_share(passes: Sequence[Tensor], grid: int) -> Heat:
    """Return the class token's share of each patch, the mean of all passes, as `[B, grid, grid]` maps."""
    shares = torch.stack([rows[:, 0, 1 : 1 + grid**2] for rows in passes])
    return as_heat(shares.mean(dim=0), grid)


def rolled_out(
    method: Method, images: Images, branch: Branch = "base", *, layer: int = -1, residual: float = 0.5
) -> tuple[list[Rows], Features]:
    """Return R of each pass through the tower, and the features; arguments as for `attention_rollout`.

    The columns of R are the class token, the patches, and in the last column all learned tokens
    together; each row sums to 1.
    """
    vision, tower = method.clip.vision, method.clip.config.vision
    trace = _Trace(vision.grid**2, first_patch_of(method), residual)
    handles: list[RemovableHandle] = []
    for index in range(block_index(layer, len(vision.blocks)) + 1):
        block = vision.blocks[index]
        attend = partial(trace.attend, tower.heads)
        handles.append(block.register_forward_pre_hook(partial(trace.enter, index)))
        handles.append(block.get_submodule("qkv").register_forward_hook(attend))
        handles.append(block.register_forward_hook(trace.leave))
    try:
        with torch.no_grad(), method.constant_text():
            features = method.features(images, branch)
    finally:
        for handle in handles:
            handle.remove()
    return trace.passes, features


def attention_of(qkv: Float[Tensor, "batch tokens three_width"], heads: int) -> Float[Tensor, "batch to by"]:
    """Return the attention from each token to each token, averaged over the heads.

    Args:
        qkv: Queries, keys and values of a block, concatenated.
        heads: Number of heads of the block.
    """
    rows, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k = (
        part.view(rows, tokens, heads, width // heads).transpose(1, 2).float()
        for part in qkv.split(width, dim=-1)[:2]
    )
    return (q @ k.mT * (width // heads) ** -0.5).softmax(dim=-1).mean(dim=1)


class _Trace:
    """Tracks the sources of tokens through the blocks, and replacements of tokens between blocks.

    Args:
        patches: Number of patches.
        own_first: `Method.first_patch`.
        residual: Weight of the residual connection.
    """

    def __init__(self, patches: int, own_first: int, residual: float):
        self.patches, self.own_first, self.residual = patches, own_first, residual
        self.passes: list[Rows] = []
        self._left = torch.empty(0)  # output of the last block

    def enter(self, index: int, _block: nn.Module, inputs: tuple[Tokens]) -> None:
        """Before a block: tokens that differ from the last block's output become new sources."""
        (tokens,) = inputs
        if index == 0:
            self.passes.append(self._sources(tokens))
            return
        previous, fresh = self.passes[-1], self._sources(tokens)
        unchanged = self._is_patch_or_class(tokens.shape[1])
        if tokens.shape[1] == previous.shape[1]:
            unchanged = unchanged | (tokens == self._left).all(dim=-1).all(dim=0)
            fresh[:, unchanged] = previous[:, unchanged]
        else:
            fresh[:, unchanged] = previous[:, self._is_patch_or_class(previous.shape[1])]
        self.passes[-1] = fresh

    def attend(self, heads: int, _linear: nn.Module, _inputs: object, qkv: Tensor) -> None:
        """In a block: mix each token's sources with those of the tokens it attends to."""
        rows = self.passes[-1]
        mixed = attention_of(qkv, heads) @ rows
        self.passes[-1] = self.residual * rows + (1 - self.residual) * mixed

    def leave(self, _block: nn.Module, _inputs: object, tokens: Tensor) -> None:
        """After a block: store its output, to detect tokens that are replaced later."""
        self._left = tokens

    def _is_patch_or_class(self, tokens: int) -> Tensor:
        first = first_patch(tokens, self.patches, self.own_first)
        mask = torch.zeros(tokens, dtype=torch.bool, device=self._left.device)
        mask[0] = mask[first : first + self.patches] = True
        return mask

    def _sources(self, tokens: Tensor) -> Rows:
        """Return rows of tokens whose only source is themselves."""
        source = torch.full((tokens.shape[1],), self.patches + 1)
        source[self._is_patch_or_class(len(source)).cpu()] = torch.arange(self.patches + 1)
        one_hot = F.one_hot(source, self.patches + 2).to(tokens.device, torch.float32)
        return one_hot.repeat(len(tokens), 1, 1)
