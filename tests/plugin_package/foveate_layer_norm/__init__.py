"""LayerNorm tuning, as another package brings it: the norms within all blocks of both towers learn.

Each x of a block's norm becomes (x − mean) / deviation · g + b, with g and b learned; they start as CLIP's.

- [0]: Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning, Zhao et al. 2023,
  https://arxiv.org/abs/2312.11420
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate import Clip
from foveate.clip.model import Block, Text, Vision
from foveate.clip.rows import TokenRows, encode_rows
from foveate.methods.base import SentenceMethod, precise
from foveate.methods.capabilities import ExtraTexts
from foveate.methods.config import MethodConfig
from foveate.methods.layers import Tower, twin, with_blocks
from foveate.methods.texts import PlainTexts
from foveate.types import ImageFeatures, Images, TextFeatures

NORMS = ("ln_1", "ln_2")


@dataclass(frozen=True)
class LayerNormConfig(MethodConfig):
    """Settings of LayerNorm tuning.

    Attributes:
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    recipe: ClassVar = {"epochs": 5, "lr": 0.001}
    template: str | None = None


class LayerNormTuning(SentenceMethod, ExtraTexts):
    """The norms of both towers, tuned by cross-entropy."""

    name, title, config_type = "layer_norm", "LN-tuning", LayerNormConfig
    tunes_vision = True

    def __init__(
        self, clip: Clip, config: LayerNormConfig | None = None, generator: torch.Generator | None = None
    ):
        super().__init__(clip)
        self.config = config or LayerNormConfig()
        self.vision_norms, self.text_norms = _started(clip.vision), _started(clip.text)
        self.plain = PlainTexts(clip, self.config.template)

    def encode_text(self) -> TextFeatures:
        return self.encode_rows(self.plain.rows())

    def encode_rows(self, rows: TokenRows) -> TextFeatures:
        return encode_rows(_tuned(self.clip.text, self.text_norms), rows)

    def encode_images(self, images: Images) -> ImageFeatures:
        return precise(_tuned(self.clip.vision, self.vision_norms)(images))[None]


class TunedNorm(nn.LayerNorm):
    """A norm whose gain and shift are others, in float32 under a tower of any precision.

    Attributes:
        tuned: `[2, W]`, the gain and the shift.
    """

    tuned: Tensor

    def forward(self, input: Tensor) -> Tensor:
        gain, shift = self.tuned
        return F.layer_norm(input.to(gain.dtype), self.normalized_shape, gain, shift, self.eps).to(
            input.dtype
        )


def _started(tower: Text | Vision) -> nn.Parameter:
    """Return `[L, 2, 2, W]`: of each block and norm, CLIP's gain and shift."""
    norms = [[block.get_submodule(name) for name in NORMS] for block in tower.blocks]
    values = [torch.stack([torch.stack([norm.weight, norm.bias]) for norm in both]) for both in norms]
    return nn.Parameter(torch.stack(values).detach().float())


def _tuned(tower: Tower, norms: Tensor) -> Tower:
    """Return the tower with these norms in its blocks."""

    def change(layer: int, block: Block) -> Block:
        made = twin(block, Block)
        for name, tuned in zip(NORMS, norms[layer], strict=True):
            norm = twin(block.get_submodule(name), TunedNorm)
            norm.tuned = tuned
            setattr(made, name, norm)
        return made

    return with_blocks(tower, change)
