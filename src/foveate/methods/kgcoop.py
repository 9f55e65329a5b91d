"""KgCoOp: CoOp whose class texts are pulled towards those of a plain sentence.

- [0]: Visual-Language Prompt Tuning with Knowledge-guided Context Optimization, Yao et al. 2023,
  https://arxiv.org/abs/2303.13283
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.methods.base import SentenceMethod
from foveate.methods.capabilities import LabelTerm
from foveate.methods.config import MethodConfig
from foveate.methods.prompts import SharedPrompt, embedded_start
from foveate.methods.texts import PlainTexts
from foveate.seeds import stream
from foveate.types import Batch, Features, Scalar


@dataclass(frozen=True)
class KgCoOpConfig(MethodConfig):
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
        super().__post_init__()
        self.demand(weight=(self.weight >= 0, "zero or more"))


class KgCoOp(SharedPrompt, SentenceMethod, LabelTerm):
    """Knowledge-guided context optimisation. It answers as CoOp does; only its loss differs.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Of the random start; by default the stream of seed 0.

    Raises:
        InputError: Fewer than one learned vector, or more than `init` has tokens.
    """

    name, title, config_type = "kgcoop", "KgCoOp", KgCoOpConfig
    data_template = "kgcoop_template"  # it writes textures in another way

    def __init__(
        self, clip: Clip, config: KgCoOpConfig | None = None, generator: torch.Generator | None = None
    ):
        self.config, generator = config or KgCoOpConfig(), generator or stream(0, "init", "kgcoop")
        super().__init__(
            clip, *embedded_start(clip, self.config.tokens, self.config.init, generator, "kgcoop")
        )
        self.plain = PlainTexts(clip, self.config.template)  # w_clip in [0]

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the cross-entropy and λ · (1 − mean cosine of learned and plain class texts).

        [0] (L_kg in Sec. 3.2) has their squared Euclidean distance; between unit vectors it is twice this.
        """
        closeness = F.cosine_similarity(features.text, self.plain.features(), dim=-1)
        knowledge = self.config.weight * (1 - closeness.mean())
        return super().losses(features, batch) | {"knowledge": knowledge}
