"""LN-tuning: the gains and shifts of all norms of both towers, tuned by cross-entropy.

A norm computes y = (x − mean) / deviation · g + b over the width of a token. All g and b learn, from
CLIP's values. It is the first stage of 2SFS ([0], Sec. 4); `foveate.methods.two_stage` is the second.

- [0]: Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages, Farina et al. 2025,
  https://arxiv.org/abs/2503.11609
"""

from collections.abc import Sequence
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.model import Block, Clip, Text
from foveate.methods.base import precise
from foveate.methods.capabilities import TunedTextTower
from foveate.methods.configs import LnTuningConfig
from foveate.methods.layers import Tower, twin, with_blocks
from foveate.methods.texts import PlainTexts
from foveate.types import ImageFeatures, Images

BLOCK_NORMS = ("ln_1", "ln_2")
VISION_NORMS, TEXT_NORMS = ("ln_pre", "ln_post"), ("ln_final",)
"""Names of the norms within a block, and around the blocks of each tower."""

Norms = Float[Tensor, "norms 2 width"]
"""Gain and shift of each norm: those of the blocks in order, then those around them."""


class TunedNorm(nn.LayerNorm):
    """A norm with another gain and shift, in float32 also under a tower of half precision.

    Attributes:
        tuned: `[2, W]` gain and shift.
    """

    tuned: Tensor

    def forward(self, input: Tensor) -> Tensor:  # the parent's name
        gain, shift = self.tuned
        normed = F.layer_norm(input.to(gain.dtype), self.normalized_shape, gain, shift, self.eps)
        return normed.to(input.dtype)


class LnTuning(TunedTextTower):
    """The norms of both towers, tuned by cross-entropy: 65,536 parameters with ViT-B/16.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Not used: the initial values are CLIP's.

    Attributes:
        vision_norms: Gain and shift of each norm of the image tower.
        text_norms: Gain and shift of each norm of the text tower.

    Raises:
        InputError: The template does not have exactly one `{}`.
    """

    name, title, config_type = "ln_tuning", "LN-tuning", LnTuningConfig
    tunes_vision = True

    def __init__(
        self, clip: Clip, config: LnTuningConfig | None = None, generator: torch.Generator | None = None
    ):
        super().__init__(clip)
        self.config = config or LnTuningConfig()
        self.vision_norms = _norms_of(clip.vision, VISION_NORMS)
        self.text_norms = _norms_of(clip.text, TEXT_NORMS)
        self.plain = PlainTexts(clip, self.config.template)

    def text_tower(self) -> Text:
        """Return the text tower with the tuned norms."""
        return with_norms(self.clip.text, self.text_norms, TEXT_NORMS)

    def encode_images(self, images: Images) -> ImageFeatures:
        """Return picture features of the tuned image tower."""
        return precise(with_norms(self.clip.vision, self.vision_norms, VISION_NORMS)(images))[None]


def with_norms(tower: Tower, norms: Norms, around: Sequence[str]) -> Tower:
    """Return a tower with other gains and shifts; the tower does not change.

    Args:
        tower: The tower.
        norms: Gain and shift of each norm.
        around: Names of the norms around the blocks.
    """

    def tuned(module: nn.Module, names: Sequence[str], values: Norms) -> None:
        for name, value in zip(names, values, strict=True):
            norm = twin(module.get_submodule(name), TunedNorm)
            norm.tuned = value
            setattr(module, name, norm)

    def change(layer: int, block: Block) -> Block:
        result, first = twin(block, Block), layer * len(BLOCK_NORMS)
        tuned(result, BLOCK_NORMS, norms[first : first + len(BLOCK_NORMS)])
        return result

    result = with_blocks(tower, change)
    tuned(result, around, norms[len(BLOCK_NORMS) * len(tower.blocks) :])
    return result


def _norms_of(tower: Tower, around: Sequence[str]) -> nn.Parameter:
    """Return `[N, 2, W]`, CLIP's gains and shifts, as a float32 parameter."""
    within = (block.get_submodule(name) for block in tower.blocks for name in BLOCK_NORMS)
    norms = chain(within, (tower.get_submodule(name) for name in around))
    values = [torch.stack([norm.get_parameter("weight"), norm.get_parameter("bias")]) for norm in norms]
    return nn.Parameter(torch.stack(values).detach().float())
