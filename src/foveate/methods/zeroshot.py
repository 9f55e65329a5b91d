"""Zero-shot CLIP: one sentence per class, nothing learned. It is the reference for all other methods.

- CLIP: Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 3.1
"""

import torch

from foveate.clip.model import Clip
from foveate.methods.base import SentenceMethod
from foveate.methods.config import Tried
from foveate.methods.configs import ZeroShotConfig
from foveate.methods.texts import PlainTexts
from foveate.types import Batch, Features, Scalar


class ZeroShot(SentenceMethod):
    """Unchanged CLIP."""

    name, title, config_type = "zeroshot", "CLIP", ZeroShotConfig
    auto = Tried(rank=0)
    tunes_text = False

    def __init__(
        self, clip: Clip, config: ZeroShotConfig | None = None, generator: torch.Generator | None = None
    ):
        super().__init__(clip)
        self.config = config or ZeroShotConfig()
        self.plain = PlainTexts(clip, self.config.template)

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return no terms: nothing is learned."""
        return {}
