"""CLIP-LoRA: low-rank updates of the attention weights of both towers.

With W the weight of the queries, keys or values and x its input, an updated layer computes W x + s B A
x. A is `[r, W]` and called `down`, B is `[W, r]` and called `up`. In training, dropout is applied to the
input of A. The updates are applied beside a frozen tower, or merged into its weights.

- [0]: Low-Rank Few-Shot Adaptation of Vision-Language Models, Zanella and Ben Ayed 2024,
  https://arxiv.org/abs/2405.18541
- [1]: LoRA: Low-Rank Adaptation of Large Language Models, Hu et al. 2021, https://arxiv.org/abs/2106.09685
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.clip.linear import linear
from foveate.clip.model import Block, Clip, Text
from foveate.clip.rows import CHUNK, encode_rows
from foveate.errors import InputError
from foveate.methods.base import precise
from foveate.methods.capabilities import BatchSplit, TunedTextTower
from foveate.methods.configs import ClipLoraConfig
from foveate.methods.layers import Tower, twin, with_blocks
from foveate.methods.texts import Cache, PlainTexts, tensors_of
from foveate.seeds import stream
from foveate.types import Batch, Features, ImageFeatures, Images

PARTS = 3
"""Queries, keys and values."""

Down = Float[Tensor, "parts rank width"]
Up = Float[Tensor, "parts width rank"]
Weight = Float[Tensor, "three_width width"]


@dataclass(frozen=True)
class Drops:
    """Dropout of one training step; the same seed and names drop the same numbers.

    Attributes:
        rate: Dropout rate of A's input; the other numbers are multiplied with 1 / (1 − rate).
        seed: Seed of the run.
        stream_names: Names of the step and the tower; each block has its own stream.
        passes: Number of passes per block and step. A further pass would need other random numbers, so
            it fails.
    """

    rate: float
    seed: int
    stream_names: tuple[str | int, ...]
    passes: int


class LowRank(nn.Module):
    """Low-rank updates of all blocks of a tower.

    Args:
        blocks: Number of blocks of the tower.
        width: Width of the tower.
        rank: Rank r.
        scale: Scale s.
        generator: Random generator: A is uniform as in PyTorch's linear layers, B is zero.
    """

    def __init__(self, blocks: int, width: int, rank: int, scale: float, generator: torch.Generator):
        super().__init__()
        self.scale = scale
        down = torch.empty(blocks, PARTS, rank, width)
        self.down = nn.Parameter(down.uniform_(-(width**-0.5), width**-0.5, generator=generator))
        self.up = nn.Parameter(torch.zeros(blocks, PARTS, width, rank))
        self._merged = Cache()

    def beside(self, tower: Tower, drops: Drops | None = None) -> Tower:
        """Return the tower with the updates beside its weights, for training."""

        def change(layer: int, linear: nn.Linear) -> nn.Linear:
            updated = twin(linear, BesideLinear)
            updated.down, updated.up, updated.scale = self.down[layer], self.up[layer], self.scale
            updated.drops = (
                None if drops is None else replace(drops, stream_names=(*drops.stream_names, layer))
            )
            updated.masks, updated.drawn = None, 0
            return updated

        return _with_qkv(tower, change)

    def merged(self, tower: Tower) -> Tower:
        """Return the tower with the updates merged into its weights: at full speed, not for training.

        The merged weights are cached until the weights or the updates change.
        """
        concatenated = self._merged.get(
            (), [*tensors_of(self), *tensors_of(tower)], lambda: self._merge(tower)
        )
        weights = concatenated.split(len(concatenated) // len(tower.blocks))

        def change(layer: int, linear: nn.Linear) -> nn.Linear:
            updated = twin(linear, MergedLinear)
            updated.merged = weights[layer]
            return updated

        return _with_qkv(tower, change)

    def forget(self) -> None:
        """Clear the cache of merged weights."""
        self._merged.forget()

    def _merge(self, tower: Tower) -> Weight:
        """Return W + s B A of all blocks, concatenated."""
        frozen = torch.stack([block.get_submodule("qkv").get_parameter("weight") for block in tower.blocks])
        updates = self.scale * (self.up @ self.down).flatten(1, 2)
        return (frozen.to(updates.dtype) + updates).to(frozen.dtype).flatten(0, 1)


class MergedLinear(nn.Linear):
    """A linear layer with a replaced weight.

    Attributes:
        merged: The replacement.
    """

    merged: Weight

    def forward(self, input: Tensor) -> Tensor:  # the parent's name
        return linear(input, self.merged, self.bias)


class BesideLinear(nn.Linear):
    """A linear layer for queries, keys and values, each with a low-rank update.

    Attributes:
        down: A of queries, keys and values.
        up: B of queries, keys and values.
        scale: s.
        drops: Dropout of A's input; None drops nothing.
        masks: Random generator of the dropout masks.
        drawn: Number of dropout masks drawn so far.
    """

    down: Down
    up: Up
    scale: float
    drops: Drops | None
    masks: torch.Generator | None
    drawn: int

    def forward(self, input: Tensor) -> Tensor:  # the parent's name
        base = linear(input, self.weight, self.bias)
        x = input.to(self.down.dtype)
        if self.drops is None:
            low = (x @ self.down.flatten(0, 1).T).unflatten(-1, self.down.shape[:2])
        else:
            parts = [self._dropout(x, self.drops) @ down.T for down in self.down]
            low = torch.stack(parts, dim=-2)
        update = torch.einsum("...pr,pwr->...pw", low, self.up).flatten(-2)
        return base + (self.scale * update).to(base.dtype)

    def _dropout(self, x: Tensor, drops: Drops) -> Tensor:
        if self.masks is None:
            self.masks = stream(drops.seed, *drops.stream_names, device=x.device.type)
        if self.drawn == PARTS * drops.passes:
            raise InputError(
                "the class texts do not fit into memory at once, as dropout needs it: give dropout=0, or"
                " fewer classes"
            )
        self.drawn += 1
        mask = torch.empty_like(x).bernoulli_(1 - drops.rate, generator=self.masks)
        return x * mask / (1 - drops.rate)


def _with_qkv(tower: Tower, change: Callable[[int, nn.Linear], nn.Linear]) -> Tower:
    def change_block(layer: int, block: Block) -> Block:
        updated = twin(block, Block)
        updated.qkv = change(layer, block.qkv)
        return updated

    return with_blocks(tower, change_block)


class ClipLora(TunedTextTower, BatchSplit):
    """Low-rank adaptation of queries, keys and values in all blocks: 184,320 parameters with ViT-B/16.

    Its loss is the cross-entropy.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of initial values and dropout; by default the stream of seed 0.

    Raises:
        InputError: A setting is out of range, or the template does not have exactly one `{}`.
    """

    name, title, config_type = "clip_lora", "CLIP-LoRA", ClipLoraConfig
    tunes_vision = True

    def __init__(
        self, clip: Clip, config: ClipLoraConfig | None = None, generator: torch.Generator | None = None
    ):
        self.config, generator = config or ClipLoraConfig(), generator or stream(0, "init", "clip_lora")
        super().__init__(clip)
        device, rank = clip.text.proj.device, self.config.rank
        create = partial(LowRank, rank=rank, scale=self.config.alpha / rank**0.5, generator=generator)
        text, vision = clip.config.text, clip.config.vision
        self.text_lora = create(text.layers, text.width).to(device)
        self.vision_lora = create(vision.layers, vision.width).to(device)
        self.drop_seed = int(torch.randint(2**62, (), generator=generator))
        self.plain = PlainTexts(clip, self.config.template)

    def set_classes(
        self, names: Sequence[str], template: str | None = None, trained: Collection[str] | None = None
    ) -> None:
        super().set_classes(names, template, trained)
        for updates in (self.text_lora, self.vision_lora):
            updates.forget()

    def text_tower(self) -> Text:
        """Return the text tower with its updates."""
        return _with_updates(self.clip.text, self.text_lora)

    def encode_images(self, images: Images) -> ImageFeatures:
        """Return picture features of the updated image tower."""
        return precise(_with_updates(self.clip.vision, self.vision_lora)(images))[None]

    def forward(self, batch: Batch) -> Features:
        """Return features of a batch; in training with dropout, which depends on the batch's step."""
        if not self.training or not self.config.dropout:
            return super().forward(batch)
        rows = self.plain.rows()
        # No checkpointing of texts: the second pass for the gradient would drop other numbers.
        vision = self.vision_lora.beside(self.clip.vision, self._drops(batch.step, "vision", 1))
        text = self.text_lora.beside(self.clip.text, self._drops(batch.step, "text", 2))
        chunk = max(CHUNK, sum(rows.lengths))
        return Features(precise(vision(batch.images))[None], encode_rows(text, rows, chunk=chunk))

    def whole_batch_reason(self) -> str | None:
        if not self.config.dropout:
            return None
        return (
            "clip_lora draws what is dropped for a batch as a whole, which processes that share it cannot:"
            " take --clip-lora.dropout 0, or one process"
        )

    def _drops(self, step: int, tower: str, passes: int) -> Drops:
        return Drops(self.config.dropout, self.drop_seed, ("dropout", step, tower), passes)


def _with_updates(tower: Tower, updates: LowRank) -> Tower:
    """Return the tower with its updates: beside the weights in training, else merged."""
    needs_gradient = torch.is_grad_enabled() and updates.up.requires_grad
    return updates.beside(tower) if needs_gradient else updates.merged(tower)
