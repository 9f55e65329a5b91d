"""The equations of FVG-PT: two gates, two adapters, five losses. Inputs are tensors; no tower is used here.

- [0]: FVG-PT, 2026, https://arxiv.org/abs/2603.08708 ("Eq." and "Sec." below refer to it)

Symbols: `full`, `foreground`, `clip` are logits of the whole picture, of the picture times its mask, and
of the unchanged CLIP; `p` their softened distributions; `q` a gate's logit; `r` and `b` trusts in [0,
1].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.methods.base import fuse_heads
from foveate.methods.configs import FvgPtConfig
from foveate.methods.layers import perceptron
from foveate.types import Features, ImageFeatures, Labels, Logits, PerImage, Scalar, TextFeatures

Align = Callable[[Features], Logits]
"""Function of the backbone from features to base logits, with temperature applied."""

_NO_MASK = 0.5
"""Input of the prior gate in place of r if there is no mask, as in all predictions."""


@dataclass(frozen=True)
class Views:
    """Outputs of the frozen models for a batch, without gradients.

    Attributes:
        features: Raw features of the whole picture and of the class texts.
        full: `[B, C]` base logits of the backbone for the whole picture.
        foreground: `[B, C]` base logits of the backbone for the picture times its mask.
        new: `[B, C]` logits of the backbone for new classes (equal to `full`, except for MMRL).
        clip: `[B, C]` logits of the unchanged CLIP.
        area: `[B]` share of the foreground in the view.
        gate_area: `[B]` area input of the gate; `area` unless settings change it.
        clip_foreground: `[B, C]` logits of the unchanged CLIP for the foreground, if it gives r*.
    """

    features: Features
    full: Logits
    foreground: Logits
    new: Logits
    clip: Logits
    area: PerImage
    gate_area: PerImage
    clip_foreground: Logits | None = None


def entropy(logits: Logits) -> PerImage:
    """Return the Shannon entropy of each row's softmax, in nats."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def kl(teacher: Logits, student: Logits) -> PerImage:
    """Return KL(softmax(teacher) ‖ softmax(student)) of each row, in nats."""
    log_t, log_s = teacher.log_softmax(dim=-1), student.log_softmax(dim=-1)
    return (log_t.exp() * (log_t - log_s)).sum(dim=-1)


def agreement(a: Logits, b: Logits) -> PerImage:
    """Return the cosine of each row's two distributions."""
    return F.cosine_similarity(a.softmax(dim=-1), b.softmax(dim=-1), dim=-1)


def route(base: Logits, new: Logits, trained: Tensor, weight: float) -> Logits:
    """Return logits over trained and new names in one label space.

    With T the trained names, log p(T) comes from `new`, and p(c | T) combines both, in proportion to
    base^w · new^(1 − w): z_c = log softmax_T(w base + (1 − w) new)_c + logsumexp_T(new) for c in T, and
    z_c = new_c otherwise.

    Args:
        base: `[B, C]` logits for use among trained names.
        new: `[B, C]` logits with one scale for all names.
        trained: `[C]` whether each name was trained.
        weight: w; 1 uses `base` alone among trained names, 0 uses `new` alone for all names.
    """
    if trained.all():
        return base
    if not trained.any():
        return new
    new_trained = new[:, trained]
    log_p = (weight * base[:, trained] + (1 - weight) * new_trained).log_softmax(dim=-1)
    routed = new.clone()
    routed[:, trained] = (log_p + new_trained.logsumexp(dim=-1, keepdim=True)).to(new.dtype)
    return routed


