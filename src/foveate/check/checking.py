"""Check labelled photos: everything that is wrong with them, in one list, the worst first."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from foveate.check.groups import Leak, find_bursts, group_leaks
from foveate.check.labels import FEW, held_out, suspects
from foveate.check.names import alike, bad_names
from foveate.check.pixels import Look, look
from foveate.check.twins import first_of, twins
from foveate.clip.model import Clip
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError
from foveate.foreground.opening import BadPicture
from foveate.methods.registry import REFERENCE, build
from foveate.train.banking import clip_features
from foveate.types import Labels, Logits

Kind = Literal[
    "unreadable",
    "two labels",
    "two splits",
    "leak",
    "burst",
    "few",
    "label",
    "twin",
    "name",
    "alike",
    "tiny",
    "blurred",
    "exposure",
]
KINDS: dict[Kind, str] = {
    "unreadable": "pictures that cannot be read",
    "two labels": "the same picture under two labels",
    "two splits": "the same picture to learn from and to test on",
    "leak": "groups to learn from and to test on",
    "burst": "bursts of one camera that a draw of shots may tear apart",
    "few": "classes of too few pictures to judge",
    "label": "labels that look wrong",
    "twin": "the same picture twice",
    "name": "class names that CLIP reads badly",
    "alike": "classes that CLIP cannot tell apart",
    "tiny": "tiny pictures",
    "blurred": "blurred pictures",
    "exposure": "pictures that are far too bright or too dark",
}
"""What there may be to find, the worst first."""

Watch = Callable[[str, int, int], None]
"""Told what is done, how many pictures of it, and of how many."""

_SPOILT = ("unreadable", "two labels", "label", "twin", "two splits")
_WHITE, _USUAL = 0.5, 0.2
_BLURRED = 0.03


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: One of `KINDS`.
        pictures: Names of the pictures that show it.
        label: Their class, or the name it is about.
        told: What it is, in a few words.
        weight: How bad it is among its kind, in [0, 1].
        places: Places of the pictures among those that were checked.
    """

    kind: Kind
    pictures: tuple[str, ...]
    label: str
    told: str
    weight: float = 1.0
    places: tuple[int, ...] = ()


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        photos: What was looked at.
        findings: The worst first.
        leak: How much accuracy the groups have faked, where groups were given.
    """

    photos: Photos
    findings: tuple[Finding, ...]
    leak: Leak | None = None

    def counts(self) -> dict[Kind, int]:
        """Return how many findings there are of each kind that was found."""
        found = Counter(one.kind for one in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def cleaned(self) -> Photos:
        """Return the photos without those that cannot be read, look wrongly labelled, or are there twice.

        Of pictures that are there twice the first stays; under two labels none does.
        """
        gone: set[int] = set()
        for one in self.findings:
            if one.kind in _SPOILT:
                gone.update(
                    one.places if one.kind in ("unreadable", "two labels", "label") else one.places[1:]
                )
        kept = [sample for place, sample in enumerate(self.photos.samples) if place not in gone]
        return self.photos.with_samples(kept)


def check_photos(
    photos: Photos,
    clip: Clip,
    *,
    groups: Sequence[str] | None = None,
    bank: Path | None = None,
    watch: Watch | None = None,
) -> Checked:
    """Check labelled photos with a frozen CLIP.

    Args:
        photos: All splits.
        clip: The towers.
        groups: Which group each picture is of: a camera, a day, a patient; None looks for bursts in EXIF.
        bank: Folder in which features are kept; None keeps none.
        watch: Told of progress.

    Raises:
        InputError: There are no pictures that can be read, or groups are of no use.
    """
    looks = _looks(photos, watch)
    good = [place for place, one in enumerate(looks) if isinstance(one, Look)]
    findings = [
        _unreadable(photos, place, one) for place, one in enumerate(looks) if isinstance(one, BadPicture)
    ]
    if not good:
        raise InputError(
            f"none of {len(photos)} pictures can be read, first {findings[0].pictures[0]}: {findings[0].told}"
        )
    read = photos.with_samples([photos.samples[place] for place in good])
    measured = [one for one in looks if isinstance(one, Look)]
    labels = torch.tensor([sample.label for sample in read.samples])
    features, zero_shot = _seen(read, clip, bank, watch)
    logits = held_out(features, labels)
    found = [
        *_few(read.names, labels),
        *_wrong_labels(read, logits, labels),
        *_twins(read, measured, features),
        *(Finding("name", (), one.name, one.reason) for one in bad_names(photos.names, clip.tokenizer)),
        *_alike(photos.names, zero_shot, labels),
        *_pixels(read, measured, clip.config.image_size),
    ]
    own = find_bursts(read) if groups is None else [groups[place] for place in good]
    leak = None
    if own is not None:
        found += _leaks(read, own)
        with suppress(InputError) if groups is None else nullcontext():  # nobody asked what bursts fake
            leak = group_leaks(features, labels, own, logits)
    if own is not None and groups is None and not any(sample.split for sample in read.samples):
        found += _bursts(read, own)
    moved = [replace(one, places=tuple(good[place] for place in one.places)) for one in found]
    order = list(KINDS)
    everything = sorted([*findings, *moved], key=lambda one: (order.index(one.kind), -one.weight))
    return Checked(photos, tuple(everything), leak)


def _looks(photos: Photos, watch: Watch | None) -> list[Look | BadPicture]:
    found: list[Look | BadPicture] = []
    for one in look(photos.samples):
        found.append(one)
        if watch:
            watch("looking at pictures", len(found), len(photos))
    return found


def _seen(photos: Photos, clip: Clip, folder: Path | None, watch: Watch | None) -> tuple[Tensor, Logits]:
    """Return `[N, D]` raw features, and `[N, C]` zero-shot CLIP's logits; from a bank where it has them."""
    method = build(REFERENCE, clip)
    method.set_classes(photos.names)
    told = None if watch is None else partial(watch, "encoding pictures")
    features = clip_features(photos, clip, folder, told)
    with torch.no_grad():
        zero_shot = method.logits(method.pair(features[None].to(clip.logit_scale.device))).cpu()
    return features, zero_shot


