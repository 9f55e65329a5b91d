"""CoOp: learned context vectors around a class name.

- [0]: Learning to Prompt for Vision-Language Models, Zhou et al. 2022, https://arxiv.org/abs/2109.01134
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from foveate.clip.model import Clip
from foveate.clip.rows import TokenRows
from foveate.errors import InputError
from foveate.methods.capabilities import LabelTerm, TextRecipe
from foveate.methods.config import Tried
from foveate.methods.configs import CoOpConfig
from foveate.methods.prompts import SharedPrompt, embedded_start, lay_out
from foveate.seeds import stream
from foveate.types import TextFeatures


class CoOp(SharedPrompt, LabelTerm):
    """Context optimisation: cross-entropy with learned context vectors ([0], Eq. 2).

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Raises:
        InputError: `tokens` is below 1.
    """

    name, title, config_type = "coop", "CoOp", CoOpConfig
    auto = Tried(rank=3)

    def __init__(
        self, clip: Clip, config: CoOpConfig | None = None, generator: torch.Generator | None = None
    ):
        config, generator = config or CoOpConfig(), generator or stream(0, "init", "coop")
        super().__init__(clip, _start(clip, config, generator))
        self.config, self.generator = config, generator
        self.takes_new_names = not self.config.class_specific
        if self.config.class_specific:  # their number is unknown before the first classes are set
            self.ctx = nn.Parameter(self.ctx.new_empty(0, *self.ctx.shape))
        self.ctx_names: tuple[str, ...] = ()

    def lay_out_classes(self, names: Sequence[str]) -> TokenRows:
        class_specific = self.config.class_specific
        rows = lay_out(
            self.clip.tokenizer, names, self.ctx.shape[-2], self.config.position, per_class=class_specific
        )
        if class_specific:  # after the rows, so that names that are too long change nothing
            self._settle_class_vectors(tuple(names))
        return rows

    def encode_text(self) -> TextFeatures:
        ctx = self.ctx
        if self.config.class_specific:
            ctx = ctx[[self.ctx_names.index(name) for name in self.names]].flatten(0, 1)
        return self.encode_prompts(ctx)

    def text_recipe(self) -> TextRecipe:
        if self.config.class_specific:
            return TextRecipe("fixed", self.clip.text)
        return replace(super().text_recipe(), positions=(self.config.position,))

    @torch.no_grad()
    def _settle_class_vectors(self, names: tuple[str, ...]) -> None:
        """Create the vectors of the first classes; afterwards only these classes can be set."""
        if not self.ctx_names:
            if self.ctx.numel() == 0:
                vectors = [_start(self.clip, self.config, self.generator) for _ in names]
                self.ctx.data = torch.stack(vectors).to(self.ctx.device)
            if len(self.ctx) != len(names):
                raise InputError(
                    f"class-specific context was learned for {len(self.ctx)} classes, not {len(names)}:"
                    " set the classes it was trained on first"
                )
            self.ctx_names = names
        unknown = [name for name in names if name not in self.ctx_names]
        if unknown:
            raise InputError(
                f"class {unknown[0]!r} was not trained on, and class-specific context has no vectors for it:"
                " train with class_specific=false to name new classes"
            )


def _start(clip: Clip, config: CoOpConfig, generator: torch.Generator) -> Tensor:
    """Return `[M, W]` initial values: embedded words, or small noise."""
    tokens = config.tokens
    if config.init is not None:
        tokens = len(clip.tokenizer.words(config.init.replace("_", " ")))
        if not tokens:
            raise InputError("coop: init has no words; leave it out for a random start")
    return embedded_start(clip, tokens, config.init, generator, "coop")[0]
