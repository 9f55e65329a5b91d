"""A complete new method: one learned factor for each channel of the text features.

See docs/adding-a-method.md. Run it with `python examples/new_method.py`; it takes a few seconds.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from foveate import Classifier, Clip, register_method
from foveate.clip.rows import TokenRows, encode_rows
from foveate.methods.base import SentenceMethod
from foveate.methods.capabilities import ExtraTexts
from foveate.methods.config import MethodConfig
from foveate.methods.texts import PlainTexts
from foveate.types import TextFeatures
from foveate.world.photos import scene_photos

# --- the method ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GainConfig(MethodConfig):
    """Settings of Gain.

    Attributes:
        template: Template for class names; None uses the data set's, or "a photo of a {}.".
    """

    recipe: ClassVar = {"epochs": 5}
    template: str | None = None


@register_method
class Gain(SentenceMethod, ExtraTexts):
    """Zero-shot CLIP whose text features are scaled, channel by channel, by learned factors."""

    name, title, config_type = "gain", "Gain", GainConfig

    def __init__(
        self, clip: Clip, config: GainConfig | None = None, generator: torch.Generator | None = None
    ):
        super().__init__(clip)
        self.config = config or GainConfig()
        # On the device of the towers, and always float32.
        self.gain = nn.Parameter(torch.ones(clip.config.embed, device=clip.logit_scale.device))
        self.plain = PlainTexts(clip, self.config.template)

    def encode_text(self) -> TextFeatures:
        return self.plain.features() * self.gain

    def encode_rows(self, rows: TokenRows) -> TextFeatures:
        return encode_rows(self.clip.text, rows) * self.gain


# --- its use
# ------------------------------------------------------------------------------------------------


def main() -> None:
    """Train it on drawn scenes, alone and under both plug-ins, and evaluate each."""
    names = ["red circle", "red star", "blue circle", "blue star"]
    train, test = (scene_photos(names, per_class=number, seed=number) for number in (4, 8))
    without_pull = {"dapt": {"pull_weight": 0.0}}  # Gain has no learned image part to pull
    for method, settings in (("gain", {}), ("fvgpt+gain", {}), ("dapt+gain", without_pull)):
        # Crops of at least half a picture: each view shows a part of the object.
        classifier = Classifier(method, clip="tiny", settings=settings).fit(train, shots=4, crop_scale=0.5)
        answers = classifier.evaluate(test)
        print(f"{method}: {answers.accuracy:.0f} % of {len(test)} pictures right")


if __name__ == "__main__":
    main()