def _unreadable(photos: Photos, place: int, error: BadPicture) -> Finding:
    sample = photos.samples[place]
    return Finding("unreadable", (sample.name,), photos.names[sample.label], error.reason, 1.0, (place,))


def _few(names: Sequence[str], labels: Labels) -> Iterator[Finding]:
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    for name, number in zip(names, counts, strict=True):
        if number < FEW:
            told = f"{number} pictures; {FEW} are needed to judge their labels, and some more to test on"
            yield Finding("few", (), name, told.replace("1 pictures", "1 picture"), 1 - number / FEW)


def _wrong_labels(photos: Photos, logits: Logits, labels: Labels) -> Iterator[Finding]:
    for one in suspects(logits, labels):
        name = photos.samples[one.picture].name
        told = f"looks like {photos.names[one.other]}"
        yield Finding(
            "label", (name,), photos.names[int(labels[one.picture])], told, one.margin, (one.picture,)
        )


def _twins(photos: Photos, looks: Sequence[Look], features: Tensor) -> Iterator[Finding]:
    thumbnails = torch.stack([one.thumbnail for one in looks])
    first = first_of(list(twins(thumbnails, features)), len(looks))
    together: dict[int, list[int]] = {}
    for place, low in enumerate(first):
        together.setdefault(low, []).append(place)
    for places in together.values():
        if len(places) > 1:
            own = [photos.samples[place] for place in places]
            classes = list(dict.fromkeys(photos.names[one.label] for one in own))
            tested = {one.split == "test" for one in own}
            kind: Kind = "two labels" if len(classes) > 1 else "two splits" if len(tested) > 1 else "twin"
            told = "one picture, or nearly so" + (f": {', '.join(classes)}" if len(classes) > 1 else "")
            yield Finding(kind, tuple(one.name for one in own), classes[0], told, 1.0, tuple(places))


def _alike(names: Sequence[str], zero_shot: Logits, labels: Labels) -> Iterator[Finding]:
    for one in alike(zero_shot, labels):
        told = f"of {names[one.one]} and {names[one.other]}, CLIP gives {100 * one.right:.0f} % the right one"
        yield Finding("alike", (), f"{names[one.one]}, {names[one.other]}", told, 1 - one.right)


def _pixels(photos: Photos, looks: Sequence[Look], side: int) -> Iterator[Finding]:
    sharpness = torch.tensor([one.sharpness for one in looks]).median().item()
    usual = {
        kind: torch.tensor([getattr(one, kind) for one in looks]).median().item()
        for kind in ("bright", "dark")
    }
    for place, (sample, one) in enumerate(zip(photos.samples, looks, strict=True)):
        told: list[tuple[Kind, str, float]] = []
        if min(one.width, one.height) < side / 2:
            told.append(("tiny", f"{one.width}x{one.height}, and CLIP looks at {side}x{side}", 0.5))
        if one.sharpness < _BLURRED * sharpness:
            told.append(
                ("blurred", f"{one.sharpness:.0f} sharp, and half of them are over {sharpness:.0f}", 0.5)
            )
        for kind, word in (("bright", "white"), ("dark", "black")):
            share = getattr(one, kind)
            if share > _WHITE and usual[kind] < _USUAL:
                told.append(("exposure", f"{100 * share:.0f} % of it is {word}", share))
        for kind, words, weight in told:
            yield Finding(kind, (sample.name,), photos.names[sample.label], words, weight, (place,))


def _leaks(photos: Photos, groups: Sequence[str]) -> Iterator[Finding]:
    """Yield the groups that have pictures in the test split and in another."""
    for group, places in _members(groups).items():
        own: list[Sample] = [photos.samples[place] for place in places]
        tested = [one for one in own if one.split == "test"]
        if 0 < len(tested) < len(own):
            told = f"{len(tested)} of its {len(own)} pictures are to test on, the others to learn from"
            names = tuple(one.name for one in tested[:3])
            yield Finding("leak", names, group, told, len(tested) / len(own), tuple(places))


def _bursts(photos: Photos, groups: Sequence[str]) -> Iterator[Finding]:
    """Yield the bursts of photos without splits, the longest first."""
    for group, places in _members(groups).items():
        if len(places) > 1:
            names = tuple(photos.samples[place].name for place in places)
            told = f"{len(places)} pictures, one moment: keep them in one split"
            yield Finding("burst", names, group, told, 1 - 1 / len(places), tuple(places))


def _members(groups: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        found.setdefault(group, []).append(place)
    return found
