"""DAPT, Decouple-before-Align: separate alignment of a picture's foreground and background with texts.

DAPT adds terms to the loss of its host, the prompt learner that it is trained with. Only the host's
tensors are learned, and predictions are the host's. (Distribution-Aware Prompt Tuning, arXiv 2309.03406,
is another method with the same short name.)

- [0]: Decouple before Align: Visual Disentanglement Enhances Prompt Tuning, T-PAMI 47(11), 2025,
  https://arxiv.org/abs/2508.00395
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from foveate.errors import InputError
from foveate.methods.backgrounds import Backgrounds
from foveate.methods.base import Method, Wrapper, encode_pictures, fuse_heads, is_kind
from foveate.methods.capabilities import (
    BatchSplit,
    Diagnostics,
    ExtraTexts,
    GradientRule,
    Tally,
    TextPerImage,
)
from foveate.methods.configs import DaptConfig, Distance, Target
from foveate.methods.dapt_views import SIDES, Decoupled, Decoupler, Gaze
from foveate.methods.frozen import Frozen, FrozenFeatures, frozen_features
from foveate.methods.maple import Maple
from foveate.types import Batch, Features, ImageFeatures, Labels, Logits, PerImage, Scalar, TextFeatures


class Dapt(Wrapper, FrozenFeatures, Diagnostics, BatchSplit):
    """DAPT's terms added to a host's loss; predictions are the host's, at no extra cost.

    Args:
        host: An untrained method; it is trained here.
        config: Settings.
        generator: Not used: DAPT has no random initial values.

    Raises:
        InputError: DAPT cannot train this host, or a setting does not fit it.
    """

    name, title, config_type = "dapt", "DAPT", DaptConfig

    def __init__(
        self, host: Method, config: DaptConfig | None = None, generator: torch.Generator | None = None
    ):
        super().__init__(host)
        self.config = config = config or DaptConfig()
        if config.official_quirks and not isinstance(host, Maple):
            raise InputError(
                f"dapt: official_quirks is what the released code does with MaPLe, not {type(host).__name__}:"
                " take dapt+maple, or leave it out"
            )
        scaling = config.cam_threshold, config.cam_scale
        gaze = Gaze(host, config.refresh, config.cam_source, *scaling) if config.cue == "gaze" else None
        quirks, boxed = config.official_quirks, config.cue == "box"  # the released code uses empty views too
        self.decoupler = Decoupler(host, gaze, config.fill, boxed=boxed, use_all=quirks)
        self.backgrounds = Backgrounds(
            cast("ExtraTexts", host),  # `check_host` has checked this
            config.backgrounds,
            config.background_template,
            keep_all=config.on_collision == "keep",
            as_released=quirks,
        )
        self.backgrounds.check()
        self.tally = self.last_tally = Tally()
        self.epoch, self.epochs, self._started, self._used_views = 0, 1, False, 0
        if host.names:
            self.set_classes(host.names, host.template, host.trained_names())

    @classmethod
    def check_host(cls, name: str, host: Method | type[Method]) -> None:
        """Refuse a host without learned tensors in the towers, or one that cannot encode background texts."""
        reason = None
        if is_kind(host, TextPerImage):
            reason = "has texts for each picture alone, and would read all background texts for each of them"
        elif not host.tunes_text and not host.tunes_vision:
            reason = "learns nothing within the towers, where DAPT's terms have their effect"
        elif not is_kind(host, ExtraTexts) or is_kind(host, GradientRule):
            reason = "has no loss that terms can be added to: it reads no texts besides those of its classes"
        if reason:
            raise InputError(
                f"dapt: {name} {reason}; take a host such as maple, ivlp, promptsrc, mmrl, vpt, coop or"
                " kgcoop"
            )
        if not host.takes_new_names:
            raise InputError(
                f"dapt: {name} has vectors of its own for each class, and none for background texts: take"
                " class_specific=false"
            )

    def set_classes(
        self, names: Sequence[str], template: str | None = None, trained: Collection[str] | None = None
    ) -> None:
        super().set_classes(names, template, trained)
        if self.decoupler.gaze is not None:
            self.decoupler.gaze.copy_before_training()

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.epoch, self.epochs, self._started = epoch, epochs, True
        if self.decoupler.gaze is not None:
            self.decoupler.gaze.begin_epoch()

    def terms(self) -> dict[str, float]:
        """Return the weights of this epoch's terms, without terms that train nothing."""
        weights = self.config.weights(self.epoch, self.epochs)
        return {name: weight for name, weight in weights.items() if name not in self._idle_terms()}

    def frozen(self) -> dict[str, Frozen]:
        """Declare the host's features, and those of both sides of views if the image tower is frozen."""
        if self.tunes_vision:
            return frozen_features(self.host)
        if self.decoupler.gaze is not None:
            return {}  # the gaze needs pixels; batches from a bank of this host have none
        sides = self.config.foreground_weight or self.config.background_weight
        return frozen_features(self.host) | (self.decoupler.frozen() if sides else {})

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the host's terms and DAPT's terms of this epoch, as means over the usable views."""
        terms = self.terms()
        views = self.decoupler.decouple(batch, needed=bool(terms))
        if views is not None and self.training:
            self.tally.add(**view_counts(views.share))
        if not terms and not self.config.official_quirks:
            return self.host.losses(features, batch)
        backgrounds: TextFeatures | None = None
        if "background" in terms or self.config.official_quirks:
            texts, distractors = self.backgrounds.encode(), self.backgrounds.among_classes
            backgrounds = texts[distractors:]
            if distractors:
                features = Features(features.image, torch.cat([features.text, texts[:distractors]]))
        losses = self.host.losses(features, batch)
        self._used_views = 0 if views is None else int(views.usable.sum())
        if views is not None and self._used_views:
            losses |= {
                name: terms[name] * loss
                for name, loss in self._dapt_terms(terms, features, views, backgrounds).items()
            }
        return losses

    def _dapt_terms(
        self, terms: dict[str, float], features: Features, views: Decoupled, backgrounds: TextFeatures | None
    ) -> dict[str, Scalar]:
        """Return DAPT's own terms, unweighted."""
        config, losses, names = self.config, dict[str, Scalar](), terms.keys()
        background = foreground = features.image[:, :0]  # unless a term uses them
        if names & {"pull", "background"}:
            needs_grad = "background" in names and self.tunes_vision and not config.detach_background
            background = self.decoupler.features("background", views, grad=needs_grad)
        if names & {"pull", "foreground"}:
            foreground = self.decoupler.features("foreground", views)
        if "background" in names and backgrounds is not None:
            logits = self.host.logits(Features(background, backgrounds))
            losses["background"] = background_alignment(logits, config.background_target)
        unit = partial(unit_features, weights=self.head_weights)
        if "pull" in names:
            z = unit(features.image[:, views.usable]), unit(foreground), unit(background)
            losses["pull"] = pull_push(*z, config.margin, config.distance)
        if "foreground" in names:
            logits = self.host.logits(Features(foreground, features.text))
            losses["foreground"] = foreground_alignment(logits, views.batch.labels[views.usable])
        if "recompose" in names:
            raw_sides = (encode_pictures(self.clip, self.decoupler.view(side, views))[0] for side in SIDES)
            losses["recompose"] = recomposition(unit(features.image[:, views.usable]), *raw_sides)
        return losses

    def _idle_terms(self) -> dict[str, str]:
        """Return the terms that train nothing over this host, with reasons."""
        host_name, reasons = type(self.host).__name__, dict[str, str]()
        if not self.tunes_vision:
            reasons |= dict.fromkeys(("pull", "recompose"), f"{host_name} learns nothing of pictures")
        if not self.tunes_text:
            reasons["foreground"] = f"{host_name} learns nothing of texts"
        if not self.tunes_text and self.config.detach_background:
            reasons["background"] = reasons["foreground"]
        if len(self.backgrounds.names()) < 2:
            reasons["background"] = "fewer than two background words are left"
        return reasons

    def averaged_over(self) -> dict[str, int]:
        return dict.fromkeys(self.terms(), self._used_views)

    def whole_batch_reason(self) -> str | None:
        if self.config.cue != "gaze" or self.config.cam_scale != "batch":
            return None
        return (
            "dapt.cam_scale is 'batch', the highest gaze of a batch as a whole, which processes that share it"
            " do not see: take --dapt.cam-scale image, or one process"
        )

    def warnings(self) -> list[str]:
        """Return warnings: unused terms, left-out background words, views that trained only the host."""
        messages, config, weights = list[str](), self.config, self.config.weights
        quirks = config.official_quirks
        if not self._started:  # the stage was finished before the run resumed
            return messages
        used = {name for epoch in range(self.epochs) for name in weights(epoch, self.epochs)}
        idle = {name: reason for name, reason in self._idle_terms().items() if name in used}
        messages += [
            f"dapt: the term {name} has nothing to train and is left out: {reason}"
            for name, reason in idle.items()
        ]
        unreached = weights(max(config.switch(self.epochs), self.epochs), self.epochs).keys() - used
        if unreached:
            messages.append(
                f"dapt: with epochs={self.epochs} the second phase never begins, so there were no terms"
                f" {', '.join(sorted(unreached))}: train longer"
                f"{'' if quirks else ', or lower dapt.phase_switch'}"
            )
        dropped = self.backgrounds.dropped()
        if dropped:
            messages.append(
                f"dapt: background words left out because they name a class: {', '.join(dropped)}"
            )
        return messages + one_sided(
            self.last_tally,
            "were used as they are" if quirks else "taught the host alone",
            "Raise crop_scale to have fewer"
            if self.decoupler.gaze is None
            else "They are those where no patch speaks for the label",
        )


