"""Learning from a few labels in seconds, on features that are kept; and which photo to label next."""

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
from foveate.select.order import first_greatest
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
    """Return a classifier on the same towers that has learned from features alone.

    Args:
        start: Whose towers they are of.
        features: `[N, D]` raw picture features of the untouched CLIP.
        labels: The class name of each; the classifier's names are these, in the order they come.
        method: One that is solved on frozen features: "lpplusplus", "linear_probe", "tip_adapter".
        settings: Of it, by part; by default those that suit one view and no validation pictures.

    Raises:
        InputError: There are no labels, or the method is not of that kind.
    """
    if not len(labels):
        raise InputError("there are no labels to learn from: label a photo first")
    names = list(dict.fromkeys(labels))
    settings = settings or {part: one for part, one in SETTINGS.items() if part == method}
    classifier = start.beside(method, settings)
    head = classifier.method
    if not isinstance(head, ClosedForm) or not head.sees_as_clip or head.tunes_text:
        raise InputError(f"{method} is not solved on kept features: take lpplusplus or linear_probe")
    head.set_classes(names)
    places = torch.tensor([names.index(label) for label in labels])
    nothing = torch.empty(len(features), 3, 0, 0)
    batch = Batch(nothing, places, frozen={"image": features[None].to(start.clip.logit_scale.device)})
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
    """Return `[N, C]` logits of pictures whose features are kept.

    Args:
        classifier: Zero-shot, or one that `learn` returned.
        features: `[N, D]` raw picture features of the untouched CLIP.
        names: All to choose from; columns are in their order.
    """
    method = classifier.method
    # As `Classifier.ask_about` does it, which would tell each time of names that nobody has labelled yet.
    method.set_classes(names, trained=classifier.config.names if classifier.config else ())
    with method.constant_text():
        image = features[None].to(classifier.clip.logit_scale.device)
        return method.logits(method.pair(image), "mixed").float().cpu()


def most_useful(features: Rows, logits: Logits | None, taken: Bool[Tensor, " pictures"]) -> int | None:
    """Return the photo whose label would tell most; None where all have one.

    It is one that the model is unsure of and that is unlike those with a label: greatest of
    (1 - (p₁ - p₂)) · min_j (1 - cos(i, j)) over labelled j. While no photo has a label, it is the one that is
    most like all others.

    Args:
        features: `[N, D]` raw picture features.
        logits: `[N, C]` of a model; None, or a single column, and all are as unsure.
        taken: `[N]` which have a label.
    """
    if bool(taken.all()):
        return None
    unit = F.normalize(features, dim=-1).double()
    if not bool(taken.any()):
        return first_greatest(unit @ unit.mean(dim=0), taken)
    unlike = (1 - unit @ unit[taken].T).clamp(min=0).min(dim=1).values
    return first_greatest(unlike * _unsure(logits, len(unit)), taken)


def _unsure(logits: Logits | None, pictures: int) -> Float[Tensor, " pictures"]:
    """Return 1 - (p₁ - p₂)."""
    if logits is None or logits.shape[1] < 2:
        return torch.ones(pictures, dtype=torch.double)
    top = logits.double().softmax(dim=-1).topk(2, dim=1).values
    return 1 - (top[:, 0] - top[:, 1])
