"""CLIP-Adapter: a small bottleneck behind the image tower, mixed with what went in.

f is a picture's feature, A the bottleneck, λ the ratio: f' = λ A(f) + (1 − λ) f.

- [0]: CLIP-Adapter: Better Vision-Language Models with Feature Adapters, Gao et al. 2021,
  https://arxiv.org/abs/2110.04544
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.base import Method, clip_origin, encode_pictures
from foveate.methods.choices import check_choices
from foveate.methods.layers import perceptron
from foveate.methods.plain import PlainTexts
from foveate.seeds import stream
from foveate.types import Batch, Features, ImageFeatures, Images, Origin, Scalar, TextFeatures


@dataclass(frozen=True)
class ClipAdapterConfig:
    """Settings of CLIP-Adapter.

    Attributes:
        ratio: Share of the bottleneck's answer in the feature (α in [0]); 0 is zero-shot CLIP.
        reduction: How many times narrower the bottleneck is than the feature.
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    ratio: float = 0.2
    reduction: int = 4
    template: str | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 <= self.ratio <= 1:
            raise InputError(f"clip_adapter: ratio is {self.ratio}: give a share, from 0 to 1")
        if self.reduction < 1:
            raise InputError(f"clip_adapter: reduction is {self.reduction}: give 1 or more")


class ClipAdapter(Method):
    """Residual bottleneck on picture features; texts are CLIP's own, so new names can follow at any time.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Of the random start; by default the stream of seed 0.

    Raises:
        InputError: The bottleneck would have no width.
    """

    tunes_text = False

    def __init__(
        self, clip: Clip, config: ClipAdapterConfig | None = None, generator: torch.Generator | None = None
    ):
        super().__init__(clip)
        self.config, generator = config or ClipAdapterConfig(), generator or stream(0, "init", "clip_adapter")
        width, inner = clip.config.embed, clip.config.embed // self.config.reduction
        if not inner:
            raise InputError(
                f"clip_adapter: reduction is {self.config.reduction}, but features have {width} channels:"
                f" give {width} at most"
            )
        bottleneck = perceptron((width, inner, width), generator, bias=False)
        self.adapter = nn.Sequential(*bottleneck, nn.ReLU()).to(clip.logit_scale.device)
        self.plain = PlainTexts(clip, self.config.template)

    def prepare(self) -> None:
        self.plain.prepare(self.names, self.template)

    def encode_text(self) -> TextFeatures:
        return self.plain.features()

    def encode_images(self, images: Images) -> ImageFeatures:
        return self.adapt(encode_pictures(self.clip, images))

    def adapt(self, image: ImageFeatures) -> ImageFeatures:
        """Return `[1, B, D]` mixed features of CLIP's raw ones ([0], Eq. 5 and 6)."""
        ratio, precise = self.config.ratio, next(self.adapter.parameters()).dtype
        return ratio * self.adapter(image.to(precise)).to(image.dtype) + (1 - ratio) * image

    @torch.no_grad()
    def see(self, batch: Batch) -> dict[str, Tensor]:
        return {"image": encode_pictures(self.clip, batch.images)}

    def seen_keys(self) -> dict[str, Origin]:
        return {"image": clip_origin(self.clip)}

    def answer(self, batch: Batch) -> Features:
        return self.pair(self.adapt(self.seen(batch)["image"]))

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Return the cross-entropy. It is no loss that DAPT could add to: texts and towers are frozen."""
        return {"ce": F.cross_entropy(self.logits(self.answer(batch)), batch.labels)}
