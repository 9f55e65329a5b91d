"""Grad-CAM of CLIP, and attention as affinity between patches.

Both follow CLIP-ES (Lin et al. 2023, https://arxiv.org/abs/2212.09506). Grad-CAM uses a softmax over a
class and background words, so regions that fit both get low values. Class-aware attention-based affinity
(CAA) spreads the map over the object.
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
"""Share of a map's maximum from which a patch surely belongs to the object, as in CLIP-ES."""

ROUNDS = 3
"""Number of alternating normalisations of columns and rows."""


def softmax_cam(vision: Vision, patches: PatchTokens, texts: Texts, scale: float) -> Heats:
    """Return the Grad-CAM relevance of each patch for the class against the background, from 0 to 1.

    Grad-CAM (Selvaraju et al. 2017, Eq. 1 and 2) is computed at `ln_1` of the last block, the last point
    where patches influence the class token. The gradient of the class' softmax, averaged over patches,
    weights the channels. The code differentiates log p / (1 - p) instead of the softmax p: the gradient
    has the same direction and does not vanish where p is close to 1. All values are 0 if no patch
    supports the class.

    Args:
        vision: The tower.
        patches: Result of `look`.
        texts: Features of norm 1: the class first, then background words.
        scale: Factor of the cosines.
    """
    if len(texts) < 2:  # with one text, the softmax is 1 everywhere
        return patches.tokens.new_zeros(
            len(patches.tokens), patches.rows, patches.columns, dtype=torch.float32
        )
    block = last_block(vision)
    with torch.enable_grad():
        normed = block.ln_1(patches.tokens).detach().requires_grad_()
        feature = F.normalize(class_feature(vision, patches, normed).float(), dim=-1)
        logits = scale * feature @ texts.T
        log_odds = logits[:, 0] - logits[:, 1:].logsumexp(dim=-1)
        (gradient,) = torch.autograd.grad(log_odds.sum(), normed)
    channels = gradient[:, 1:].float().mean(dim=1, keepdim=True)
    relevance = (channels * normed.detach()[:, 1:].float()).sum(dim=-1).clamp_min(0)
    return stretched(relevance.view(-1, patches.rows, patches.columns))


def affinity(attention: Attention, rounds: int = ROUNDS) -> Affinity:
    """Return the affinity between patches; each row sums to 1.

    The attention among patches is made doubly stochastic (Sinkhorn), symmetric, and squared. So patches
    that attend to the same patches also get a high affinity.

    Args:
        attention: Attention weights; the class token is first.
        rounds: Number of normalisations of columns, then rows.
    """
    weights = attention[:, 1:, 1:]
    for _ in range(rounds):
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
        weights = weights / weights.sum(dim=2, keepdim=True).clamp_min(1e-12)
    weights = (weights + weights.mT) / 2
    squared = weights @ weights
    return squared / squared.sum(dim=2, keepdim=True)


def spread(heats: Heats, affinities: Affinity, hot: float = HOT) -> Heats:
    """Spread maps by affinity and rescale them to [0, 1].

    Only values in the boxes of hot regions are spread. Each new value is a mean over the picture, so
    hardly any value would be near 1 without the rescaling.
    """
    inside = torch.stack([boxes(heat, hot) for heat in heats])
    masked = (heats * inside).flatten(1).unsqueeze(-1)
    return stretched((affinities @ masked).view_as(heats))


def boxes(heat: Float[Tensor, "rows columns"], hot: float = HOT) -> Bool[Tensor, "rows columns"]:
    """Return the bounding boxes of the connected hot regions (8-connectivity), as a mask.

    Args:
        heat: Heat map, not negative.
        hot: Threshold, as a share of the maximum.
    """
    regions = _connected_regions(heat >= hot * heat.max())
    inside = torch.zeros_like(regions, dtype=torch.bool)
    for region in regions.unique()[1:] if regions.min() == 0 else regions.unique():
        rows, columns = (regions == region).nonzero(as_tuple=True)
        inside[int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1] = True
    return inside


def stretched(heats: Heats) -> Heats:
    """Rescale each map to [0, 1] by its minimum and maximum; zeros if all values are equal."""
    low, high = heats.amin((1, 2), keepdim=True), heats.amax((1, 2), keepdim=True)
    return (heats - low) / (high - low).clamp_min(torch.finfo(heats.dtype).tiny)


def _connected_regions(mask: Bool[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Number the connected regions, 0 outside: repeat a maximum over neighbours until nothing changes."""
    labels = torch.arange(1, mask.numel() + 1, device=mask.device).view(mask.shape) * mask.float()
    while True:
        grown = F.max_pool2d(labels[None], 3, stride=1, padding=1)[0] * mask
        if torch.equal(grown, labels):
            return labels
        labels = grown
