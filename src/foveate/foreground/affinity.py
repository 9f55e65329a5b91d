"""Where CLIP's answer comes from, and what belongs together: Grad-CAM, and attention as affinity.

Both follow CLIP-ES (Lin et al. 2023, https://arxiv.org/abs/2212.09506): Grad-CAM of a softmax over a class
and background words, which does not light up what the two share, and class-aware attention-based affinity
(CAA), which spreads it over the object.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.dense import Attention, PatchTokens, class_feature, last_block
from foveate.clip.model import Vision

Heats = Float[Tensor, "batch rows columns"]
Affinity = Float[Tensor, "batch patches patches"]
Texts = Float[Tensor, "classes dim"]

HOT = 0.4
"""Share of a map's maximum from which on a patch is taken to be the object's for sure, as in CLIP-ES."""

ROUNDS = 3
"""Normalisations of columns and rows by turns."""


def softmax_cam(vision: Vision, seen: PatchTokens, texts: Texts, scale: float) -> Heats:
    """Return how much each patch speaks for a class and against the background, from 0 to 1 over a picture.

    Grad-CAM (Selvaraju et al. 2017, Eq. 1 and 2) at `ln_1` of the last block, behind which patches still
    reach the class token: the gradient of the class' softmax, averaged over patches, weighs the channels.
    In place of the softmax p, log p / (1 - p) is derived: the gradient has the same direction, and does not
    vanish where p is all but 1. 0 everywhere if no patch speaks for the class.

    Args:
        vision: The tower.
        seen: From `look`.
        texts: Features of length 1: the class first, then background words.
        scale: What cosines are multiplied with.
    """
    if len(texts) < 2:  # one text is sure to be it, wherever one looks
        return seen.tokens.new_zeros(len(seen.tokens), seen.rows, seen.columns, dtype=torch.float32)
    block = last_block(vision)
    with torch.enable_grad():
        normed = block.ln_1(seen.tokens).detach().requires_grad_()
        feature = F.normalize(class_feature(vision, seen, normed).float(), dim=-1)
        scores = scale * feature @ texts.T
        odds = scores[:, 0] - scores[:, 1:].logsumexp(dim=-1)
        (gradient,) = torch.autograd.grad(odds.sum(), normed)
    channels = gradient[:, 1:].float().mean(dim=1, keepdim=True)
    relevance = (channels * normed.detach()[:, 1:].float()).sum(dim=-1).clamp_min(0)
    return stretched(relevance.view(-1, seen.rows, seen.columns))


def affinity(attention: Attention, rounds: int = ROUNDS) -> Affinity:
    """Return how much patches belong together: each row sums to 1.

    Attention among patches is made doubly stochastic (Sinkhorn), symmetric, and squared, so that what
    attends to the same patches belongs together too.

    Args:
        attention: With the class token first.
        rounds: Of normalising columns, then rows.
    """
    between = attention[:, 1:, 1:]
    for _ in range(rounds):
        between = between / between.sum(dim=1, keepdim=True).clamp_min(1e-12)
        between = between / between.sum(dim=2, keepdim=True).clamp_min(1e-12)
    between = (between + between.mT) / 2
    squared = between @ between
    return squared / squared.sum(dim=2, keepdim=True)


def spread(heats: Heats, together: Affinity, hot: float = HOT) -> Heats:
    """Spread maps over what belongs together, and bring them to [0, 1] again.

    Only what lies in the boxes of hot regions is spread. Without the last step hardly a
    value would be near 1: each is a mean over the picture.
    """
    inside = torch.stack([boxes(heat, hot) for heat in heats])
    kept = (heats * inside).flatten(1).unsqueeze(-1)
    return stretched((together @ kept).view_as(heats))


def boxes(heat: Float[Tensor, "rows columns"], hot: float = HOT) -> Bool[Tensor, "rows columns"]:
    """Return the smallest upright boxes around each connected region (corners connect) that is hot.

    Args:
        heat: Not negative.
        hot: Share of its maximum.
    """
    regions = _regions(heat >= hot * heat.max())
    inside = torch.zeros_like(regions, dtype=torch.bool)
    for number in regions.unique()[1:] if regions.min() == 0 else regions.unique():
        rows, columns = (regions == number).nonzero(as_tuple=True)
        inside[int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1] = True
    return inside


def stretched(heats: Heats) -> Heats:
    """Bring each map to [0, 1] by its least and greatest value; zeros where all are equal."""
    least, most = heats.amin((1, 2), keepdim=True), heats.amax((1, 2), keepdim=True)
    return (heats - least) / (most - least).clamp_min(torch.finfo(heats.dtype).tiny)


def _regions(inside: Bool[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Number connected regions, 0 outside: each patch takes its neighbours' highest number until all have."""
    numbers = torch.arange(1, inside.numel() + 1, device=inside.device).view(inside.shape) * inside.float()
    while True:
        grown = F.max_pool2d(numbers[None], 3, stride=1, padding=1)[0] * inside
        if torch.equal(grown, numbers):
            return numbers
        numbers = grown
