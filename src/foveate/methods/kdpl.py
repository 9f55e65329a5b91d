"""KDPL: a prompt learner that learns from a teacher's answers in place of labels.

- [0]: Improving Zero-shot Generalization of Learned Prompts via Unsupervised Knowledge Distillation,
  Mistretta et al. 2024, https://arxiv.org/abs/2407.03056
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.clip.weights import load_clip
from foveate.errors import InputError
from foveate.methods.base import Method, align, clip_origin, encode_pictures
from foveate.methods.choices import check_choices
from foveate.methods.cocoop import CoCoOp
from foveate.methods.guidance import kl
from foveate.methods.hosted import Hosted
from foveate.methods.plain import PlainTexts
from foveate.methods.prompts import PromptMethod
from foveate.methods.vpt import Vpt
from foveate.types import Batch, Features, Images, Logits, Origin, Scalar


@dataclass(frozen=True)
class KdplConfig:
    """Settings of KDPL.

    Attributes:
        teacher: Another CLIP, as `load_clip` takes it; None takes the one that is tuned.
        template: The teacher's sentence; None takes the data set's, or "a photo of a {}.".
        weight: Of KL(teacher ‖ student); the rest is that of KL(student ‖ teacher).
    """

    teacher: str | None = None
    template: str | None = None
    weight: float = 0.5

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 <= self.weight <= 1:
            raise InputError(f"kdpl: weight is {self.weight}: give a share between 0 and 1")


class Kdpl(Hosted):
    """Knowledge distillation prompt learning: the host's cross-entropy gives way to the teacher's answers.

    Nothing is learned besides what the host learns. The teacher is opened when training first asks it, and is
    no part of a checkpoint.

    Args:
        host: A method as it starts; it is trained here.
        config: Settings.
        generator: Not used: nothing of KDPL's own has a random start.

    Raises:
        InputError: The host is none that KDPL can train, or a setting is out of its range.
    """

    def __init__(
        self, host: Method, config: KdplConfig | None = None, generator: torch.Generator | None = None
    ):
        refuse_without_labels(type(host).__name__, type(host))
        super().__init__(host)
        self.config = config or KdplConfig()
        self._teacher: tuple[Clip, PlainTexts] | None = None  # no child: its tensors are not the method's
        if host.names:
            self.set_classes(host.names, host.template, host.trained_names())

    def prepare(self) -> None:
        super().prepare()
        if self._teacher is not None:
            self._teacher[1].prepare(self.names, self.template)

    def teacher(self) -> tuple[Clip, PlainTexts]:
        """Return the frozen teacher and its class texts.

        Raises:
            InputError: There is no such CLIP.
        """
        if self._teacher is None:
            here = self.clip.text.proj
            source, own = self.config.teacher, self.clip
            clip = own if source is None else load_clip(source, dtype=here.dtype, device=here.device)
            self._teacher = clip, PlainTexts(clip, self.config.template)
            self._teacher[1].prepare(self.names, self.template)
        return self._teacher

    @torch.no_grad()
    def see(self, batch: Batch) -> dict[str, Tensor]:
        """Return what frozen towers say of a batch: what the host asks for, and the teacher's `teacher`."""
        clip = self.teacher()[0]
        seen, same = self.host.see(batch), clip is self.clip
        if same and "image" in seen and self.host.vision_origin() == clip_origin(clip):
            return seen | {"teacher": seen["image"]}
        shown = batch.images if same else as_seen_by(batch.images, self.clip.config, clip.config)
        return seen | {"teacher": encode_pictures(clip, shown)}

    def seen_keys(self) -> dict[str, Origin]:
        clip = self.teacher()[0]
        other = Origin(f"teacher {clip.fingerprint()}", 1, clip.config.embed)
        return self.host.seen_keys() | {"teacher": clip_origin(clip) if clip is self.clip else other}

    def teacher_logits(self, seen: Tensor) -> Logits:
        """Return the teacher's zero-shot logits of its picture features, at the student's temperature."""
        return align(Features(seen, self.teacher()[1].features().to(seen.dtype)), self.clip.scale)

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Return the two divergences from the teacher, weighted, and the host's terms that need no labels."""
        batch = replace(batch, frozen=self.seen(batch))
        features = self.host.answer(batch)
        theirs, ours = self.teacher_logits(batch.frozen["teacher"]), self.logits(features)
        weight = self.config.weight
        return {
            "forward": weight * kl(theirs, ours).mean(),
            "reverse": (1 - weight) * kl(ours, theirs).mean(),
            **self._others(features, batch),
        }

    def notes(self) -> list[str]:
        """Say if there was no other teacher than the CLIP that is tuned."""
        told = super().notes()
        if self._teacher is None or self.config.teacher is not None:  # not asked: no step was taken
            return told
        return [*told, "kdpl: the teacher was the CLIP that is tuned; --kdpl.teacher gives a larger one"]

    def _others(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the host's terms without its cross-entropy: PromptSRC's and KgCoOp's pulls towards CLIP."""
        if type(self.host).losses_of is Method.losses_of:
            return {}
        terms = self.host.losses_of(features, batch)
        return {name: loss for name, loss in terms.items() if name != "ce"}


def as_seen_by(
    images: Images, own: ClipConfig, other: ClipConfig
) -> Float[Tensor, "batch 3 other_height other_width"]:
    """Return normalised pictures as another CLIP takes them: its size, its mean and deviation."""

    def of_channels(values: tuple[float, float, float]) -> Tensor:
        return images.new_tensor(values)[:, None, None]

    shown = images * of_channels(own.std) + of_channels(own.mean)
    if own.image_size != other.image_size:
        size = (other.image_size, other.image_size)
        shown = F.interpolate(shown, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    return (shown - of_channels(other.mean)) / of_channels(other.std)


def refuse_without_labels(name: str, host: type[Method]) -> None:
    """Refuse a host that learns no prompts, or whose loss cannot do without labels.

    Raises:
        InputError: It is such a one.
    """
    one_term = host.losses_of is not Method.losses_of or issubclass(host, CoCoOp)
    if not (issubclass(host, PromptMethod | Vpt) and one_term):
        raise InputError(
            f"kdpl: {name} is no learner of prompts with a cross-entropy that a teacher's answers could take"
            " the place of; take a host such as coop, cocoop, vpt, maple, ivlp or promptsrc"
        )
