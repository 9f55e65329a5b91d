"""A new method, whole: one learned factor per channel of the class texts. See docs/adding-a-method.md.

Run it as `python examples/new_method.py`; it takes some seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from foveate import Clip, FvgPt, Method, Recipe, fit, load_clip
from foveate.data.loader import PictureSet
from foveate.evaluate.answers import ask
from foveate.methods.plain import PlainTexts
from foveate.types import Batch, Scalar, TextFeatures
from foveate.world.photos import scene_photos

# --- the method ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GainConfig:
    """Settings of Gain.

    Attributes:
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    template: str | None = None


class Gain(Method):
    """Zero-shot CLIP whose text features are stretched, channel by channel, by learned factors."""

    def __init__(
        self, clip: Clip, config: GainConfig | None = None, generator: torch.Generator | None = None
    ):
        super().__init__(clip)
        self.config = config or GainConfig()
        # Where the towers are, and float32 whatever they are.
        self.gain = nn.Parameter(torch.ones(clip.config.embed, device=clip.logit_scale.device))
        self.plain = PlainTexts(clip, self.config.template)

    def prepare(self) -> None:
        self.plain.prepare(self.names, self.template)

    def encode_text(self) -> TextFeatures:
        return self.plain.features() * self.gain

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        logits = self.logits(self.pair(self.seen(batch)["image"]))
        return {"ce": F.cross_entropy(logits, batch.labels)}


# --- and its use --------------------------------------------------------------------------------------------


def main() -> None:
    """Train it on drawn scenes, then FVG-PT on top of it: the plug-in takes any method."""
    clip, names = load_clip("tiny"), ["red circle", "red star", "blue circle", "blue star"]
    size, recipe = clip.config.image_size, Recipe(epochs=3)
    train = PictureSet(scene_photos(names, per_class=4, seed=1), size, augment="rrc-flip", seed=1)
    test = PictureSet(scene_photos(names, per_class=8, seed=2), size)

    def batches(epoch: int) -> Iterator[Batch]:
        return train.batches(epoch, recipe.batch_size, shuffle=True, drop_last=True)

    gain = Gain(clip)
    gain.set_classes(names)
    fit(gain, batches, recipe)
    plugged = FvgPt(gain)  # from here on, gain is frozen
    plugged.set_classes(names)
    fit(plugged, batches, recipe)
    for method in (gain, plugged):
        answers = ask(method, test, "base")
        print(f"{type(method).__name__}: {answers.accuracy:.0f} % of {len(test)} pictures right")


if __name__ == "__main__":
    main()
