"""KgCoOp: CoOp with a loss that pulls class texts towards those of a fixed sentence.

- [0]: Visual-Language Prompt Tuning with Knowledge-guided Context Optimization, Yao et al. 2023,
  https://arxiv.org/abs/2303.13283
"""

import torch

from foveate.clip.model import Clip
from foveate.methods.base import SentenceMethod
from foveate.methods.capabilities import LabelTerm
from foveate.methods.config import Tried
from foveate.methods.configs import KgCoOpConfig
from foveate.methods.prompts import SharedPrompt, embedded_start
from foveate.methods.texts import PlainTexts
from foveate.seeds import stream
from foveate.types import Batch, Features, Scalar


class KgCoOp(SharedPrompt, SentenceMethod, LabelTerm):
    """Knowledge-guided context optimisation. Predictions as in CoOp; only the loss differs.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Raises:
        InputError: `tokens` is below 1, or above the length of `init`.
    """

    name, title, config_type = "kgcoop", "KgCoOp", KgCoOpConfig
    auto = Tried(rank=3)
    data_template = "kgcoop_template"  # its sentence for textures differs

    def __init__(
        self, clip: Clip, config: KgCoOpConfig | None = None, generator: torch.Generator | None = None
    ):
        self.config, generator = config or KgCoOpConfig(), generator or stream(0, "init", "kgcoop")
        super().__init__(
            clip, *embedded_start(clip, self.config.tokens, self.config.init, generator, "kgcoop")
        )
        self.plain = PlainTexts(clip, self.config.template)  # w_clip in [0]

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the cross-entropy and λ · (1 − mean cosine of learned and fixed class texts).

        [0] (L_kg in Sec. 3.2) uses the squared Euclidean distance; between unit vectors it is twice this
        term.
        """
        knowledge = self.config.weight * self.text_drift(features)
        return super().losses(features, batch) | {"knowledge": knowledge}
