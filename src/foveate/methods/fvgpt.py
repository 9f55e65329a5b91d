"""FVG-PT: foreground view-guided prompt tuning, on top of any tuned backbone.

The arithmetic is in `guidance.py`; this file brings it the views: the backbone's and CLIP's answers to the
whole picture and to its foreground.

- [0]: FVG-PT, 2026, https://arxiv.org/abs/2603.08708
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.foreground.views import area, foreground_view
from foveate.methods.base import Method, align, clip_origin, encode_pictures
from foveate.methods.guidance import FvgPtConfig, Guidance, Views
from foveate.methods.plain import PlainTexts
from foveate.methods.tally import Tally
from foveate.methods.zeroshot import ZeroShot
from foveate.seeds import stream
from foveate.types import (
    Batch,
    Branch,
    Features,
    ImageFeatures,
    Images,
    Logits,
    Masks,
    Origin,
    PerImage,
    Scalar,
    TextFeatures,
)


class FvgPt(Method):
    """Foreground guidance for trained classes, calibration with CLIP's prior for new ones.

    Args:
        backbone: A tuned method; it is frozen here.
        config: Settings.
        generator: Of the random start; by default the stream of seed 0.

    Raises:
        InputError: The backbone tunes pictures alone, or a setting is out of its range.
    """

    def __init__(
        self,
        backbone: Method,
        config: FvgPtConfig | None = None,
        generator: torch.Generator | None = None,
    ):
        refuse_visual_only(type(backbone).__name__, backbone)
        super().__init__(backbone.clip, backbone.head_weights)
        self.config = config or FvgPtConfig()
        self.first_patch, self.tunes_text = backbone.first_patch, backbone.tunes_text
        self.text_follows_pictures = backbone.text_follows_pictures
        self.takes_new_names = backbone.takes_new_names
        self.backbone = backbone.requires_grad_(False).eval()
        generator = generator or stream(0, "init", "fvgpt")
        guidance = Guidance(self.clip.config.embed, self.config, generator, backbone.head_weights)
        # Drawn on the CPU, so that every device starts from the same bits; precise as features are.
        tower = self.clip.text.proj
        self.guidance = guidance.to(tower.device, torch.promote_types(tower.dtype, torch.float32))
        self.tally = self.last_tally = Tally()
        sentence = self.config.prior_template
        self.plain = PlainTexts(self.clip, None if sentence == "dataset" else sentence)  # t_CLIP of Eq. 11
        if backbone.names:
            self.set_classes(backbone.names, backbone.template, backbone.trained_names())

    def train(self, mode: bool = True) -> "FvgPt":
        """Set the training mode of the guidance; the backbone stays as it was tuned."""
        self.training = mode
        self.guidance.train(mode)
        return self

    def prepare(self) -> None:
        self.plain.prepare(self.names, self.template)
        self._tell_backbone()

    def encode_text(self) -> TextFeatures:
        """Return the backbone's raw class features; it is frozen, and keeps them."""
        self._tell_backbone()  # somebody else may have asked it about other names meanwhile
        with torch.no_grad():
            return self.backbone.text_features()

    def text_features(self) -> TextFeatures:
        return self.encode_text()  # kept already

    def encode_images(self, images: Images) -> ImageFeatures:
        """Return the backbone's raw features."""
        return self.backbone.encode_images(images)

    def pair(self, image: ImageFeatures) -> Features:
        if self.text_follows_pictures:
            self._tell_backbone()
            return self.backbone.pair(image)
        return Features(image, self.text_features())

    def features(self, images: Images, branch: Branch | None = None) -> Features:
        """Return both sides, and CLIP's own unless `branch` is "base", whose logits do without."""
        image = self.encode_images(images)
        both = self.pair(image)
        if branch == "base" or not self.config.prior_branch:
            return both
        clip = encode_pictures(self.clip, images) if self.backbone.tunes_vision else image[:1]
        return Features(both.image, both.text, Features(clip, self.plain.features()))

    def logits(self, features: Features, branch: Branch = "base") -> Logits:
        """Return z_FDC for trained classes, z_PC for new ones, and for both together a mixture of the two.

        Mixed: z_PC decides whether the picture shows a trained or a new class at all (it has CLIP's prior on
        one scale for both), and z_FDC has a say only in which of the trained ones. With no new name it is
        z_FDC's answer, with no trained one z_PC's.
        """
        if branch == "base" or not self.config.prior_branch:
            return self.guidance.base_logits(_without_prior(features), self._align)
        new = self.guidance.new_logits(*self._new_and_clip(features))
        if branch == "new":
            return new
        base = self.guidance.base_logits(_without_prior(features), self._align)
        return route(base, new, torch.tensor(self.trained, device=new.device), self.config.mixed_weight)

    def trust(self, features: Features) -> PerImage | None:
        """Return b, the prior gate's trust in CLIP (Eq. 12)."""
        return self.guidance.prior_trust(*self._new_and_clip(features)) if self.config.prior_branch else None

    @torch.no_grad()
    def see(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the frozen towers say of a batch; what it brings in `frozen` is not encoded again.

        They are raw features `image` and `foreground` `[H, B, D]`, `area` `[1, B, 1]`, the foreground's share
        of the view, and, if the backbone's image tower is not CLIP's own, `clip` `[1, B, D]`.

        Raises:
            InputError: The batch has no masks.
        """
        size, masks, images = self.clip.config, _masks(batch), batch.images
        shown: dict[str, Images] = {}
        if "image" not in batch.frozen:
            shown["image"] = images
        if "foreground" not in batch.frozen:
            shown["foreground"] = foreground_view(images, masks, self.config.fill, size.mean, size.std)
        seen = {"area": area(masks)[None, :, None]}
        seen |= self._encode(shown)
        if self.backbone.tunes_vision and "clip" not in batch.frozen:
            seen["clip"] = encode_pictures(self.clip, images)
        return seen

    def _encode(self, shown: Mapping[str, Images]) -> dict[str, Tensor]:
        """Encode x and x ⊙ m: in one pass on a GPU, which a few pictures do not fill.

        On a CPU each alone. That takes no longer, and the bits do not depend on which of them a bank holds.
        """
        if len(shown) < 2 or not self.clip.logit_scale.is_cuda:
            return {name: self.encode_images(images) for name, images in shown.items()}
        features = self.encode_images(torch.cat([*shown.values()]))
        return dict(zip(shown, features.tensor_split(len(shown), dim=1), strict=True))

    def seen_keys(self) -> dict[str, Origin]:
        image = self.vision_origin()
        cut = replace(image, what=f"{image.what}, foreground, {self.config.fill}", masked=True)
        keys = {"image": image, "foreground": cut, "area": Origin("area of the view", 1, 1, masked=True)}
        return keys | {"clip": clip_origin(self.clip)} if self.backbone.tunes_vision else keys

    def vision_origin(self) -> Origin:
        return self.backbone.vision_origin()

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Return the terms of Eq. 10 and Eq. 15."""
        views = self.views(batch)
        if self.training:
            self.tally.count(self.guidance, views, batch.labels, self._align)
        return self.guidance.losses(views, batch.labels, self._align)

    def figures(self) -> dict[str, float]:
        """Return what `Tally` counted in the epoch."""
        self.last_tally, self.tally = self.tally, Tally()
        return self.last_tally.figures()

    def notes(self) -> list[str]:
        """Say where the guidance has failed: FDC below its backbone, or objects cut away by the crops."""
        return self.last_tally.notes()

    @torch.no_grad()
    def views(self, batch: Batch) -> Views:
        """Return all that the frozen models say of a batch, with masks (or the bank's features)."""
        seen = self.seen(batch)
        whole = self.pair(seen["image"])
        cut = seen["foreground"]
        foreground = self.pair(cut) if self.text_follows_pictures else Features(cut, whole.text)
        clip = seen.get("clip", seen["image"][:1])  # the same tensor, where the backbone tunes texts alone
        visible = seen["area"][0, :, 0]
        told = batch.areas if self.config.area_from == "picture" and batch.areas is not None else visible
        return Views(
            features=whole,
            full=self._align(whole),
            foreground=self._align(foreground),
            new=self.backbone.logits(whole, "new"),
            clip=align(Features(clip, self.plain.features()), self.clip.scale),
            area=visible,
            told_area=told,
        )

    def _tell_backbone(self) -> None:
        own = self.names, self.template, self.trained
        if own != (self.backbone.names, self.backbone.template, self.backbone.trained):
            self.backbone.set_classes(self.names, self.template, self.trained_names())

    def _align(self, features: Features) -> Logits:
        """The backbone's base alignment; a fused mixture is one head and takes the whole weight."""
        if len(features.image) < len(self.head_weights):
            return align(features, self.clip.scale)
        return self.backbone.logits(features, "base")

    def _new_and_clip(self, features: Features) -> tuple[Logits, Logits]:
        if features.prior is None:
            raise ValueError("these features lack CLIP's own: call features(images, branch) for this branch")
        clip = align(features.prior, self.clip.scale)
        return self.backbone.logits(_without_prior(features), "new"), clip


def route(base: Logits, new: Logits, trained: Tensor, weight: float) -> Logits:
    """Return logits over trained and new names together.

    With T the trained names, log p(T) comes from `new`, and p(c | T) is pooled from both in proportion to
    base^w · new^(1 − w): z_c = log softmax_T(w base + (1 − w) new)_c + logsumexp_T(new) for c in T, and
    z_c = new_c otherwise.

    Args:
        base: `[B, C]` logits to be used among trained names.
        new: `[B, C]` logits on one scale for all names.
        trained: `[C]` which names were trained on.
        weight: w; 1 takes `base` alone among trained names, 0 takes `new` alone everywhere.
    """
    if trained.all():
        return base
    if not trained.any():
        return new
    own = new[:, trained]
    among = (weight * base[:, trained] + (1 - weight) * own).log_softmax(dim=-1)
    routed = new.clone()
    routed[:, trained] = (among + own.logsumexp(dim=-1, keepdim=True)).to(new.dtype)
    return routed


def refuse_visual_only(name: str, backbone: Method | type[Method]) -> None:
    """Refuse a backbone that learns, but nothing of texts.

    Raises:
        InputError: Its texts are fixed.
    """
    kind = backbone if isinstance(backbone, type) else type(backbone)
    if not backbone.tunes_text and not issubclass(kind, ZeroShot):
        what = "tunes the image tower alone" if backbone.tunes_vision else "learns nothing of class texts"
        raise InputError(
            f"fvgpt: {name} {what}. FVG-PT aligns learned class texts with pictures, and its paper leaves"
            " such backbones out: take one that learns texts too"
        )


def _masks(batch: Batch) -> Masks:
    if batch.masks is None:
        raise InputError("fvgpt learns from foreground masks and there are none: give --masks FOLDER")
    return batch.masks


def _without_prior(features: Features) -> Features:
    return Features(features.image, features.text)
