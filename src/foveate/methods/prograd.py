"""ProGrad: CoOp with gradients that do not conflict with zero-shot CLIP.

- [0]: Prompt-aligned Gradient for Prompt Tuning, Zhu et al. 2023, https://arxiv.org/abs/2205.14865
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.base import SentenceMethod, align
from foveate.methods.capabilities import GradientRule, OfficialCheckpoint
from foveate.methods.configs import ProGradConfig
from foveate.methods.guidance import kl
from foveate.methods.prompts import PromptMethod, embedded_start
from foveate.methods.texts import PlainTexts
from foveate.seeds import stream
from foveate.types import Batch, Features, ImageFeatures, Logits, Scalar

Gradient = Float[Tensor, "*shape"]


class ProGrad(PromptMethod, SentenceMethod, GradientRule, OfficialCheckpoint):
    """Prompt-aligned gradient. Predictions as in CoOp; only the gradient differs.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Raises:
        InputError: `tokens` is below 1, or `init` has no words or more words than there are vectors.
    """

    name, title, config_type = "prograd", "ProGrad", ProGradConfig

    def __init__(
        self, clip: Clip, config: ProGradConfig | None = None, generator: torch.Generator | None = None
    ):
        self.config, generator = config or ProGradConfig(), generator or stream(0, "init", "prograd")
        super().__init__(clip, _start(clip, self.config, generator))
        self.plain = PlainTexts(clip, self.config.template)

    def prior_logits(self, image: ImageFeatures) -> Logits:
        """Return `[B, C]` logits of zero-shot CLIP; its class texts are encoded once per class list."""
        return align(Features(image, self.plain.features()), self.clip.scale)

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the cross-entropy and KL(zero-shot ‖ learned) ([0], Sec. 3.2).

        "kl" is used for its gradient and in the log. It is not minimised: see `backward`.
        """
        logits, temperature = self.logits(features), self.config.temperature
        return {
            "ce": F.cross_entropy(logits, batch.labels),
            "kl": kl(self.prior_logits(features.image) / temperature, logits / temperature).mean(),
        }

    def backward(self, losses: Mapping[str, Scalar]) -> None:
        """Add the gradient of "ce" (G_d), corrected per tensor where it conflicts with that of "kl" (G_g)."""
        learned = list(self.trainable().values())
        task = torch.autograd.grad(losses["ce"], learned, retain_graph=True)
        general = torch.autograd.grad(losses["kl"], learned)
        for parameter, g_ce, g_kl in zip(learned, task, general, strict=True):
            aligned = aligned_gradient(g_ce, g_kl, self.config.weight)
            parameter.grad = aligned if parameter.grad is None else parameter.grad + aligned


def aligned_gradient(task: Gradient, general: Gradient, weight: float = 1.0) -> Gradient:
    """Return the task's gradient without its component against the general one (G_prograd in [0], Sec. 3.2).

    With u = general / |general|: task − weight · ⟨task, u⟩ u if ⟨task, u⟩ < 0, else the task's gradient.
    """
    unit = F.normalize(general.flatten(), dim=0)  # a zero gradient stays zero and removes nothing
    along = task.flatten() @ unit
    return task - weight * along.clamp_max(0) * unit.view_as(task)


def _start(clip: Clip, config: ProGradConfig, generator: torch.Generator) -> Float[Tensor, "vectors width"]:
    """Return the initial values of all vectors: zeros, then the embedded words; or small noise."""
    if config.init is None:
        return embedded_start(clip, config.tokens, None, generator, "prograd")[0]
    words = len(clip.tokenizer.words(config.init.replace("_", " ")))
    if not words:
        raise InputError("prograd: init has no words; give null (None) for a random start")
    if words > config.tokens:
        raise InputError(
            f"prograd: init {config.init!r} has {words} tokens, but tokens is {config.tokens}: give fewer"
            " words, or more tokens"
        )
    embedded = embedded_start(clip, words, config.init, generator, "prograd")[0]
    return torch.cat([embedded.new_zeros(config.tokens - words, embedded.shape[1]), embedded])
