"""CoCoOp: CoOp with a shift of the learned vectors by each picture.

- [0]: Conditional Prompt Learning for Vision-Language Models, Zhou et al. 2022,
  https://arxiv.org/abs/2203.05557
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from foveate.clip.model import Clip
from foveate.clip.rows import encode_rows
from foveate.methods.capabilities import LabelTerm, OfficialCheckpoint, TextPerImage, TextRecipe
from foveate.methods.configs import CoCoOpConfig
from foveate.methods.layers import linear
from foveate.methods.prompts import PromptMethod, embedded_start
from foveate.seeds import stream
from foveate.types import ImageFeatures, TextFeatures

REDUCTION = 16
"""Ratio of a feature's width to the hidden width of the meta-net ([0], Sec. 3.2)."""


class CoCoOp(TextPerImage, PromptMethod, OfficialCheckpoint, LabelTerm):
    """Conditional context optimisation: each picture has its own class texts.

    `encode_text` returns the texts without a shift, for inspection of the learned vectors; predictions
    do not use them.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Raises:
        InputError: `tokens` is below 1, or above the length of `init`.
    """

    name, title, config_type = "cocoop", "CoCoOp", CoCoOpConfig

    def __init__(
        self, clip: Clip, config: CoCoOpConfig | None = None, generator: torch.Generator | None = None
    ):
        self.config, generator = config or CoCoOpConfig(), generator or stream(0, "init", "cocoop")
        super().__init__(
            clip, *embedded_start(clip, self.config.tokens, self.config.init, generator, "cocoop")
        )
        clip_config = clip.config
        self.meta_net = _meta_net(clip_config.embed, clip_config.text.width, generator).to(self.ctx.device)

    def encode_text_for(self, image: ImageFeatures) -> TextFeatures:
        """Return `[B, C, D]` class features for each picture.

        Prompts are [v_1 + π(x)] … [v_M + π(x)] [name].; the pictures are encoded one after another.
        """
        # Bind the current rows: other classes may be set before a backward pass encodes again.
        encode = partial(encode_rows, self.clip.text, self.rows)
        texts = [_checkpointed(encode, vectors) for vectors in self.shifted(image)]
        return torch.stack(texts) if texts else image.new_zeros(0, len(self.names), image.shape[-1])

    def shifted(self, image: ImageFeatures) -> Float[Tensor, "batch vectors width"]:
        """Return v_m + π(x), the learned vectors of each picture."""
        return self.ctx + self.shifts(image)[:, None]

    def shifts(self, image: ImageFeatures) -> Float[Tensor, "batch width"]:
        """Return π(x), the shift of each learned vector by a picture ([0], Sec. 3.2)."""
        unit = F.normalize(image[0], dim=-1)
        return self.meta_net(unit.to(self.ctx.dtype))

    def text_recipe(self) -> TextRecipe:
        return replace(super().text_recipe(), kind="shifted", shifted=self.shifted)

    def official_names(self) -> dict[str, str | list[str]]:
        return {name: f"prompt_learner.{name}" for name in self.learned()}


def _checkpointed(encode: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
    """Return `encode(vectors)` with gradient checkpointing: the backward pass computes it again.

    So training needs the memory of one picture's texts, for any batch size.
    """
    if not (torch.is_grad_enabled() and vectors.requires_grad):
        return encode(vectors)
    return checkpoint(encode, vectors, use_reentrant=False, preserve_rng_state=False)


def _meta_net(dim: int, width: int, generator: torch.Generator) -> nn.Sequential:
    """Return Linear(D, D/16), ReLU, Linear(D/16, W)."""
    hidden = max(1, dim // REDUCTION)
    first, last = linear(dim, hidden, generator), linear(hidden, width, generator)
    return nn.Sequential(OrderedDict(linear1=first, relu=nn.ReLU(), linear2=last))
