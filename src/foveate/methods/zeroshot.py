"""Zero-shot CLIP: a sentence per class, nothing learned. The reference every other method stands beside.

- CLIP: Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 3.1
"""

from dataclasses import dataclass

import torch

from foveate.clip.model import Clip
from foveate.methods.base import Method
from foveate.methods.choices import check_choices
from foveate.methods.plain import PlainTexts
from foveate.types import Batch, Scalar, TextFeatures


@dataclass(frozen=True)
class ZeroShotConfig:
    """Settings of zero-shot CLIP.

    Attributes:
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    template: str | None = None

    def __post_init__(self) -> None:
        check_choices(self)


class ZeroShot(Method):
    """CLIP as it is."""

    tunes_text = False

    def __init__(
        self, clip: Clip, config: ZeroShotConfig | None = None, generator: torch.Generator | None = None
    ):
        super().__init__(clip)
        self.config = config or ZeroShotConfig()
        self.plain = PlainTexts(clip, self.config.template)

    def prepare(self) -> None:
        self.plain.prepare(self.names, self.template)

    def encode_text(self) -> TextFeatures:
        return self.plain.features()

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Return no terms: there is nothing to learn."""
        return {}
