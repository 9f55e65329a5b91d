"""TCP: CoOp's learned vectors, and class-aware tokens in the upper blocks of the text tower.

- [0]: TCP: Textual-based Class-aware Prompt Tuning for Visual-Language Model, Yao et al. 2024,
  https://arxiv.org/abs/2311.18231
"""

from collections import OrderedDict
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.model import Clip, Edit
from foveate.clip.rows import ClassTokens, encode_rows
from foveate.errors import InputError
from foveate.methods.base import SentenceMethod
from foveate.methods.capabilities import TextRecipe
from foveate.methods.configs import TcpConfig
from foveate.methods.layers import QuickGelu, linear
from foveate.methods.prompts import PUBLISHED_BLOCKS, PromptMethod, embedded_start
from foveate.methods.texts import PlainTexts
from foveate.seeds import stream
from foveate.types import Batch, Features, Scalar, TextFeatures

REDUCTION = 4
"""Ratio of a feature's width to the hidden width of the embedding of class knowledge ([0])."""

PUBLISHED_BLOCK = 9
"""First text block with class-aware tokens, of 12, counted from 1."""


class Tcp(PromptMethod, SentenceMethod):
    """Textual-based class-aware prompt tuning: 331,904 parameters with ViT-B/16.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Raises:
        InputError: `tokens` is below 1 or above the length of `init`, or the text tower does not have
            the block.
    """

    name, title, config_type = "tcp", "TCP", TcpConfig

    def __init__(self, clip: Clip, config: TcpConfig | None = None, generator: torch.Generator | None = None):
        self.config, generator = config or TcpConfig(), generator or stream(0, "init", "tcp")
        tokens, clip_config = self.config.tokens, clip.config
        super().__init__(clip, *embedded_start(clip, tokens, self.config.init, generator, "tcp"))
        self.layer = entry_layer(self.config.block, clip_config.text.layers)
        hidden = max(1, clip_config.embed // REDUCTION)
        first, last = (
            linear(clip_config.embed, hidden, generator),
            linear(hidden, tokens * clip_config.text.width, generator),
        )
        self.meta_net = nn.Sequential(OrderedDict(linear1=first, gelu=QuickGelu(), linear2=last))
        self.meta_net.to(self.ctx.device)
        self.plain = PlainTexts(clip, self.config.template)  # W

    def encode_text(self) -> TextFeatures:
        """Return class features; from `block` on, tokens T_c of each class replace the learned vectors."""
        class_tokens = ClassTokens(self.layer, self.class_tokens())
        return encode_rows(self.clip.text, self.rows, self.ctx, class_tokens=class_tokens)

    def text_recipe(self) -> TextRecipe:
        return replace(super().text_recipe(), kind="known", edit=self._edit)

    def _edit(self, known: Tensor | None) -> Edit:
        """Return the edit that puts the class-aware tokens in the places of the learned vectors."""
        assert known is not None
        t_c = self.tokens_of(known)

        def edit(layer: int, x: Tensor) -> Tensor:
            return torch.cat([x[:, :1], t_c, x[:, 1 + t_c.shape[1] :]], dim=1) if layer == self.layer else x

        return edit

    def class_tokens(self) -> Float[Tensor, "classes tokens width"]:
        """Return T_c, computed from the fixed class texts ([0], Textual Knowledge Embedding)."""
        return self.tokens_of(self.plain.features())

    def tokens_of(self, known: TextFeatures) -> Float[Tensor, "classes tokens width"]:
        """Return T_c of fixed class texts `[C, D]`."""
        unit = F.normalize(known, dim=-1)
        return self.meta_net(unit.to(self.ctx.dtype)).unflatten(-1, (self.config.tokens, -1))

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the cross-entropy and w · (1 − mean cosine of learned and fixed class texts)."""
        knowledge = self.config.weight * self.text_drift(features)
        return super().losses(features, batch) | {"knowledge": knowledge}


def entry_layer(configured: int | None, blocks: int) -> int:
    """Return the block, counted from 0, before which class-aware tokens are inserted.

    Args:
        configured: The setting, counted from 1; None takes 9 of 12, or the same share of fewer blocks.
        blocks: Number of blocks of the text tower.

    Raises:
        InputError: The tower does not have this block.
    """
    if configured is None:
        return (PUBLISHED_BLOCK - 1) * min(blocks, PUBLISHED_BLOCKS) // PUBLISHED_BLOCKS
    if not 1 <= configured <= blocks:
        raise InputError(
            f"tcp: block is {configured}, but the text tower has {blocks} blocks: give 1 to {blocks}"
        )
    return configured - 1
