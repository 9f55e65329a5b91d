"""Attention rollout: from where a vision transformer's class token has gathered what it says.

With A the attention of a block, the mean over its heads, R = Π_l (½ A_l + ½ I) ([0], Sec. 3); the map is the
class token's row of R. It knows of no class. The shares of the class token itself and of learned tokens are
cut, and the rest sums to 1.

- [0]: Quantifying Attention Flow in Transformers, Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from foveate.explain.passes import Heat, as_heat, block_index, first_patch
from foveate.methods.base import Method
from foveate.methods.capabilities import first_patch as first_patch_of
from foveate.types import Branch, Images, Tokens

Rows = Float[Tensor, "batch tokens sources"]
"""Of each token, the share that comes from the class token, from each patch, and from learned tokens."""


def attention_rollout(
    method: Method, images: Images, branch: Branch = "base", *, layer: int = -1, residual: float = 0.5
) -> Heat:
    """Return what share of the class token comes from each patch.

    A method may ask the tower several times (FVG-PT's own answer and CLIP's): the map is their mean.

    Args:
        method: Its classes set.
        images: `[B, 3, S, S]` normalised pictures.
        branch: Which label space the classes are; decides which passes there are.
        layer: The last block that counts, from 0 on or from the end.
        residual: The share of a token that passes by the attention, in [0, 1].

    Returns:
        `[B, grid, grid]`.

    Raises:
        InputError: There is no such block.
    """
    vision = method.clip.vision
    patches = vision.grid**2
    passes = rolled_out(method, images, branch, layer=layer, residual=residual)
    seen = torch.stack([rows[:, 0, 1 : 1 + patches] for rows in passes])
    return as_heat(seen.mean(dim=0), vision.grid)


def rolled_out(
    method: Method, images: Images, branch: Branch = "base", *, layer: int = -1, residual: float = 0.5
) -> list[Rows]:
    """Return R of each pass through the tower; the arguments are those of `attention_rollout`.

    Its columns are the class token, the patches, and in the last one all learned tokens together; each row
    sums to 1.
    """
    vision, tower = method.clip.vision, method.clip.config.vision
    trace = _Trace(vision.grid**2, first_patch_of(method), residual)
    handles: list[RemovableHandle] = []
    for place in range(block_index(layer, len(vision.blocks)) + 1):
        block = vision.blocks[place]
        attended = partial(trace.attend, tower.heads)
        handles.append(block.register_forward_pre_hook(partial(trace.enter, place)))
        handles.append(block.get_submodule("qkv").register_forward_hook(attended))
        handles.append(block.register_forward_hook(trace.leave))
    try:
        with torch.no_grad(), method.constant_text():
            method.features(images, branch)
    finally:
        for handle in handles:
            handle.remove()
    return trace.passes


def attention_of(qkv: Float[Tensor, "batch tokens three_width"], heads: int) -> Float[Tensor, "batch to by"]:
    """Return how much each token attends to each, the mean over heads.

    Args:
        qkv: Queries, keys and values of a block, side by side.
        heads: Of the block.
    """
    rows, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k = (
        part.view(rows, tokens, heads, width // heads).transpose(1, 2).float()
        for part in qkv.split(width, dim=-1)[:2]
    )
    return (q @ k.mT * (width // heads) ** -0.5).softmax(dim=-1).mean(dim=1)


class _Trace:
    """Follows tokens through the blocks, and through what a method puts in their place between blocks.

    Args:
        patches: How many there are.
        own: `Method.first_patch`.
        residual: The share that passes by the attention.
    """

    def __init__(self, patches: int, own: int, residual: float):
        self.patches, self.own, self.residual = patches, own, residual
        self.passes: list[Rows] = []
        self._left = torch.empty(0)  # what the last block made

    def enter(self, place: int, _block: nn.Module, given: tuple[Tokens]) -> None:
        """Before a block: tokens that are not what the last block made of them are sources of their own."""
        (tokens,) = given
        if place == 0:
            self.passes.append(self._sources(tokens))
            return
        before, fresh = self.passes[-1], self._sources(tokens)
        kept = self._is_patch_or_class(tokens.shape[1])
        if tokens.shape[1] == before.shape[1]:
            kept = kept | (tokens == self._left).all(dim=-1).all(dim=0)
            fresh[:, kept] = before[:, kept]
        else:
            fresh[:, kept] = before[:, self._is_patch_or_class(before.shape[1])]
        self.passes[-1] = fresh

    def attend(self, heads: int, _linear: nn.Module, _given: object, qkv: Tensor) -> None:
        """Within a block: mix each token's sources with those of the tokens that it attends to."""
        rows = self.passes[-1]
        mixed = attention_of(qkv, heads) @ rows
        self.passes[-1] = self.residual * rows + (1 - self.residual) * mixed

    def leave(self, _block: nn.Module, _given: object, tokens: Tensor) -> None:
        """Behind a block: keep what it made, to notice what is put in its place."""
        self._left = tokens

    def _is_patch_or_class(self, tokens: int) -> Tensor:
        first = first_patch(tokens, self.patches, self.own)
        kept = torch.zeros(tokens, dtype=torch.bool, device=self._left.device)
        kept[0] = kept[first : first + self.patches] = True
        return kept

    def _sources(self, tokens: Tensor) -> Rows:
        """Return rows of tokens that come from nowhere but themselves."""
        source = torch.full((tokens.shape[1],), self.patches + 1)
        source[self._is_patch_or_class(len(source)).cpu()] = torch.arange(self.patches + 1)
        one = F.one_hot(source, self.patches + 2).to(tokens.device, torch.float32)
        return one.repeat(len(tokens), 1, 1)
