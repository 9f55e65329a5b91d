"""Heat maps of a method over a picture: Grad-CAM, attention rollout, and `gaze`, which computes either."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.capabilities import first_patch
from foveate.methods.layers import passes_at
from foveate.types import Branch, Features, Images, Labels, Logits, PerImage, Tokens

# Forward passes of a method through the image tower, and the positions of patches among its tokens.


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


def patch_start(tokens: int, patches: int, own_first: int) -> int:
    """Return the index of the first patch among the tokens of a pass.

    Args:
        tokens: Number of tokens: class token, patches, and learned tokens.
        patches: Number of patches.
        own_first: Index of the first patch in the method's own passes (`ImageTokens.first_patch`).
    """
    return 1 if tokens == patches + 1 else own_first  # no learned tokens: unchanged CLIP, or an earlier block


def patches_of(values: TokenValues, patches: int, own_first: int) -> PatchValues:
    """Return the patches of one pass, without the class token and learned tokens.

    Args:
        values: Values of each token.
        patches: Number of patches.
        own_first: `ImageTokens.first_patch`.
    """
    first = patch_start(values.shape[1], patches, own_first)
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


# Grad-CAM on the patches of a vision transformer: the relevance of each patch for a class.
#
# With a the input of a block's attention (the output of its `ln_1`) and g the gradient of the class's
# logit or probability at that point, the relevance of patch i is
#
# - Grad-CAM: Σ_c mean_j(g_jc) · a_ic, one weight per channel ([0], Eq. 1 and 2);
# - HiResCAM: Σ_c g_ic · a_ic, with each patch's own gradient ([1], Eq. 3).
#
# Negative values become 0. The last block's output, its `ln_2` and its MLP cannot be used: only the class
# token (and MMRL's representation tokens) are used after them, so the gradients of patches are exactly 0.
#
# - [0]: Grad-CAM, Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391
# - [1]: HiResCAM, Draelos et al. 2020, https://arxiv.org/abs/2011.08891


Target = Literal["logit", "probability"]
"""Quantity whose gradient is computed: the class's logit, or its probability among all class names."""


def class_activation(
    method: Method,
    images: Images,
    labels: Labels | None,
    branch: Branch = "base",
    *,
    averaged: bool,
    target: Target = "probability",
    layer: int = -1,
) -> Gaze:
    """Return the relevance of each patch for a class, and the logits of the same passes.

    A method may use the tower several times (FVG-PT: the backbone and CLIP). The relevance of a patch is
    the sum over all passes, before negative values become 0.

    Args:
        method: The method with its classes set.
        images: `[B, 3, S, S]` normalised pictures.
        labels: `[B]` the class to explain; None is each picture's answer.
        branch: Label space of the class names.
        averaged: True: one weight per channel (Grad-CAM); False: each patch's own gradient (HiResCAM).
        target: Quantity whose gradient is computed. With a single class the probability is constant, so
            the map is 0.
        layer: Block, counted from 0; negative numbers count from the end.

    Returns:
        A heat map is all 0 if no patch supports the class.

    Raises:
        InputError: The block does not exist.
    """
    vision, outputs = method.clip.vision, list[Logits]()
    block = vision.blocks[block_index(layer, len(vision.blocks))]

    def target_values() -> PerImage:
        outputs.append(method.logits(method.features(images, branch), branch))
        return _asked(outputs[0], outputs[0].argmax(dim=-1) if labels is None else labels, target)

    passes = passes_at(method, block, target_values)
    relevance: list[Tensor] = []
    for tower_pass in passes:
        g, a = (
            patches_of(values, vision.grid**2, first_patch(method))
            for values in (tower_pass.gradient, tower_pass.activation)
        )
        relevance.append(((g.mean(dim=1, keepdim=True) if averaged else g) * a).sum(dim=-1))
    logits = outputs[0].detach()
    heat = as_heat(torch.stack(relevance).sum(dim=0), vision.grid)
    return Gaze(heat, logits, logits.argmax(dim=-1) if labels is None else labels)


