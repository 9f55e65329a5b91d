"""CLIP-Adapter: a small bottleneck after the image tower, mixed with its input.

f is a picture's feature, A the bottleneck, λ the ratio: f' = λ A(f) + (1 − λ) f.

- [0]: CLIP-Adapter: Better Vision-Language Models with Feature Adapters, Gao et al. 2021,
  https://arxiv.org/abs/2110.04544
"""

import torch
from torch import nn

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.base import SentenceMethod
from foveate.methods.capabilities import ImageAdapter
from foveate.methods.configs import ClipAdapterConfig
from foveate.methods.layers import perceptron
from foveate.methods.texts import PlainTexts
from foveate.seeds import stream
from foveate.types import ImageFeatures


class ClipAdapter(ImageAdapter, SentenceMethod):
    """Residual bottleneck on picture features; texts are CLIP's own, so new class names work at any time.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Raises:
        InputError: The bottleneck's width would be 0.
    """

    name, title, config_type = "clip_adapter", "CLIP-Adapter", ClipAdapterConfig
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
        """Return `[1, B, D]` mixed features from CLIP's raw ones ([0], Eq. 5 and 6)."""
        ratio, dtype = self.config.ratio, next(self.adapter.parameters()).dtype
        return ratio * self.adapter(image.to(dtype)).to(image.dtype) + (1 - ratio) * image
