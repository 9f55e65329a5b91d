"""KgCoOp: CoOp whose class texts are pulled towards those of a plain sentence.

- [0]: Visual-Language Prompt Tuning with Knowledge-guided Context Optimization, Yao et al. 2023,
  https://arxiv.org/abs/2303.13283
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.choices import check_choices
from foveate.methods.plain import PlainTexts
from foveate.methods.prompts import PromptMethod, embedded_start
from foveate.seeds import stream
from foveate.types import Batch, Features, Scalar


@dataclass(frozen=True)
class KgCoOpConfig:
    """Settings of KgCoOp.

    Attributes:
        tokens: Number of learned vectors; they start from as many tokens of `init`.
        init: Words to start from; those behind the learned ones stay words. None starts from N(0, 0.02²).
        weight: Of the knowledge term (λ in [0]); 8 in [0], 2 in FVG-PT's code.
        template: The plain sentence to be pulled towards; None takes the data set's, or "a photo of a {}.".
    """

    tokens: int = 4
    init: str | None = "a photo of a"
    weight: float = 2.0
    template: str | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        if self.weight < 0:
            raise InputError(f"kgcoop: weight is {self.weight}: give zero or more")


class KgCoOp(PromptMethod):
    """Knowledge-guided context optimisation. It answers as CoOp does; only its loss differs.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Of the random start; by default the stream of seed 0.

    Raises:
        InputError: Fewer than one learned vector, or more than `init` has tokens.
    """

    def __init__(
        self, clip: Clip, config: KgCoOpConfig | None = None, generator: torch.Generator | None = None
    ):
        self.config, generator = config or KgCoOpConfig(), generator or stream(0, "init", "kgcoop")
        super().__init__(
            clip, *embedded_start(clip, self.config.tokens, self.config.init, generator, "kgcoop")
        )
        self.plain = PlainTexts(clip, self.config.template)  # w_clip in [0]

    def prepare(self) -> None:
        self.plain.prepare(self.names, self.template)
        super().prepare()

    def losses_of(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the cross-entropy and λ · (1 − mean cosine of learned and plain class texts).

        [0] (L_kg in Sec. 3.2) has their squared Euclidean distance; between unit vectors it is twice this.
        """
        closeness = F.cosine_similarity(features.text, self.plain.features(), dim=-1)
        return {
            "ce": F.cross_entropy(self.logits(features), batch.labels),
            "knowledge": self.config.weight * (1 - closeness.mean()),
        }
