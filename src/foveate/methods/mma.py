"""MMA: small adapters parallel to the upper blocks of both towers, with one layer shared by both towers.

- [0]: MMA: Multi-Modal Adapter for Vision-Language Models, Yang et al. 2024 (CVPR),
  https://github.com/ZjjConan/Multi-Modal-Adapter
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.clip.model import Block, Clip, Text
from foveate.errors import InputError
from foveate.methods.base import precise
from foveate.methods.capabilities import TunedTextTower
from foveate.methods.configs import MmaConfig
from foveate.methods.layers import Tower, linear, twin, with_blocks
from foveate.methods.prompts import PUBLISHED_BLOCKS
from foveate.methods.texts import PlainTexts
from foveate.seeds import stream
from foveate.types import ImageFeatures, Images

States = Float[Tensor, "*rows width"]


class Mma(TunedTextTower):
    """Multi-modal adapter: 674,560 parameters with ViT-B/16. Its loss is the cross-entropy.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Raises:
        InputError: The towers do not have the first block, or the template does not have exactly one
            `{}`.
    """

    name, title, config_type = "mma", "MMA", MmaConfig
    tunes_vision = True

    def __init__(self, clip: Clip, config: MmaConfig | None = None, generator: torch.Generator | None = None):
        self.config, generator = config or MmaConfig(), generator or stream(0, "init", "mma")
        super().__init__(clip)
        vision, text, proj, hidden = clip.config.vision, clip.config.text, clip.text.proj, self.config.width
        self.first_block, last = adapter_blocks(self.config.first_block, min(vision.layers, text.layers))
        blocks = last - self.first_block + 1
        self.text_adapters = _adapters(blocks, text.width, hidden, generator).to(proj.device)
        self.vision_adapters = _adapters(blocks, vision.width, hidden, generator).to(proj.device)
        shared = [_start(hidden, hidden, generator) for _ in range(blocks)]
        self.shared = nn.ModuleList(shared).to(proj.device)
        self.plain = PlainTexts(clip, self.config.template)

    def text_tower(self) -> Text:
        """Return the text tower with its adapters."""
        return self._adapted(self.clip.text, self.text_adapters)

    def encode_images(self, images: Images) -> ImageFeatures:
        """Return picture features of the image tower with its adapters."""
        return precise(self._adapted(self.clip.vision, self.vision_adapters)(images))[None]

    def _adapted(self, tower: Tower, adapters: nn.ModuleList) -> Tower:
        def change(layer: int, block: Block) -> Block:
            k = layer + 1 - self.first_block
            if not 0 <= k < len(adapters):
                return block
            adapted = twin(block, AdaptedBlock)
            adapted.adapter = cast("nn.ModuleDict", adapters[k])
            adapted.shared = cast("nn.Linear", self.shared[k])
            adapted.scale = self.config.scale
            return adapted

        return with_blocks(tower, change)


class AdaptedBlock(Block):
    """A block with a parallel adapter: both have the same input, and their outputs are added ([0]).

    Attributes:
        adapter: `down` and `up`, of one tower.
        shared: The layer between them, shared by both towers.
        scale: s.
    """

    adapter: nn.ModuleDict
    shared: nn.Linear
    scale: float

    def beside(self, x: States, read: States) -> States:
        """Return x + s · up(relu(shared(relu(down(read))))), where read is the output of the first norm."""
        scaled = cast("States", _Scaled.apply(read.to(self.shared.weight.dtype), 1.0, self.scale))
        hidden = self.shared(self.adapter["down"](scaled).relu()).relu()
        out = cast("States", _Scaled.apply(self.adapter["up"](hidden), self.scale, 1.0))
        return x + out.to(x.dtype)


class _Scaled(torch.autograd.Function):
    """Multiplies by one factor in the forward pass, and by another one in the backward pass.

    After the adapter the factors are s forward and 1 backward; before it they are 1 forward and s
    backward. So earlier layers get the true gradient. The adapter's own tensors get the gradient of s =
    1, so a small scale does not slow their training ([0]).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: float, backward: float) -> Tensor:
        ctx.backward_factor = backward
        return x * forward

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.backward_factor, None, None


def adapter_blocks(configured: int | None, blocks: int) -> tuple[int, int]:
    """Return the first and the last block with an adapter, counted from 1; equal in both towers.

    Args:
        configured: The first one; None takes 5 of 12, or the block after one third of fewer blocks.
        blocks: Number of blocks of the shallower tower.

    Raises:
        InputError: The towers do not have this block.
    """
    last = min(blocks, PUBLISHED_BLOCKS)
    first = last // 3 + 1 if configured is None else configured
    if not 1 <= first <= last:
        raise InputError(f"mma: first_block is {first}, and adapters end with block {last}: give 1 to {last}")
    return first, last


def _adapters(blocks: int, width: int, hidden: int, generator: torch.Generator) -> nn.ModuleList:
    """Return the adapters of one tower, without the shared layer."""
    return nn.ModuleList(
        nn.ModuleDict({"down": _start(width, hidden, generator), "up": _start(hidden, width, generator)})
        for _ in range(blocks)
    )


def _start(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer with initial weights N(0, 2 / fan_out) and zero bias, as in [0]."""
    layer = linear(fan_in, fan_out, generator)
    with torch.no_grad():
        layer.weight.normal_(0.0, (2 / fan_out) ** 0.5, generator=generator)
        layer.bias.zero_()
    return layer
