"""VPT: learned tokens in the image tower only; class texts are fixed sentences.

- [0]: Visual Prompt Tuning, Jia et al. 2022, https://arxiv.org/abs/2203.12119
- [1]: MaPLe, Khattak et al. 2023, https://arxiv.org/abs/2210.03117, with code of VPT for CLIP
"""

import torch
from torch import nn

from foveate.clip.model import Clip
from foveate.clip.rows import TokenRows, encode_rows
from foveate.errors import InputError
from foveate.methods.base import SentenceMethod
from foveate.methods.capabilities import ExtraTexts, LabelTerm, OfficialCheckpoint
from foveate.methods.configs import VptConfig
from foveate.methods.prompts import deep_start, encode_prompted, noise, official_deep, resolve_depth
from foveate.methods.texts import PlainTexts
from foveate.seeds import stream
from foveate.types import ImageFeatures, Images, TextFeatures


class Vpt(SentenceMethod, ExtraTexts, OfficialCheckpoint, LabelTerm):
    """Visual prompt tuning: 73,728 parameters with ViT-B/16. Its loss is the cross-entropy.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Raises:
        InputError: `tokens` is below 1, or the image tower has fewer blocks than `depth`.
    """

    name, title, config_type = "vpt", "VPT", VptConfig
    tunes_vision = True
    tunes_text = False

    def __init__(self, clip: Clip, config: VptConfig | None = None, generator: torch.Generator | None = None):
        super().__init__(clip)
        self.config, generator = config or VptConfig(), generator or stream(0, "init", "vpt")
        tokens, tower, proj = self.config.tokens, clip.config.vision, clip.vision.proj
        if tokens < 1:
            raise InputError(f"vpt: tokens is {tokens}, but at least one token must be learned")
        depth = resolve_depth(self.config.depth, tower.layers, 12, "vpt: depth")
        self.vision_ctx = nn.Parameter(noise(tokens, tower.width, generator=generator, like=proj))
        self.deep_vision = deep_start(depth, tokens, tower.width, generator=generator, like=proj)
        self.plain = PlainTexts(clip, self.config.template)

    @torch.no_grad()
    def encode_rows(self, rows: TokenRows) -> TextFeatures:
        return encode_rows(self.clip.text, rows)

    def encode_images(self, images: Images) -> ImageFeatures:
        """Return picture features; each block has its own tokens after the patches ([0], "VPT-deep")."""
        return encode_prompted(self.clip.vision, images, self.vision_ctx, self.deep_vision)

    def official_names(self) -> dict[str, str | list[str]]:
        names: dict[str, str | list[str]] = {"vision_ctx": "image_encoder.VPT"}
        if self.deep_vision is not None:
            names["deep_vision"] = official_deep("image_encoder", self.deep_vision)
        return names
