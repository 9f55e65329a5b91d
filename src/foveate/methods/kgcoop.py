"""KgCoOp: CoOp whose class texts are pulled towards those of a plain sentence.

- [0]: Visual-Language Prompt Tuning with Knowledge-guided Context Optimization, Yao et al. 2023,
  https://arxiv.org/abs/2303.13283
"""

import torch
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.methods.base import SentenceMethod
from foveate.methods.capabilities import LabelTerm
from foveate.methods.configs import KgCoOpConfig
from foveate.methods.prompts import SharedPrompt, embedded_start
from foveate.methods.texts import PlainTexts
from foveate.seeds import stream
from foveate.types import Batch, Features, Scalar


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
