"""PromptSRC: IVLP with consistency losses towards CLIP's own features and logits.

- [0]: Self-regulating Prompts: Foundational Model Adaptation without Forgetting, Khattak et al. 2023,
  https://arxiv.org/abs/2307.06948
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.clip.rows import TokenRows, check_texts, encode_names
from foveate.clip.templates import IMAGENET_TEMPLATES, fill
from foveate.methods.base import align
from foveate.methods.configs import PromptSRCConfig
from foveate.methods.frozen import Frozen, FrozenFeatures, frozen_clip
from foveate.methods.ivlp import Ivlp
from foveate.methods.texts import Cache, tensors_of
from foveate.types import Batch, Features, Scalar, TextFeatures


class PromptSRC(Ivlp, FrozenFeatures):
    """Self-regulating prompts: 46,080 parameters with ViT-B/16. Predictions as in IVLP; the loss differs.

    The Gaussian average over epochs ([0], Sec. 3.2.2) is in the training loop, for all methods: see
    `average_mean` of `Recipe`.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Raises:
        InputError: `tokens` is below 1 or above the length of `init`, or a tower has fewer blocks than a
            depth.
    """

    name, title, config_type = "promptsrc", "PromptSRC", PromptSRCConfig
    published_depth: ClassVar[int] = 9

    def __init__(
        self, clip: Clip, config: PromptSRCConfig | None = None, generator: torch.Generator | None = None
    ):
        config = config or PromptSRCConfig()
        super().__init__(clip, config, generator)
        self.weights = (config.text_weight, config.image_weight, config.logit_weight)
        self._averaged = Cache()

    def lay_out_classes(self, names: Sequence[str]) -> TokenRows:
        # CLIP's texts are encoded on the first use in a loss, but checked now: a name that is too long
        # for the longest sentence must not stop a training.
        words = self.clip.tokenizer.words
        longest = max(IMAGENET_TEMPLATES, key=lambda template: len(words(fill(template, "x"))))
        check_texts(self.clip, names, longest)
        return super().lay_out_classes(names)

    def clip_text(self) -> TextFeatures:
        """Return `[C, D]` raw class features of CLIP: means over 60 sentences, once per class list."""
        return self._averaged.get(self.names, tensors_of(self.clip.text), self._average_texts)

    def _average_texts(self) -> TextFeatures:
        first, *others = IMAGENET_TEMPLATES
        total = encode_names(self.clip, self.names, first)
        for template in others:  # one at a time limits the memory for a thousand classes
            total += encode_names(self.clip, self.names, template)
        return total / len(IMAGENET_TEMPLATES)

    def frozen(self) -> dict[str, Frozen]:
        """Declare `clip`, the features of the unchanged CLIP; with `vision_depth` 0 they are its own too."""
        clip = frozen_clip(self.clip)
        return {"clip": clip} if self.tunes_vision else {"clip": clip, "image": clip}

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return cross-entropy, mean absolute differences of unit features, and KL of predictions.

        [0], Sec. 3.2.1. As in its code, KL(p_CLIP ‖ p) is the sum divided by the number of logits.
        """
        clip = Features(batch.frozen["clip"], self.clip_text())
        z, z_clip = self.logits(features), align(clip, self.clip.scale)
        text, image, logits = self.weights
        kl = F.kl_div(z.log_softmax(-1), z_clip.log_softmax(-1), reduction="sum", log_target=True)
        return {
            "ce": F.cross_entropy(z, batch.labels),
            "text": text * F.l1_loss(F.normalize(features.text, dim=-1), F.normalize(clip.text, dim=-1)),
            "image": image * F.l1_loss(F.normalize(features.image, dim=-1), F.normalize(clip.image, dim=-1)),
            "logits": logits * kl / z.numel(),
        }