def view_counts(share: PerImage) -> dict[str, Tensor]:
    """Return counts for the views of a batch: `empty` ones, `full` ones, and the `area`.

    Args:
        share: `[B]` share of the foreground in each view.
    """
    return {"views": torch.ones_like(share), "empty": share <= 0, "full": share >= 1, "area": share}


def one_sided(tally: Tally, used: str, advice: str) -> list[str]:
    """Return a warning on views with an empty foreground or background, if there were any.

    Args:
        tally: Counts of the epoch.
        used: How such views were used.
        advice: Remedy.
    """
    shares = tally.shares()
    if not shares or not shares["empty"] + shares["full"]:
        return []
    return [
        f"dapt: {100 * shares['empty']:.1f} % of the last epoch's views had no foreground in them and"
        f" {100 * shares['full']:.1f} % nothing else; these {used}. {advice}"
    ]


# DAPT's additional loss terms ([0]). Inputs are tensors; no tower and no mask is used here.
#
# Z_I, Z_f and Z_b are unit features of the whole picture, of its foreground and of its background; sg
# stops the gradient. The equations follow the authors' released code.


UnitFeatures = Float[Tensor, "batch dim"]
RawFeatures = Float[Tensor, "batch dim"]


def unit_features(image: ImageFeatures, weights: Sequence[float]) -> UnitFeatures:
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
