"""Predictions of a method for all pictures of a set, with texts encoded once; and splits of a set."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from foveate.data.loader import PictureSet
from foveate.data.naming import name_key, near_names
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.evaluate.encoding import (
    CLIP_FOREGROUND,
    CLIP_IMAGE,
    FOREGROUND,
    IMAGE,
    StoreOf,
    encode_all,
    specs_for_answers,
)
from foveate.evaluate.metrics import accuracy, foreground_shift
from foveate.memory import sent
from foveate.methods.base import Method
from foveate.methods.capabilities import PriorBranch, TextPerImage, capability
from foveate.prediction import PLAIN, Calibration
from foveate.types import Batch, Branch, Features, Labels, Logits

Watch = Callable[[int, int], None]
"""Called with the number of finished pictures and the total."""


@dataclass(frozen=True)
class Answers:
    """Logits and labels of a picture set.

    Attributes:
        logits: `[N, C]`.
        labels: `[N]` true labels.
        foreground: `[N, C]` logits of the pictures times their masks; None without masks.
        trust: `[N]` weight of CLIP's prior in each answer; None for methods without such a gate.
        masked: `[N]` whether each picture has a mask; None means that all have one.
        names: Class names of the columns.
        pictures: Name of each picture.
        clip: `[N, D]` raw features of the unchanged CLIP, if requested.
        calibration: Converts logits to probabilities.
    """

    logits: Logits
    labels: Labels
    foreground: Logits | None = None
    trust: Tensor | None = None
    masked: Tensor | None = None
    names: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    clip: Tensor | None = None
    calibration: Calibration = PLAIN

    @property
    def probabilities(self) -> Logits:
        """`[N, C]`."""
        return calibrated(self.logits, self.calibration)

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
        selected = chosen if self.masked is None else chosen & self.masked
        logits, foreground = self.logits[selected], self.foreground[selected]
        return foreground_shift(logits, foreground) if len(logits) else None


def calibrated(logits: Logits, calibration: Calibration) -> Logits:
    """Return `[N, C]` probabilities."""
    p = (logits / calibration.temperature).softmax(dim=-1)
    return torch.from_numpy(calibration.as_right(p.numpy(force=True))) if calibration.sure else p


def ask(  # noqa: PLR0913  (all but the first three by name)
    method: Method,
    pictures: PictureSet,
    branch: Branch,
    *,
    batch_size: int = 100,
    with_foreground: bool = False,
    with_clip: bool = False,
    with_region: bool = False,
    store_of: StoreOf | None = None,
    watch: Watch | None = None,
) -> Answers:
    """Return the predictions of `method` for all pictures, in order; its classes must be set.

    Args:
        method: The method.
        pictures: Pictures without augmentation.
        branch: Label space of the class names.
        batch_size: Number of pictures encoded in one pass; fewer if the device's memory is not sufficient.
        with_foreground: Whether to predict the foregrounds too, for the shift index; needs masks.
        with_clip: Whether to return the unchanged CLIP's features too.
        with_region: Whether to give the masks, if there are any, to a method that encodes regions.
        store_of: Returns the store of a tower's features; None keeps no features.
        watch: Called with progress.

    Raises:
        InputError: There are no pictures.
    """
    if not len(pictures):
        raise InputError("there are no pictures to ask about")
    total, per_image = len(pictures), capability(method, TextPerImage)
    foreground = with_foreground and pictures.has_masks
    region = with_region and pictures.has_masks
    specs = specs_for_answers(method, branch, foreground=foreground, clip=with_clip, region=region)
    method.eval()
    with method.constant_text():
        features = encode_all(
            method,
            pictures,
            specs,
            store_of,
            chunk=batch_size,
            watch=None if watch is None or per_image else lambda done: watch(done, total),
        )
        # With one text per picture, `answer` takes most of the time, so it reports the progress.
        answer_watch = watch if per_image else None
        answers = answer(method, features, pictures.photos, branch, batch_size=batch_size, watch=answer_watch)
    return replace(answers, clip=features[CLIP_IMAGE][0]) if with_clip else answers


def answer(
    method: Method,
    features: Mapping[str, Tensor],
    photos: Photos,
    branch: Branch,
    *,
    batch_size: int = 100,
    watch: Watch | None = None,
) -> Answers:
    """Return predictions from raw features.

    Args:
        method: The method in evaluation mode; its classes must be set.
        features: Raw features `[H, N, D]`, as `encode_all` returns them.
        photos: The N pictures with their labels.
        branch: Label space of the class names.
        batch_size: Number of pictures of one pass.
        watch: Called with progress.
    """
    prior, device = capability(method, PriorBranch), method.clip.logit_scale.device
    parts: dict[str, list[Tensor]] = {"logits": [], "foreground": [], "trust": []}

    def features_of(rows: slice, view: str, prior_view: str) -> Features:
        pair = method.pair(sent(features[view][:, rows], device))
        if prior is None or not prior.asks_prior(branch):
            return pair
        return prior.with_prior(pair, sent(features[prior_view][:, rows], device))

    for start in range(0, len(photos), batch_size):
        rows = slice(start, start + batch_size)
        full = features_of(rows, IMAGE, CLIP_IMAGE)
        parts["logits"].append(method.logits(full, branch).cpu())
        trust = prior.trust(full) if prior and branch != "base" else None
        if trust is not None:
            parts["trust"].append(trust.cpu())
        if FOREGROUND in features:
            foreground = features_of(rows, FOREGROUND, CLIP_FOREGROUND)
            parts["foreground"].append(method.logits(foreground, branch).cpu())
        if watch:
            watch(min(rows.stop, len(photos)), len(photos))
    joined = {name: torch.cat(tensors) if tensors else None for name, tensors in parts.items()}
    logits = joined["logits"]
    assert logits is not None
    return Answers(
        logits,
        torch.tensor([sample.label for sample in photos.samples]),
        joined["foreground"],
        joined["trust"],
        torch.tensor([sample.mask is not None for sample in photos.samples]),
        method.names,
        tuple(sample.name for sample in photos.samples),
    )


def parts_of(batch: Batch, size: int) -> Iterator[Batch]:
    """Split the pictures, labels and masks of a batch into batches of at most this size."""
    for start in range(0, len(batch.images), size):
        rows = slice(start, start + size)
        masks, areas = (None if part is None else part[rows] for part in (batch.masks, batch.areas))
        yield Batch(batch.images[rows], batch.labels[rows], masks, areas)


# Splits of labelled pictures by whether a model was trained on their classes.


Split = Literal["base", "new", "all"]
"""Pictures of trained classes, of other classes, or of both among all names."""


def split_of(photos: Photos, trained: Sequence[str], split: Split) -> Photos:
    """Return the pictures of a split, with the names to choose from.

    Args:
        photos: Labelled pictures; other spellings of a trained name ("Barn_Owl") count as that name.
        trained: Names of the trained classes.
        split: The split.

    Raises:
        InputError: The data has no picture of that split.
    """
    photos = _with_trained_names(photos, trained)
    new = [name for name in photos.names if name not in trained]
    names = {"base": list(trained), "new": new, "all": [*trained, *new]}[split]
    samples = [sample for sample in photos.samples if photos.names[sample.label] in names]
    if not samples:
        raise InputError(
            f"there are no pictures of {split} classes: the model was trained on {len(trained)} classes, "
            f"and the data has {len(new)} others (train with --classes base to keep half as new)"
        )
    relabelled = tuple(replace(sample, label=names.index(photos.names[sample.label])) for sample in samples)
    return replace(photos, names=tuple(names), samples=relabelled)


def label_space(method: Method) -> Branch:
    """Return the label space of a method's class names."""
    if all(method.trained):
        return "base"
    return "mixed" if any(method.trained) else "new"


def splits_of(photos: Photos, trained: Sequence[str], *, takes_new_names: bool) -> list[Split]:
    """Return the splits that these pictures allow: "base"; "new" and "all" if there are other classes.

    Args:
        photos: As for `split_of`.
        trained: As for `split_of`.
        takes_new_names: Whether the model accepts new class names; if not, "base" is the only split.
    """
    photos, known = _with_trained_names(photos, trained), set(trained)
    present = {photos.names[sample.label] for sample in photos.samples}
    base: list[Split] = ["base"] if present & known else []
    if base and not takes_new_names:
        return base
    return [*base, "new", "all"] if present - known and base else base or ["new"]


def _with_trained_names(photos: Photos, trained: Sequence[str]) -> Photos:
    """Rename classes to their trained spelling ("Barn_Owl" to "barn owl"); warn about similar names."""
    spellings = {name_key(name): name for name in trained}
    others = [name for name in photos.names if name_key(name) not in spellings]
    for name, known in near_names(others, spellings.values()):
        warnings.warn(
            f"{name!r} is counted as a new class, and {known!r} was trained: if they are one, rename it",
            stacklevel=4,
        )
    return replace(photos, names=tuple(spellings.get(name_key(name), name) for name in photos.names))
