"""IVLP: independent learned tokens in both towers, in many blocks.

It is the baseline "independent V-L prompting" of [0], and the model that PromptSRC trains.

- [0]: MaPLe: Multi-modal Prompt Learning, Khattak et al. 2023, https://arxiv.org/abs/2210.03117
"""

from functools import partial
from typing import ClassVar

import torch
from torch import nn

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.capabilities import LabelTerm
from foveate.methods.configs import IvlpConfig
from foveate.methods.prompts import (
    DeepPromptMethod,
    deep_start,
    embedded_start,
    encode_prompted,
    noise,
    official_deep,
    resolve_depth,
)
from foveate.seeds import stream
from foveate.types import ImageFeatures, Images


class Ivlp(DeepPromptMethod, LabelTerm):
    """Independent vision-language prompting: 30,720 parameters with ViT-B/16. Its loss is the cross-entropy.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Raises:
        InputError: `tokens` is below 1 or above the length of `init`, or a tower has fewer blocks than a
            depth.
    """

    name, title, config_type = "ivlp", "IVLP", IvlpConfig
    tunes_vision = True
    published_depth: ClassVar[int] = 12

    def __init__(
        self, clip: Clip, config: IvlpConfig | None = None, generator: torch.Generator | None = None
    ):
        config, generator = config or IvlpConfig(), generator or stream(0, "init", self.name)
        text_depth, vision_depth = self._depths(clip, config)
        super().__init__(clip, *embedded_start(clip, config.tokens, config.init, generator, self.name))
        self.config, self.tunes_vision = config, vision_depth > 0
        create = partial(deep_start, generator=generator, like=clip.text.proj)
        width = clip.config.vision.width
        self.deep_text = create(text_depth, config.tokens, clip.config.text.width)
        if self.tunes_vision:
            initial = noise(config.vision_tokens, width, generator=generator, like=clip.text.proj)
            self.vision_ctx = nn.Parameter(initial)
        self.deep_vision = create(vision_depth, config.vision_tokens, width)

    def encode_images(self, images: Images) -> ImageFeatures:
        """Return picture features; each block has its own tokens after the patches."""
        if not self.tunes_vision:
            return super().encode_images(images)
        return encode_prompted(self.clip.vision, images, self.vision_ctx, self.deep_vision)

    def official_names(self) -> dict[str, str | list[str]]:
        names = super().official_names()
        if self.tunes_vision:
            names["vision_ctx"] = "image_encoder.VPT"
        if self.deep_text is not None:
            names["deep_text"] = official_deep("text_encoder", self.deep_text)
        if self.deep_vision is not None:
            names["deep_vision"] = official_deep("image_encoder", self.deep_vision)
        return names

    def _depths(self, clip: Clip, config: IvlpConfig) -> tuple[int, int]:
        """Return the depths in the text tower and in the image tower."""
        text, vision, published = clip.config.text, clip.config.vision, self.published_depth
        text_depth = resolve_depth(config.text_depth, text.layers, published, f"{self.name}: text_depth")
        vision_depth = resolve_depth(
            config.vision_depth, vision.layers, published, f"{self.name}: vision_depth", least=0
        )
        if vision_depth and config.vision_tokens < 1:
            raise InputError(
                f"{self.name}: vision_tokens is {config.vision_tokens}: give at least one, or vision_depth=0"
                " to leave pictures alone"
            )
        return text_depth, vision_depth
