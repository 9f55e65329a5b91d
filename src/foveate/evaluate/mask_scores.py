"""Quality of masks: overlap with exact masks, and the trust of FVG-PT's gate in them.

- [0]: FVG-PT, 2026, https://arxiv.org/abs/2603.08708 ("Eq." and "Sec." below refer to it)
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.data.loader import PictureSet, eval_pictures
from foveate.data.naming import clean_name
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError
from foveate.evaluate.answers import Watch, parts_of
from foveate.evaluate.metrics import mean
from foveate.foreground.checks import fit_mask
from foveate.foreground.cutting import MaskJob
from foveate.foreground.matching import MaskFile, find_masks
from foveate.foreground.opening import source_name
from foveate.foreground.options import MaskValues
from foveate.foreground.pictures import measure
from foveate.foreground.proposers.base import Mask
from foveate.foreground.values import MaskSource, detect_values, read_mask
from foveate.memory import Pieces
from foveate.methods.capabilities import ForegroundTrust
from foveate.train.banking import to_device
from foveate.types import Batch, PerImage

_BATCH = 64


@dataclass(frozen=True)
class MaskSet:
    """The masks of a set of pictures.

    Attributes:
        jobs: The pictures.
        masks: The mask of each picture, or None.
        values: Meaning of their pixel values.
    """

    jobs: Sequence[MaskJob]
    masks: Sequence[MaskFile | None]
    values: MaskValues

    def only(self, names: Collection[str]) -> "MaskSet":
        """Return the set with only the pictures of these names."""
        pairs = [(job, mask) for job, mask in zip(self.jobs, self.masks, strict=True) if job.name in names]
        return MaskSet([job for job, _ in pairs], [mask for _, mask in pairs], self.values)


@dataclass(frozen=True)
class Overlap:
    """Overlap of masks with exact masks.

    Attributes:
        by_class: Intersection over union of each picture, by class name; "" if classes are unknown.
    """

    by_class: Mapping[str, tuple[float, ...]]

    @property
    def all(self) -> tuple[float, ...]:
        """IoU of all pictures."""
        return tuple(value for ious in self.by_class.values() for value in ious)

    @property
    def mean(self) -> float:
        """Mean over pictures."""
        return mean(self.all)

    def share_above(self, least: float = 0.5) -> float:
        """Share of pictures with an IoU above `least`."""
        return mean([float(value > least) for value in self.all])


def masks_of(jobs: Sequence[MaskJob], folder: Path) -> MaskSet:
    """Find the masks of pictures in a folder or a packed set.

    Raises:
        InputError: The folder does not exist, or has no mask of these pictures.
    """
    masks = find_masks([(job.path, Path(job.name)) for job in jobs], folder)
    existing: list[MaskSource] = [mask for mask in masks if mask is not None]
    if not existing:
        example = (folder / jobs[0].name).with_suffix(".png")
        raise InputError(f"{folder}: no mask in it matches a picture; expected, for instance, {example}")
    return MaskSet(jobs, masks, detect_values(existing))


def iou(first: Mask, second: Mask) -> float:
    """Return intersection over union; 1 if both masks are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def overlap(masks: MaskSet, truth: MaskSet, watch: Watch | None = None) -> Overlap:
    """Compare masks with exact masks, over the pictures that have both.

    Args:
        masks: Masks to measure.
        truth: Exact masks of the same pictures; they are resized to the picture if needed.
        watch: Called with progress.

    Raises:
        InputError: No picture has both masks; or a mask is unreadable or does not have its picture's
            shape.
    """
    exact_masks = {job.name: mask for job, mask in zip(truth.jobs, truth.masks, strict=True)}
    ious: dict[str, list[float]] = {}
    for index, (job, measured) in enumerate(zip(masks.jobs, masks.masks, strict=True)):
        exact = exact_masks.get(job.name)
        if measured is not None and exact is not None:
            score = iou(_read(job, measured, masks.values), _read(job, exact, truth.values))
            ious.setdefault(job.label, []).append(score)
        if watch:
            watch(index + 1, len(masks.jobs))
    if not ious:
        raise InputError("no picture has both a mask and an exact one to compare it with")
    return Overlap({label: tuple(scores) for label, scores in ious.items()})


def mean_trust(method: ForegroundTrust, masks: MaskSet, watch: Watch | None = None) -> float:
    """Return the mean of r, the trained foreground gate's trust (Sec. 3.2), on whole pictures.

    As in training, r is 0 if the view has too little foreground. Pictures of classes that the gate does
    not know are left out; pictures without a class are used.

    Raises:
        InputError: The gate is not trained, or knows none of the classes.
    """
    if not method.has_gate():
        raise InputError("this model has no foreground gate (foreground_gate is false): give another --model")
    return _mean_over(method, masks, method.foreground_trust, watch)


def mean_target(method: ForegroundTrust, masks: MaskSet, watch: Watch | None = None) -> float:
    """Return the mean of r* (Eq. 3): how often the backbone's error is smaller on the foreground alone.

    Raises:
        InputError: No picture belongs to a class of the method.
    """
    if any(not job.label for job in masks.jobs):
        raise InputError(
            "the trust that masks deserve is measured with class names, and these pictures have none"
        )
    return _mean_over(method, masks, method.foreground_target, watch)


def _mean_over(
    method: ForegroundTrust,
    masks: MaskSet,
    score: Callable[[Batch], PerImage],
    watch: Watch | None,
) -> float:
    pictures = _pictures(method, masks)
    total = 0.0
    done = 0
    method.eval()
    with method.constant_text():
        for values in _measure(method, pictures, score):
            total += float(values.sum())
            done += len(values)
            if watch:
                watch(done, len(pictures))
    return total / done


def _measure(
    method: ForegroundTrust, pictures: PictureSet, score: Callable[[Batch], PerImage]
) -> Iterator[PerImage]:
    pieces, device = Pieces(_BATCH), method.clip.logit_scale.device
    for batch in pictures.batches(None, _BATCH, shuffle=False, drop_last=False):
        yield from pieces.run(
            lambda size, batch=batch: [score(to_device(part, device)) for part in parts_of(batch, size)]
        )


def _pictures(method: ForegroundTrust, masks: MaskSet) -> PictureSet:
    """Return the pictures with a mask and with a class of the method, or without a class."""
    labels = {_plain(name): label for label, name in enumerate(method.names)}
    samples = [
        Sample(job.path, labels.get(_plain(job.label), 0), mask)
        for job, mask in zip(masks.jobs, masks.masks, strict=True)
        if mask is not None and (not job.label or _plain(job.label) in labels)
    ]
    if not samples:
        raise InputError(
            "no picture that has a mask is of a class that the model knows: give another --model"
        )
    return eval_pictures(Photos(method.names, tuple(samples), masks.values), method.clip.config)


def _read(job: MaskJob, mask: MaskSource, values: MaskValues) -> Mask:
    size, orientation = measure(job.path)
    stored = read_mask(mask, values)
    fitted = fit_mask(
        stored, size, orientation=orientation, mask_name=source_name(mask), picture_name=str(job.path)
    )
    return np.asarray(fitted) > 0


def _plain(name: str) -> str:
    return clean_name(name).casefold()
