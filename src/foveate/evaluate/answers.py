"""Ask a method about every picture of a set, texts encoded once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.data.loader import PictureSet
from foveate.errors import InputError
from foveate.evaluate.metrics import accuracy, foreground_shift
from foveate.foreground.views import foreground_view
from foveate.methods.base import Method
from foveate.types import Branch, Labels, Logits

Watch = Callable[[int, int], None]
"""Called with pictures done and pictures in all."""


@dataclass(frozen=True)
class Answers:
    """What a method said of a picture set.

    Attributes:
        logits: `[N, C]`.
        labels: `[N]` the truth.
        foreground: `[N, C]` logits of the pictures times their masks; None without masks.
        trust: `[N]` how far each answer leans on CLIP's prior; None for methods without such a gate.
        masked: `[N]` which pictures have a mask at all; None means every one.
    """

    logits: Logits
    labels: Labels
    foreground: Logits | None = None
    trust: Tensor | None = None
    masked: Tensor | None = None

    @property
    def accuracy(self) -> float:
        """Percent right."""
        return accuracy(self.logits, self.labels)

    @property
    def shift(self) -> float | None:
        """Foreground shift index, in nats, over the pictures that have masks; None without any."""
        if self.foreground is None:
            return None
        which = slice(None) if self.masked is None else self.masked
        logits, foreground = self.logits[which], self.foreground[which]
        return foreground_shift(logits, foreground) if len(logits) else None


def ask(
    method: Method,
    pictures: PictureSet,
    branch: Branch,
    *,
    batch_size: int = 100,
    with_foreground: bool = False,
    watch: Watch | None = None,
) -> Answers:
    """Ask `method`, whose classes are set, about all pictures in their order.

    Args:
        method: Asked with `branch`.
        pictures: An un-augmented set.
        branch: Which label space its classes are.
        batch_size: Pictures a pass.
        with_foreground: Ask about the foregrounds too, for the shift index; needs masks.
        watch: Told of progress.

    Raises:
        InputError: There are no pictures.
    """
    if not len(pictures):
        raise InputError("there are no pictures to ask about")
    device, config = method.clip.logit_scale.device, method.clip.config
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    foreground: list[Tensor] = []
    trust: list[Tensor] = []
    method.eval()
    with method.constant_text():
        for batch in pictures.batches(None, batch_size, shuffle=False, drop_last=False):
            images = batch.images.to(device)
            features = method.features(images)
            logits.append(method.logits(features, branch).cpu())
            labels.append(batch.labels)
            leaning = method.trust(features) if branch != "base" else None
            if leaning is not None:
                trust.append(leaning.cpu())
            if with_foreground and batch.masks is not None:
                cut = foreground_view(images, batch.masks.to(device), "mean", config.mean, config.std)
                foreground.append(method.logits(method.features(cut), branch).cpu())
            if watch:
                watch(sum(map(len, labels)), len(pictures))
    return Answers(
        torch.cat(logits),
        torch.cat(labels),
        torch.cat(foreground) if foreground else None,
        torch.cat(trust) if trust else None,
        torch.tensor([sample.mask is not None for sample in pictures.photos.samples]),
    )
