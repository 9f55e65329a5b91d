"""Learns from a few labels in seconds, on stored features, and chooses the photo to label next."""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from foveate.classifier import Classifier
from foveate.errors import InputError
from foveate.methods.capabilities import ClosedForm, SupportSet
from foveate.methods.registry import Settings, configure
from foveate.select.pool import first_greatest
from foveate.train.checkpoint import ModelConfig
from foveate.types import Batch, Logits

HEAD = "lpplusplus"
SETTINGS: Settings = {"lpplusplus": {"validate": False}, "tip_adapter": {"views": 1, "validate": False}}

Rows = Float[Tensor, "pictures dim"]


def learn(
    start: Classifier,
    features: Rows,
    labels: Sequence[str],
    *,
    method: str = HEAD,
    settings: Settings | None = None,
) -> Classifier:
    """Return a classifier on the same towers, learned from features alone.

    Args:
        start: Classifier with the towers that computed the features.
        features: `[N, D]` raw picture features of the unchanged CLIP.
        labels: Class name of each picture; the classifier's names are these, in order of first occurrence.
        method: A method that is solved on frozen features: "lpplusplus", "linear_probe", "tip_adapter".
        settings: Settings of the method, by part; the default suits one view and no validation pictures.

    Raises:
        InputError: There are no labels, or the method is not solved on frozen features.
    """
    if not len(labels):
        raise InputError("there are no labels to learn from: label a photo first")
    names = list(dict.fromkeys(labels))
    settings = settings or {part: values for part, values in SETTINGS.items() if part == method}
    classifier = start.beside(method, settings)
    head = classifier.method
    if not isinstance(head, ClosedForm) or not head.sees_as_clip or head.tunes_text:
        raise InputError(f"{method} is not solved on kept features: take lpplusplus or linear_probe")
    head.set_classes(names)
    targets = torch.tensor([names.index(label) for label in labels])
    no_pixels = torch.empty(len(features), 3, 0, 0)
    batch = Batch(no_pixels, targets, frozen={"image": features[None].to(start.clip.logit_scale.device)})
    head.fit_support(SupportSet(lambda _: [batch]))
    head.finish()
    classifier.method = head.eval()
    classifier.config = ModelConfig(
        method=method,
        settings={part: asdict(config) for part, config in configure(method, settings).items()},
        clip=str(start.clip_source),
        fingerprint=start.clip.fingerprint(),
        names=names,
        precision=str(start.clip.text.proj.dtype).removeprefix("torch."),
        shots=max(labels.count(name) for name in names),
        pictures=len(labels),
        version=version("foveate"),
    )
    return classifier


@torch.no_grad()
def answered(classifier: Classifier, features: Rows, names: Sequence[str]) -> Logits:
    """Return logits `[N, C]` of pictures from their stored features.

    Args:
        classifier: Zero-shot, or one that `learn` returned.
        features: `[N, D]` raw picture features of the unchanged CLIP.
        names: All class names to choose from; the columns have their order.
    """
    method = classifier.method
    # As in `Classifier.ask_about`, but without its message about names that have no label yet.
    method.set_classes(names, trained=classifier.config.names if classifier.config else ())
    with method.constant_text():
        image = features[None].to(classifier.clip.logit_scale.device)
        return method.logits(method.pair(image), "mixed").float().cpu()


def most_useful(features: Rows, logits: Logits | None, taken: Bool[Tensor, " pictures"]) -> int | None:
    """Return the index of the photo to label next; None if all have a label.

    The model is unsure of it, and it differs from the labelled photos: it has the greatest
    (1 - (p₁ - p₂)) · min_j (1 - cos(i, j)), over labelled j. Before the first label, it is the photo most
    similar to all others.

    Args:
        features: `[N, D]` raw picture features.
        logits: `[N, C]` logits of a model. With None or a single column, the model is equally unsure of all.
        taken: `[N]` whether a photo has a label.
    """
    if bool(taken.all()):
        return None
    unit = F.normalize(features, dim=-1).double()
    if not bool(taken.any()):
        return first_greatest(unit @ unit.mean(dim=0), taken)
    distances = (1 - unit @ unit[taken].T).clamp(min=0).min(dim=1).values
    return first_greatest(distances * _uncertainty(logits, len(unit)), taken)


def _uncertainty(logits: Logits | None, pictures: int) -> Float[Tensor, " pictures"]:
    """Return 1 - (p₁ - p₂) of each picture, from its two greatest probabilities."""
    if logits is None or logits.shape[1] < 2:
        return torch.ones(pictures, dtype=torch.double)
    top = logits.double().softmax(dim=-1).topk(2, dim=1).values
    return 1 - (top[:, 0] - top[:, 1])
