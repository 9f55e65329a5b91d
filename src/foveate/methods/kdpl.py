"""KDPL: trains a prompt learner with a teacher's predictions instead of labels.

- [0]: Improving Zero-shot Generalization of Learned Prompts via Unsupervised Knowledge Distillation,
  Mistretta et al. 2024, https://arxiv.org/abs/2407.03056
"""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.clip.weights import load_clip
from foveate.errors import InputError
from foveate.methods.base import Method, Wrapper, align, encode_pictures, is_kind
from foveate.methods.capabilities import Diagnostics, LabelTerm, Tally
from foveate.methods.configs import KdplConfig
from foveate.methods.frozen import Frozen, FrozenFeatures, frozen_clip, frozen_features
from foveate.methods.guidance import kl
from foveate.methods.texts import PlainTexts
from foveate.types import Batch, Features, FeatureSpec, Images, Logits, Scalar


class Kdpl(Wrapper, FrozenFeatures, Diagnostics):
    """Knowledge distillation prompt learning: the teacher's predictions replace the host's cross-entropy.

    Only the host's tensors are learned. The teacher is loaded on its first use in training; it is not
    part of a checkpoint.

    Args:
        host: An untrained method; it is trained here.
        config: Settings.
        generator: Not used: KDPL has no random initial values.

    Raises:
        InputError: KDPL cannot train this host, or a setting is out of range.
    """

    name, title, config_type = "kdpl", "KDPL", KdplConfig

    def __init__(
        self, host: Method, config: KdplConfig | None = None, generator: torch.Generator | None = None
    ):
        super().__init__(host)
        self.config = config or KdplConfig()
        self.tally = self.last_tally = Tally()
        self._teacher: tuple[Clip, PlainTexts] | None = None  # a tuple hides its tensors from `parameters`

    @classmethod
    def check_host(cls, name: str, host: Method | type[Method]) -> None:
        """Refuse a host without learned prompts, or whose other loss terms need labels."""
        if not is_kind(host, LabelTerm):
            raise InputError(
                f"kdpl: {name} is no learner of prompts with a cross-entropy that a teacher's answers could"
                " take the place of; take a host such as coop, cocoop, vpt, maple, ivlp or promptsrc"
            )

    def set_classes(
        self, names: Sequence[str], template: str | None = None, trained: Collection[str] | None = None
    ) -> None:
        if self._teacher is not None:
            self._teacher[1].check(names, template)
        super().set_classes(names, template, trained)
        if self._teacher is not None:
            self._teacher[1].set_classes(names, template)

    def teacher(self) -> tuple[Clip, PlainTexts]:
        """Return the frozen teacher and its class texts.

        Raises:
            InputError: The CLIP does not exist.
        """
        if self._teacher is None:
            proj = self.clip.text.proj
            source, student = self.config.teacher, self.clip
            clip = student if source is None else load_clip(source, dtype=proj.dtype, device=proj.device)
            self._teacher = clip, PlainTexts(clip, self.config.template)
            self._teacher[1].set_classes(self.names, self.template)
        return self._teacher

    def frozen(self) -> dict[str, Frozen]:
        """Declare the host's features, and the teacher's feature of the whole view: `teacher`."""
        clip = self.teacher()[0]
        teacher = frozen_clip(clip)
        if clip is not self.clip:
            spec = FeatureSpec(f"teacher {clip.fingerprint()}", 1, clip.config.embed)
            student = self.clip.config
            teacher = Frozen(
                spec, lambda images: encode_pictures(clip, as_seen_by(images, student, clip.config))
            )
        return frozen_features(self.host) | {"teacher": teacher}

    def teacher_logits(self, image: Tensor) -> Logits:
        """Return the teacher's zero-shot logits from its picture features, at the student's temperature."""
        return align(Features(image, self.teacher()[1].features().to(image.dtype)), self.clip.scale)

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the two weighted KL divergences from the teacher, and the host's terms without labels."""
        teacher, student = self.teacher_logits(batch.frozen["teacher"]), self.logits(features)
        weight, host_losses = self.config.weight, self.host.losses(features, batch)
        return {
            "forward": weight * kl(teacher, student).mean(),
            "reverse": (1 - weight) * kl(student, teacher).mean(),
            **{name: loss for name, loss in host_losses.items() if name != "ce"},
        }

    def warnings(self) -> list[str]:
        """Return a warning if the teacher was the CLIP that is tuned."""
        if self._teacher is None or self.config.teacher is not None:  # it was not used, or is another CLIP
            return []
        return ["kdpl: the teacher was the CLIP that is tuned; --kdpl.teacher gives a larger one"]


def as_seen_by(
    images: Images, student: ClipConfig, teacher: ClipConfig
) -> Float[Tensor, "batch 3 other_height other_width"]:
    """Resize and normalise pictures for another CLIP: its size, mean and standard deviation."""

    def per_channel(values: tuple[float, float, float]) -> Tensor:
        return images.new_tensor(values)[:, None, None]

    pixels = images * per_channel(student.std) + per_channel(student.mean)
    if student.image_size != teacher.image_size:
        size = (teacher.image_size, teacher.image_size)
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    return (pixels - per_channel(teacher.mean)) / per_channel(teacher.std)
