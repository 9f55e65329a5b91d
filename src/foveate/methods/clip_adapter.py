"""CLIP-Adapter: a small bottleneck behind the image tower, mixed with what went in.

f is a picture's feature, A the bottleneck, λ the ratio: f' = λ A(f) + (1 − λ) f.

- [0]: CLIP-Adapter: Better Vision-Language Models with Feature Adapters, Gao et al. 2021,
  https://arxiv.org/abs/2110.04544
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.base import SentenceMethod
from foveate.methods.capabilities import ImageAdapter
from foveate.methods.config import MethodConfig
from foveate.methods.layers import perceptron
from foveate.methods.texts import PlainTexts
from foveate.seeds import stream
from foveate.types import ImageFeatures


@dataclass(frozen=True)
class ClipAdapterConfig(MethodConfig):
    """Settings of CLIP-Adapter.

    Attributes:
        ratio: Share of the bottleneck's answer in the feature (α in [0]); 0 is zero-shot CLIP.
        reduction: How many times narrower the bottleneck is than the feature.
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    part: ClassVar[str] = "clip_adapter"
    ratio: float = 0.2
    reduction: int = 4
    template: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(
            ratio=(0 <= self.ratio <= 1, "a share, from 0 to 1"), reduction=(self.reduction >= 1, "1 or more")
        )


class ClipAdapter(ImageAdapter, SentenceMethod):
    """Residual bottleneck on picture features; texts are CLIP's own, so new names can follow at any time.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Of the random start; by default the stream of seed 0.

    Raises:
        InputError: The bottleneck would have no width.
    """

    name, title, config_type = "clip_adapter", "CLIP-Adapter", ClipAdapterConfig
    recipe: ClassVar = {"epochs": 20, "optimiser": "adamw", "lr": 0.001, "batch_size": 32}
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

    def adapt(self, image: ImageFeatures) -> ImageFeatures:
        """Return `[1, B, D]` mixed features of CLIP's raw ones ([0], Eq. 5 and 6)."""
        ratio, precise = self.config.ratio, next(self.adapter.parameters()).dtype
        return ratio * self.adapter(image.to(precise)).to(image.dtype) + (1 - ratio) * image
