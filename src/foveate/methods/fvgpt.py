"""FVG-PT: foreground view-guided prompt tuning, on any tuned backbone.

The equations are in `guidance.py`. This module gives them the features of the backbone and of CLIP, for
the whole picture and for its foreground.

- [0]: FVG-PT, 2026, https://arxiv.org/abs/2603.08708
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.methods.base import Method, align, is_kind
from foveate.methods.capabilities import (
    Diagnostics,
    ForegroundTrust,
    FrozenHost,
    PriorBranch,
    Tally,
    TextPerImage,
    capability,
)
from foveate.methods.config import Tried
from foveate.methods.frozen import (
    Frozen,
    FrozenFeatures,
    extract,
    frozen_area,
    frozen_clip,
    frozen_image,
)
from foveate.methods.guidance import Align, FvgPtConfig, Guidance, Views, route
from foveate.methods.texts import PlainTexts, unit_mean
from foveate.methods.zeroshot import ZeroShot
from foveate.seeds import stream
from foveate.types import (
    Batch,
    Branch,
    Features,
    ImageFeatures,
    Labels,
    Logits,
    PerImage,
    Scalar,
    TextFeatures,
)

_SIGMAS = 2.0  # lead of the backbone, in standard deviations, for a warning
_MUCH = 0.5  # share of views without foreground for a warning


class FvgPt(PriorBranch, FrozenHost, ForegroundTrust, FrozenFeatures, Diagnostics):
    """Foreground guidance for trained classes, calibration with CLIP's prior for new ones.

    Args:
        backbone: A tuned method; it is frozen here.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Raises:
        InputError: The backbone tunes only the image tower, or a setting is out of range.
    """

    name, title, config_type = "fvgpt", "FVG-PT", FvgPtConfig
    auto = Tried(rank=4)

    def __init__(
        self,
        backbone: Method,
        config: FvgPtConfig | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__(backbone)
        self.config = config or FvgPtConfig()
        generator = generator or stream(0, "init", "fvgpt")
        guidance = Guidance(self.clip.config.embed, self.config, generator, backbone.head_weights)
        # Initialised on the CPU, so that all devices start with the same bits; then converted to the
        # features' precision.
        proj = self.clip.text.proj
        self.guidance = guidance.to(proj.device, torch.promote_types(proj.dtype, torch.float32))
        self.class_seed = int(torch.randint(2**62, (), generator=generator))
        self.tally = self.last_tally = Tally()
        sentences = self.config.prior_templates or (self.config.prior_template,)
        templates = (None if sentence == "dataset" else sentence for sentence in sentences)
        self.plain = [PlainTexts(self.clip, template) for template in templates]  # t_CLIP of Eq. 11
        if backbone.names:
            self.set_classes(backbone.names, backbone.template, backbone.trained_names())

    @classmethod
    def check_host(cls, name: str, host: Method | type[Method]) -> None:
        """Refuse a backbone that learns tensors, but none of texts."""
        if not host.tunes_text and not is_kind(host, ZeroShot):
            reason = "tunes the image tower alone" if host.tunes_vision else "learns nothing of class texts"
            raise InputError(
                f"fvgpt: {name} {reason}. FVG-PT aligns learned class texts with pictures, and its paper"
                " leaves such backbones out: take one that learns texts too"
            )

    @property
    def backbone(self) -> Method:
        """The host; the paper calls it the backbone."""
        return self.host

    def logits(self, features: Features, branch: Branch = "base") -> Logits:
        """Return z_FDC for trained classes, z_PC for new ones, and a mixture for both together.

        Mixed: z_PC decides whether the class is a trained or a new one, because it has CLIP's prior with
        one scale for both. z_FDC contributes only to the choice among trained classes. Without new names
        the result is z_FDC's prediction, without trained names z_PC's.
        """
        if not self.asks_prior(branch):
            return self.guidance.base_logits(_without_prior(features), self._align)
        new = self.guidance.new_logits(*self._new_and_clip(features))
        if branch == "new":
            return new
        base = self.guidance.base_logits(_without_prior(features), self._align)
        return route(base, new, torch.tensor(self.trained, device=new.device), self.config.mixed_weight)

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the terms of Eq. 10 and Eq. 15."""
        views = self._views(features, batch)
        if self.training:
            self.tally.add(**view_counts(self.guidance, views, batch.labels, self._align))
        return self.guidance.losses(views, batch.labels, self._align, self.prior_among(batch.step))

    def prior_among(self, step: int) -> Tensor | None:
        """Return the rows of the classes in the prior branch's losses at a step; None if all."""
        count = len(self.names)
        if self.config.prior_classes == "all" or count < 4:  # half of three is a single class
            return None
        order = torch.randperm(count, generator=stream(self.class_seed, "prior classes", step))
        return order[: count // 2].sort().values.to(self.clip.logit_scale.device)

    def frozen(self) -> dict[str, Frozen]:
        """Declare `image` and `foreground` of the backbone, `area`, and `clip` if that is another tower.

        `clip_foreground` is that tower's feature of the foreground, if CLIP gives r*.
        All are raw features `[H, B, D]`; `area` `[1, B, 1]` is the foreground's share of the view.
        """
        image = frozen_image(self)
        features = {"image": image, "foreground": self._teacher(image), "area": frozen_area()}
        if not self.sees_as_clip:
            clip = frozen_clip(self.clip)
            features["clip"] = clip
            if self.config.target_from == "clip":
                features["clip_foreground"] = self._teacher(clip)
        return features

    def _teacher(self, image: Frozen) -> Frozen:
        """Return the same tower's feature of the picture of the object that settings ask for."""
        teachers = {
            "foreground": image.of("foreground", self.config.fill),
            "exchange": image.exchanged(),
            "crop": image.cropped(),
        }
        return teachers[self.config.teacher]

    @torch.no_grad()
    def views(self, batch: Batch) -> Views:
        """Return the outputs of the frozen models for a batch with masks, or with its frozen features."""
        batch = replace(batch, frozen=batch.frozen | extract(self, batch))
        return self._views(self(batch), batch)

    @torch.no_grad()
    def _views(self, whole: Features, batch: Batch) -> Views:
        frozen = batch.frozen
        image = frozen["foreground"]
        foreground = self.pair(image) if capability(self, TextPerImage) else Features(image, whole.text)
        clip = frozen.get("clip", frozen["image"][:1])  # the same tensor if the backbone tunes only texts
        area = frozen["area"][0, :, 0]
        gate_area = batch.areas if self.config.area_from == "picture" and batch.areas is not None else area
        prior_text, scale = self._prior_text(), self.clip.scale
        clip_foreground = None
        if self.config.target_from == "clip":
            cut_out = frozen.get("clip_foreground", image[:1])
            clip_foreground = align(Features(cut_out, prior_text), scale)
        return Views(
            features=whole,
            full=self._align(whole),
            foreground=self._align(foreground),
            new=self.host.logits(whole, "new"),
            clip=align(Features(clip, prior_text), scale),
            area=area,
            gate_area=gate_area,
            clip_foreground=clip_foreground,
        )

    # --- the prior ---

    @property
    def mixed_weight(self) -> float:
        return self.config.mixed_weight

    def asks_prior(self, branch: Branch | None) -> bool:
        return branch != "base" and self.config.prior_branch

    def with_prior(self, features: Features, image: ImageFeatures) -> Features:
        return Features(features.image, features.text, Features(image, self._prior_text()))

    def trust(self, features: Features) -> PerImage | None:
        """Return b, the prior gate's weight of CLIP (Eq. 12)."""
        return self.guidance.prior_trust(*self._new_and_clip(features)) if self.config.prior_branch else None

    # --- the foreground gate ---

    def has_gate(self) -> bool:
        return self.config.foreground_gate

    def foreground_trust(self, batch: Batch) -> PerImage:
        """Return r (Sec. 3.2); 0 if the view has too little foreground, as in training."""
        views, guidance = self.views(batch), self.guidance
        return guidance.foreground_gate(guidance.indicators(views)).squeeze(-1).sigmoid() * guidance.usable(
            views
        )

    def foreground_target(self, batch: Batch) -> PerImage:
        """Return r* (Eq. 3)."""
        return self.guidance.trust_target(self.views(batch), batch.labels)

    def warnings(self) -> list[str]:
        """Return warnings if the guidance failed in the last epoch."""
        return failures(self.last_tally)

    def _align(self, features: Features) -> Logits:
        """Return the backbone's base logits; fused heads count as one head with weight 1."""
        if len(features.image) < len(self.head_weights):
            return align(features, self.clip.scale)
        return self.host.logits(features, "base")

    def _prior_text(self) -> TextFeatures:
        """Return t_CLIP of Eq. 11; for several sentences, the mean of unit features."""
        return self.plain[0].features() if len(self.plain) == 1 else unit_mean(self.plain)

    def _new_and_clip(self, features: Features) -> tuple[Logits, Logits]:
        if features.prior is None:
            raise ValueError("these features lack CLIP's own: call features(images, branch) for this branch")
        clip = align(features.prior, self.clip.scale)
        return self.host.logits(_without_prior(features), "new"), clip


@torch.no_grad()
def view_counts(guidance: Guidance, v: Views, labels: Labels, align: Align) -> dict[str, Tensor]:
    """Return counts for the views of a batch, before the step; the paper has no such counts.

    `cut_away` (no foreground in the crop), `backbone` and `adapted` (right predictions of z_full and
    z_FDC), `lost` and `won` (right with one and wrong with the other), `target` (smaller error on the
    foreground, r*).
    """
    backbone = v.full.argmax(dim=-1) == labels
    adapted = guidance.base_logits(v.features, align).argmax(dim=-1) == labels
    return {
        "views": torch.ones_like(backbone),
        "cut_away": ~guidance.usable(v),
        "backbone": backbone,
        "adapted": adapted,
        "lost": backbone & ~adapted,
        "won": adapted & ~backbone,
        "target": guidance.trust_target(v, labels) > 0,
    }


def failures(tally: Tally) -> list[str]:
    """Return warnings on an epoch: FDC worse than its backbone, or foregrounds outside the crops.

    With a high learning rate, adapters can become worse than the backbone alone. The loss does not show
    this.
    """
    shares, messages = tally.shares(), list[str]()
    lost, won, views = (tally.total(name) for name in ("lost", "won", "views"))
    if lost - won > max(1.0, _SIGMAS * math.sqrt(lost + won)):
        messages.append(
            f"fvgpt: the adapted features are below their backbone on the training pictures:"
            f" {100 * shares['adapted']:.1f} against {100 * shares['backbone']:.1f} % right"
            f" of {int(views)} views of the last epoch; try a smaller lr, clip_grad=1,"
            " or fvgpt.adapter_input raw"
        )
    if shares.get("cut_away", 0.0) > _MUCH:
        messages.append(
            f"fvgpt: {100 * shares['cut_away']:.0f} % of the views have no object left in them and teach"
            " without a foreground: raise crop_scale, or look at the masks"
        )
    return messages


def _without_prior(features: Features) -> Features:
    return Features(features.image, features.text)
