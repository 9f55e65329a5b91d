"""Predictions of a method for all pictures of a set, with texts encoded once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.data.loader import PictureSet
from foveate.errors import InputError
from foveate.evaluate.metrics import accuracy, foreground_shift
from foveate.foreground.views import foreground_view
from foveate.memory import Pieces, sent
from foveate.methods.base import Method, encode_pictures
from foveate.methods.capabilities import PriorBranch, capability
from foveate.types import Batch, Branch, Labels, Logits, Masks

Watch = Callable[[int, int], None]
"""Called with the number of finished pictures and the total."""


@dataclass(frozen=True)
class Answers:
    """Logits and labels of a picture set.

    Attributes:
        logits: `[N, C]`.
        labels: `[N]` true labels.
        foreground: `[N, C]` logits of the pictures times their masks; None without masks.
        trust: `[N]` how far each answer leans on CLIP's prior; None for methods without such a gate.
        masked: `[N]` which pictures have a mask at all; None means every one.
        names: Of the columns.
        pictures: What each picture is called.
        clip: `[N, D]` raw features of the untouched CLIP, where they were asked for.
        temperature: What logits are divided by for probabilities.
    """

    logits: Logits
    labels: Labels
    foreground: Logits | None = None
    trust: Tensor | None = None
    masked: Tensor | None = None
    names: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    clip: Tensor | None = None
    temperature: float = 1.0

    @property
    def probabilities(self) -> Logits:
        """`[N, C]`."""
        return (self.logits / self.temperature).softmax(dim=-1)

    @property
    def accuracy(self) -> float:
        """Accuracy in percent."""
        return accuracy(self.logits, self.labels)

    @property
    def shift(self) -> float | None:
        """Foreground shift index in nats, over the pictures with masks; None if there are none."""
        return self.shift_where(torch.ones(len(self.labels), dtype=torch.bool))

    def shift_where(self, chosen: Tensor) -> float | None:
        """Return the foreground shift index over the chosen pictures with masks.

        Args:
            chosen: `[N]` booleans.
        """
        if self.foreground is None:
            return None
        which = chosen if self.masked is None else chosen & self.masked
        logits, foreground = self.logits[which], self.foreground[which]
        return foreground_shift(logits, foreground) if len(logits) else None


def ask(
    method: Method,
    pictures: PictureSet,
    branch: Branch,
    *,
    batch_size: int = 100,
    with_foreground: bool = False,
    with_clip: bool = False,
    watch: Watch | None = None,
) -> Answers:
    """Return the predictions of `method` for all pictures, in order; its classes must be set.

    Args:
        method: Asked with `branch`.
        pictures: An un-augmented set.
        branch: Which label space its classes are.
        batch_size: Pictures a pass; fewer where the device's memory does not suffice.
        with_foreground: Ask about the foregrounds too, for the shift index; needs masks.
        with_clip: Return the untouched CLIP's features too.
        watch: Told of progress.

    Raises:
        InputError: There are no pictures.
    """
    if not len(pictures):
        raise InputError("there are no pictures to ask about")
    said: list[_Said] = []
    labels: list[Labels] = []
    pieces = Pieces(batch_size)
    method.eval()
    with method.constant_text():
        for batch in pictures.batches(None, batch_size, shuffle=False, drop_last=False):
            said += pieces.run(
                lambda most, batch=batch: [
                    _say(method, part, branch, with_foreground, with_clip) for part in parts_of(batch, most)
                ]
            )
            labels.append(batch.labels)
            if watch:
                watch(sum(map(len, labels)), len(pictures))
    return Answers(
        torch.cat([one.logits for one in said]),
        torch.cat(labels),
        _joined([one.foreground for one in said]),
        _joined([one.trust for one in said]),
        torch.tensor([sample.mask is not None for sample in pictures.photos.samples]),
        method.names,
        tuple(sample.name for sample in pictures.photos.samples),
        _joined([one.clip for one in said]),
    )


@dataclass(frozen=True)
class _Said:
    """The fields of `Answers` for one batch."""

    logits: Logits
    foreground: Logits | None
    trust: Tensor | None
    clip: Tensor | None


def _say(method: Method, batch: Batch, branch: Branch, with_foreground: bool, with_clip: bool) -> _Said:
    device, size = method.clip.logit_scale.device, method.clip.config
    images = sent(batch.images, device)
    features = method.features(images, branch)
    logits = method.logits(features, branch)
    prior = capability(method, PriorBranch)
    trust = prior.trust(features) if prior and branch != "base" else None
    foreground = None
    if with_foreground and batch.masks is not None:
        masks: Masks = sent(batch.masks, device)
        cut = foreground_view(images, masks, "mean", size.mean, size.std)
        foreground = method.logits(method.features(cut, branch), branch).cpu()
    seen = None
    if with_clip:
        seen = features.image[0] if method.sees_as_clip else encode_pictures(method.clip, images)[0]
    return _Said(logits.cpu(), foreground, *(None if one is None else one.cpu() for one in (trust, seen)))


def parts_of(batch: Batch, most: int) -> Iterator[Batch]:
    """Split a batch into batches of at most this size."""
    for start in range(0, len(batch.images), most):
        few = slice(start, start + most)
        masks = None if batch.masks is None else batch.masks[few]
        yield Batch(batch.images[few], batch.labels[few], masks)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    whole = [part for part in parts if part is not None]
    return torch.cat(whole) if whole else None
