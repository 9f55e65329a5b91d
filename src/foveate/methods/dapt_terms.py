"""DAPT's additional loss terms. Inputs are tensors; no tower and no mask is used here.

Z_I, Z_f and Z_b are unit features of the whole picture, of its foreground and of its background; sg
stops the gradient. The equations follow the authors' released code.

- [0]: Decouple before Align: Visual Disentanglement Enhances Prompt Tuning, 2025,
  https://arxiv.org/abs/2508.00395
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from foveate.methods.base import fuse_heads
from foveate.methods.configs import Distance, Target
from foveate.types import ImageFeatures, Labels, Logits, Scalar

UnitFeatures = Float[Tensor, "batch dim"]
RawFeatures = Float[Tensor, "batch dim"]


def unit(image: ImageFeatures, weights: Sequence[float]) -> UnitFeatures:
    """Return unit features; several heads (MMRL) are fused with the weights of base logits.

    Args:
        image: `[H, B, D]` raw features.
        weights: Weights of the heads.
    """
    return F.normalize(fuse_heads(image, weights), dim=-1)


def pull_push(
    whole: UnitFeatures,
    foreground: UnitFeatures,
    background: UnitFeatures,
    margin: float = 1.5,
    distance: Distance = "euclidean",
) -> Scalar:
    """Return L_v = mean max(0, d(Z_I, sg Z_f) − d(Z_I, sg Z_b) + margin).

    Args:
        whole: Z_I.
        foreground: Z_f.
        background: Z_b.
        margin: Distances between unit features are at most 2, so 1.5 is nearly always active.
        distance: d: ‖a − b + ε‖₂ with PyTorch's ε of 1e-6, or 1 − a · b.
    """
    foreground, background = foreground.detach(), background.detach()
    if distance == "euclidean":
        return F.triplet_margin_loss(whole, foreground, background, margin=margin)
    near, far = (1 - (whole * side).sum(dim=-1) for side in (foreground, background))
    return (near - far + margin).clamp_min(0).mean()


def foreground_alignment(logits: Logits, labels: Labels) -> Scalar:
    """Return L_f, the cross-entropy of the foreground's logits s sg[Z_f] Tᵗ."""
    return F.cross_entropy(logits, labels)


def background_alignment(logits: Logits, target: Target = "hard") -> Scalar:
    """Return L_b, the cross-entropy of the background's logits s Z_b T_bᵗ with their own prediction.

    Args:
        logits: `[B, K]`, one column per background text.
        target: "hard" is the most probable background, so that L_b is −log max softmax. "soft" is the
            whole distribution p, so that L_b is its entropy. Both factors p have a gradient; with a
            constant target p the gradient would be zero.
    """
    labels = logits.argmax(dim=-1) if target == "hard" else logits.softmax(dim=-1)
    return F.cross_entropy(logits, labels)


def recomposition(whole: UnitFeatures, foreground: RawFeatures, background: RawFeatures) -> Scalar:
    """Return L_reo = mean |norm(V₀(x_f) + V₀(x_b)) − Z_I|, a term in a comment of the released code.

    Args:
        whole: Z_I.
        foreground: The unchanged CLIP's (V₀) features of the foreground.
        background: Its features of the background.
    """
    recomposed = F.normalize(foreground + background, dim=-1).detach()
    return (recomposed - whole).abs().mean()