class Guidance(nn.Module):
    """The learned part of FVG-PT: 132,546 parameters at dim 512.

    Args:
        dim: Width of a feature.
        config: Settings.
        generator: Random generator of the initial values.
        head_weights: Weights that fuse the heads in the backbone's base logits.
    """

    def __init__(
        self,
        dim: int,
        config: FvgPtConfig,
        generator: torch.Generator,
        head_weights: tuple[float, ...] = (1.0,),
    ):
        super().__init__()
        self.config, self.head_weights = config, head_weights
        # One stream per part: an ablation of one part does not change the initial values of the others.
        gate, prior, image, text = _split(generator, 4)
        gate_widths = [config.gate_hidden] * (config.gate_depth - 1)
        foreground_inputs, prior_inputs = len(config.foreground_indicators), len(config.prior_indicators)
        self.foreground_gate = perceptron([foreground_inputs, *gate_widths, 1], gate, bias=config.bias)
        self.prior_gate = perceptron([prior_inputs, *gate_widths, 1], prior, bias=config.bias)
        self.image_adapter = self._adapter(dim, image)
        self.text_adapter = self._adapter(dim, text)

    # --- foreground reliability gate (Sec. 3.2) ---

    def indicators(self, v: Views) -> Float[Tensor, "batch indicators"]:
        """Return u = [H(p_full) − H(p_fg), cos(p_full, p_fg), A(m)], Eq. 4."""
        full, foreground = v.full / self.config.tau, v.foreground / self.config.tau
        columns = {
            "entropy": self._entropy(full) - self._entropy(foreground),
            "cosine": agreement(full, foreground),
            "area": self._clamped_area(v.gate_area),
        }
        return torch.stack([columns[name] for name in self.config.foreground_indicators], dim=-1)

    def trust_target(self, v: Views, labels: Labels) -> PerImage:
        """Return r* (Eq. 3): 1 if the frozen backbone's error is smaller on the foreground alone.

        With `target_from` "clip", it is the unchanged CLIP's error.
        """
        full, foreground = v.full, v.foreground
        if v.clip_foreground is not None:
            full, foreground = v.clip, v.clip_foreground
        loss_full = F.cross_entropy(full, labels, reduction="none")
        loss_foreground = F.cross_entropy(foreground, labels, reduction="none")
        better = loss_foreground + self.config.margin < loss_full
        return (better & self.usable(v)).to(v.full.dtype)

    # --- foreground distillation compensation (Sec. 3.3) ---

    def adapt(self, features: Features) -> Features:
        """Return f̃ = norm(f + A(f)) for pictures and texts, Eq. 7."""
        image = features.image
        if self.config.heads == "fused" and len(image) > 1:
            image = fuse_heads(image, self.head_weights)[None]
        adapted = self._adapted(image, self.image_adapter, "image")
        if self.config.heads == "class" and len(image) > 1:
            adapted = torch.cat([adapted[:1], image[1:]])
        return Features(adapted, self._adapted(features.text, self.text_adapter, "text"))

    def base_logits(self, features: Features, align: Align) -> Logits:
        """Return z_FDC, Eq. 8: the backbone's alignment of adapted features."""
        return align(features if self.config.adapters == "none" else self.adapt(features))

    # --- prior calibration (Sec. 3.4) ---

    def prior_indicator_values(
        self, new: Logits, clip: Logits, r: PerImage | None = None
    ) -> Float[Tensor, "batch indicators"]:
        """Return s = [H(p_full), H(p_CLIP), cos(p_full, p_CLIP)], Eq. 13, and r if settings include it."""
        new, clip = new / self.config.tau, clip / self.config.tau
        columns = {
            "entropy": self._entropy(new),
            "prior_entropy": self._entropy(clip),
            "cosine": agreement(new, clip),
            "trust": torch.full_like(new[:, 0], _NO_MASK) if r is None else r,
        }
        return torch.stack([columns[name] for name in self.config.prior_indicators], dim=-1)

    def prior_trust(self, new: Logits, clip: Logits, r: PerImage | None = None) -> PerImage:
        """Return b, the trust in CLIP's prior; r is the trust in the foreground, None without a mask."""
        if self.config.prior_trust is not None:
            return torch.full_like(new[:, 0], self.config.prior_trust)
        return self.prior_gate(self.prior_indicator_values(new, clip, r)).squeeze(-1).sigmoid()

    def new_logits(self, new: Logits, clip: Logits, r: PerImage | None = None) -> Logits:
        """Return z_PC = (1 − b) z_full + b z_CLIP, Eq. 12."""
        b = self.prior_trust(new, clip, r)[:, None]
        return (1 - b) * new + b * clip

    # --- the loss ---

    def losses(
        self, v: Views, labels: Labels, align: Align, among: Tensor | None = None
    ) -> dict[str, Scalar]:
        """Return the weighted terms of Eq. 10 and Eq. 15.

        Args:
            v: Outputs of the frozen models.
            labels: `[B]`.
            align: Function of the backbone.
            among: `[K]` rows of the classes in the prior branch's losses; None takes all.
        """
        config = self.config
        losses = self._base_losses(v, labels, align)
        if config.prior_branch:
            r = self._trust(v) if "trust" in config.prior_indicators else None
            if among is None:
                losses |= self._prior_losses(v.new, v.clip, labels, r)
            else:
                losses |= self._prior_losses_among(v, labels, r, among)
        return {name: loss for name, loss in losses.items() if name in config.terms}

    def _prior_losses(
        self, new: Logits, clip: Logits, labels: Labels, r: PerImage | None
    ) -> dict[str, Scalar]:
        """Return L_PC (Eq. 15)."""
        config, mixed = self.config, self.new_logits(new, clip, r)
        softened = kl(clip / config.tau, mixed / config.tau)
        return {
            "prior": config.lambda_prior * F.cross_entropy(mixed, labels),
            "prior_kl": config.lambda_prior * softened.mean(),
        }

    def _prior_losses_among(
        self, v: Views, labels: Labels, r: PerImage | None, among: Tensor
    ) -> dict[str, Scalar]:
        """Return L_PC for the pictures of some classes, with the logits of these classes alone.

        The terms are multiplied by these pictures' share of the batch over their expected share. So each is a
        mean over the whole batch, and its expectation does not depend on the number of classes.
        """
        matches = (labels[:, None] == among).int()
        selected = matches.sum(dim=1) > 0
        if not selected.any():
            zero = 0 * self.new_logits(v.new, v.clip, r).sum()
            return {"prior": zero, "prior_kl": zero}
        new, clip = v.new[selected][:, among], v.clip[selected][:, among]
        trust = None if r is None else r[selected]
        losses = self._prior_losses(new, clip, matches[selected].argmax(dim=1), trust)
        weight = selected.float().mean() * v.new.shape[1] / len(among)
        return {name: weight * loss for name, loss in losses.items()}

    def _base_losses(self, v: Views, labels: Labels, align: Align) -> dict[str, Scalar]:
        """Return L_CE, L_FRG and λ_d L_dist (Eqs. 6, 9, 10)."""
        config, usable = self.config, self.usable(v)
        losses: dict[str, Scalar] = {}
        r = torch.ones_like(v.area)
        if config.foreground_gate:
            q = self.foreground_gate(self.indicators(v)).squeeze(-1)
            target = self.trust_target(v, labels)
            losses["gate"] = config.lambda_gate * F.binary_cross_entropy_with_logits(q, target)
            r = q.sigmoid()
        if config.adapters == "none":
            return losses
        r = r.detach() if config.detach_trust else r
        r = (r.round() if config.hard_trust else r) * usable
        base = self.base_logits(v.features, align)
        losses["base"] = F.cross_entropy(base, labels)
        full, foreground, p = v.full / config.tau, v.foreground / config.tau, base / config.tau
        distill = (r * kl(foreground, p) + (1 - r) * kl(full, p)).mean()
        factor = config.tau**2 if config.tau_squared else 1.0
        losses["distill"] = factor * config.lambda_distill * distill
        return losses

    @torch.no_grad()
    def _trust(self, v: Views) -> PerImage:
        """Return r without gradient, as input of the prior gate; ½ where the foreground is not usable."""
        r = self.foreground_gate(self.indicators(v)).squeeze(-1).sigmoid()
        return torch.where(self.usable(v), r, _NO_MASK)

    def usable(self, v: Views) -> Tensor:
        """Return which views have enough foreground for training."""
        return (v.area > 0) & (v.area >= self.config.min_area)  # without a mask the area is 0

    def _clamped_area(self, area: PerImage) -> PerImage:
        config = self.config
        return area.clamp(config.min_area, config.max_area) if config.clamp_area else area

    def _entropy(self, logits: Logits) -> PerImage:
        value = entropy(logits)
        if self.config.entropy == "normalised":
            # A sum of ones counts the classes in an exported graph too, where their number is dynamic.
            return value / torch.ones_like(logits[0]).sum().clamp(min=2).log().to(value)
        return value

    def _adapter(self, dim: int, generator: torch.Generator) -> nn.Sequential:
        adapter = perceptron([dim, self.config.adapter_hidden, dim], generator, bias=self.config.bias)
        if self.config.adapter_init != "default":
            last = adapter[-1]
            std = 1e-3 if self.config.adapter_init == "small" else 0.0
            with torch.no_grad():
                for name, tensor in last.named_parameters():
                    tensor.zero_()
                    if name == "weight" and std:
                        tensor.normal_(0.0, std, generator=generator)
        return adapter

    def _adapted(
        self, x: ImageFeatures | TextFeatures, adapter: nn.Sequential, side: str
    ) -> ImageFeatures | TextFeatures:
        if self.config.adapters not in ("both", side):
            return x
        if self.config.adapter_input == "unit":
            x = F.normalize(x, dim=-1)
        return F.normalize(x + adapter(x), dim=-1)


def _split(generator: torch.Generator, parts: int) -> list[torch.Generator]:
    """Return independent generators, seeded by one generator."""
    seeds = torch.randint(2**62, (parts,), generator=generator).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]
