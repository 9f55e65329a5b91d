"""MaPLe: learned text tokens in many blocks, and image tokens computed from them by linear maps.

- [0]: MaPLe: Multi-modal Prompt Learning, Khattak et al. 2023, https://arxiv.org/abs/2210.03117
"""

import torch

from foveate.clip.model import Clip
from foveate.methods.capabilities import LabelTerm
from foveate.methods.configs import MapleConfig
from foveate.methods.layers import copies, linear
from foveate.methods.prompts import (
    DeepPromptMethod,
    DeepTokens,
    deep_start,
    embedded_start,
    encode_prompted,
    resolve_depth,
)
from foveate.seeds import stream
from foveate.types import ImageFeatures, Images


class Maple(DeepPromptMethod, LabelTerm):
    """Multi-modal prompt learning: 3,555,072 parameters with ViT-B/16.

    Class texts have tokens P_k before each block ([0], Sec. 3.2.1); the loss is the cross-entropy.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Raises:
        InputError: `tokens` is below 1 or above the length of `init`, or a tower has fewer blocks than
            `depth`.
    """

    name, title, config_type = "maple", "MaPLe", MapleConfig
    tunes_vision = True

    def __init__(
        self, clip: Clip, config: MapleConfig | None = None, generator: torch.Generator | None = None
    ):
        config, generator = config or MapleConfig(), generator or stream(0, "init", "maple")
        vision, text, proj = clip.config.vision, clip.config.text, clip.text.proj
        depth = resolve_depth(config.depth, min(vision.layers, text.layers), 9, "maple: depth")
        super().__init__(clip, *embedded_start(clip, config.tokens, config.init, generator, "maple"))
        self.config = config
        self.deep_text = deep_start(depth, config.tokens, text.width, generator=generator, like=proj)
        self.map = linear(text.width, vision.width, generator).to(proj.device)
        self.deep_maps = copies(linear(text.width, vision.width, generator), depth - 1).to(proj.device)

    def encode_images(self, images: Images) -> ImageFeatures:
        """Return picture features; each block has its F_k(P_k) after the patches ([0], Sec. 3.2.2)."""
        return encode_prompted(self.clip.vision, images, self.map(self.ctx), self.deep_vision())

    def deep_vision(self) -> DeepTokens | None:
        """Return F_k(P_k), the image tokens of all blocks except the first ([0], Sec. 3.2.3)."""
        if self.deep_text is None:
            return None
        pairs = zip(self.deep_maps, self.deep_text, strict=True)
        return torch.stack([to_vision(tokens) for to_vision, tokens in pairs])

    def official_names(self) -> dict[str, str | list[str]]:
        learner = "prompt_learner"
        names = super().official_names()
        blocks = range(len(self.deep_maps))
        if self.deep_text is not None:
            names["deep_text"] = [f"{learner}.compound_prompts_text.{k}" for k in blocks]
        for tensor in ("weight", "bias"):
            names[f"map.{tensor}"] = f"{learner}.proj.{tensor}"
            for k in blocks:
                names[f"deep_maps.{k}.{tensor}"] = f"{learner}.compound_prompt_projections.{k}.{tensor}"
        return names
