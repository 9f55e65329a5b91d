"""Zero-shot CLIP: a sentence per class, nothing learned. The reference every other method stands beside.

- CLIP: Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 3.1
"""

from dataclasses import dataclass

import torch

from foveate.clip.model import Clip
from foveate.clip.templates import DEFAULT_TEMPLATE
from foveate.clip.text import check_texts, encode_names
from foveate.methods.base import Method
from foveate.methods.choices import check_choices
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
        self._text: TextFeatures | None = None

    def prepare(self) -> None:
        check_texts(self.clip, self.names, self._sentence())
        self._text = None

    def encode_text(self) -> TextFeatures:
        if self._text is None:
            self._text = encode_names(self.clip, self.names, self._sentence())
        return self._text

    def _sentence(self) -> str:
        return self.config.template or self.template or DEFAULT_TEMPLATE

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Return no terms: there is nothing to learn."""
        return {}