def _asked(logits: Logits, labels: Labels, target: Target) -> PerImage:
    """Return the quantity to differentiate, up to a positive factor per picture, which a heat map ignores.

    ∇p = p (1 − p) ∇(z_c − log Σ_{j≠c} exp z_j). Without the factor the result is exact even if p is
    rounded to 1 or 0.
    """
    class_logits = logits.gather(1, labels[:, None])[:, 0]
    if target == "logit":
        return class_logits
    if logits.shape[1] == 1:
        return class_logits * 0
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=-1)
    return class_logits - others


# Attention rollout: the share of each patch in the class token of a vision transformer.
#
# With A the attention of a block, averaged over its heads, R = Π_l (½ A_l + ½ I) ([0], Sec. 3). The map is
# the class token's row of R and does not depend on a class. The shares of the class token itself and of
# learned tokens are removed, and the rest is normalised to sum 1.
#
# - [0]: Quantifying Attention Flow in Transformers, Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928


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
    trace = _Trace(vision.grid**2, first_patch(method), residual)
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
        own_first: `ImageTokens.first_patch`.
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
        first = patch_start(tokens, self.patches, self.own_first)
        mask = torch.zeros(tokens, dtype=torch.bool, device=self._left.device)
        mask[0] = mask[first : first + self.patches] = True
        return mask

    def _sources(self, tokens: Tensor) -> Rows:
        """Return rows of tokens whose only source is themselves."""
        source = torch.full((tokens.shape[1],), self.patches + 1)
        source[self._is_patch_or_class(len(source)).cpu()] = torch.arange(self.patches + 1)
        one_hot = F.one_hot(source, self.patches + 2).to(tokens.device, torch.float32)
        return one_hot.repeat(len(tokens), 1, 1)


# `gaze`: heat maps of a method, computed in one of three ways.


How = Literal["hirescam", "gradcam", "rollout"]
"""Gradient times activation per patch, the same with one weight per channel, or attention only."""


def gaze(
    method: Method,
    images: Images,
    labels: Labels,
    branch: Branch = "base",
    *,
    how: How = "hirescam",
    target: Target = "probability",
    layer: int = -1,
) -> Heat:
    """Return the relevance of each patch for the given class; it is not negative and sums to 1 per picture.

    If no patch supports the class, the map is 0 everywhere (always for the probability of a single
    class).

    Args:
        method: The method with its classes set.
        images: `[B, 3, S, S]` normalised pictures.
        labels: `[B]` the class to explain; attention rollout does not depend on it.
        branch: Label space of the class names.
        how: See `How`.
        target: Quantity whose gradient is computed: the class's logit, or its probability. (The
            logarithm of the probability gives the same map.)
        layer: Block of the image tower, counted from 0, or from the end if negative. For the rollout,
            the last block of the product.

    Returns:
        `[B, grid, grid]`.

    Raises:
        InputError: The block does not exist.
    """
    return gaze_and_answer(method, images, labels, branch, how=how, target=target, layer=layer).heat


def gaze_and_answer(
    method: Method,
    images: Images,
    labels: Labels | None,
    branch: Branch = "base",
    *,
    how: How = "hirescam",
    target: Target = "probability",
    layer: int = -1,
) -> Gaze:
    """Return heat maps, and the logits of the same passes through the tower.

    Args:
        method: The method with its classes set.
        images: `[B, 3, S, S]` normalised pictures.
        labels: `[B]` the class to explain; None is each picture's answer.
        branch: As for `gaze`.
        how: As for `gaze`.
        target: As for `gaze`.
        layer: As for `gaze`.

    Raises:
        InputError: The block does not exist.
    """
    if how != "rollout":
        averaged = how == "gradcam"
        return class_activation(method, images, labels, branch, averaged=averaged, target=target, layer=layer)
    passes, features = rolled_out(method, images, branch, layer=layer)
    with torch.no_grad(), method.constant_text():
        logits = method.logits(features, branch)
    explained = logits.argmax(dim=-1) if labels is None else labels
    return Gaze(mean_share(passes, method.clip.vision.grid), logits, explained)
