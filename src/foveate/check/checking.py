"""Checks labelled photos and lists all problems, the worst first."""

import os
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
from foveate.check.labels import FEW, alike, bad_names, held_out, suspects
from foveate.check.pictures import Look, first_of, look, twins
from foveate.clip.model import Clip
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError
from foveate.foreground.opening import BadPicture
from foveate.methods.registry import REFERENCE, build
from foveate.readers import csv_text
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
"""Kinds of findings, the worst first."""

Watch = Callable[[str, int, int], None]
"""Called with the name of the work, the number of finished pictures, and the number of all pictures."""

_SPOILT = ("unreadable", "two labels", "label", "twin", "two splits")
_WHITE, _USUAL = 0.5, 0.2
_BLURRED = 0.03


@dataclass(frozen=True)
class Finding:
    """One problem.

    Attributes:
        kind: One of `KINDS`.
        pictures: Names of the pictures concerned.
        label: Their class, or the class name or group concerned.
        told: Short description.
        weight: Severity within its kind, in [0, 1].
        indices: Indices of the pictures among those that were checked.
    """

    kind: Kind
    pictures: tuple[str, ...]
    label: str
    told: str
    weight: float = 1.0
    indices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Checked:
    """Result of a check.

    Attributes:
        photos: The checked photos.
        findings: All findings, the worst first.
        leak: Accuracy that the given groups or the bursts fake; None if it was not measured.
    """

    photos: Photos
    findings: tuple[Finding, ...]
    leak: Leak | None = None

    def counts(self) -> dict[Kind, int]:
        """Return the number of findings of each kind, without kinds that have none."""
        counter = Counter(finding.kind for finding in self.findings)
        return {kind: counter[kind] for kind in KINDS if counter[kind]}

    def cleaned(self) -> Photos:
        """Return the photos without unreadable ones, those with suspicious labels, and duplicates.

        The first of several equal pictures stays; if they have different labels, none does.
        """
        removed: set[int] = set()
        for finding in self.findings:
            if finding.kind in _SPOILT:
                first = 0 if finding.kind in ("unreadable", "two labels", "label") else 1
                removed.update(finding.indices[first:])
        remaining = [sample for index, sample in enumerate(self.photos.samples) if index not in removed]
        return self.photos.with_samples(remaining)


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
        photos: Photos of all splits.
        clip: The towers.
        groups: Group of each picture, such as its camera, day or patient; None looks for bursts in EXIF.
        bank: Folder that stores features; None stores none.
        watch: Called with the progress.

    Raises:
        InputError: No picture can be read, or the groups cannot be used.
    """
    looks = _looks(photos, watch)
    measured = {index: result for index, result in enumerate(looks) if isinstance(result, Look)}
    readable = list(measured)
    findings = list(_unreadable(photos, looks))
    if not readable:
        raise InputError(
            f"none of {len(photos)} pictures can be read, first {findings[0].pictures[0]}: {findings[0].told}"
        )
    usable = photos.with_samples([photos.samples[index] for index in readable])
    usable_groups = None if groups is None else [groups[index] for index in readable]
    checked = _check_readable(usable, list(measured.values()), clip, usable_groups, bank, watch)
    findings += [
        replace(finding, indices=tuple(readable[index] for index in finding.indices))
        for finding in checked.findings
    ]
    kinds = list(KINDS)
    findings.sort(key=lambda finding: (kinds.index(finding.kind), -finding.weight))
    return Checked(photos, tuple(findings), checked.leak)


def _check_readable(
    photos: Photos,
    looks: Sequence[Look],
    clip: Clip,
    groups: Sequence[str] | None,
    bank: Path | None,
    watch: Watch | None,
) -> Checked:
    """Return the findings about readable photos, in any order."""
    labels = torch.tensor([sample.label for sample in photos.samples])
    features, zero_shot = _encode(photos, clip, bank, watch)
    logits = held_out(features, labels)
    findings = [
        *_few(photos.names, labels),
        *_wrong_labels(photos, logits, labels),
        *_twins(photos, looks, features),
        *(Finding("name", (), bad.name, bad.reason) for bad in bad_names(photos.names, clip.tokenizer)),
        *_alike(photos.names, zero_shot, labels),
        *_pixels(photos, looks, clip.config.image_size),
    ]
    leak, related = None, find_bursts(photos) if groups is None else groups
    if related is not None:
        findings += _leaks(photos, related)
        # Without given groups, the leak is optional.
        with suppress(InputError) if groups is None else nullcontext():
            leak = group_leaks(features, labels, related, logits)
        if groups is None and not any(sample.split for sample in photos.samples):
            findings += _bursts(photos, related)
    return Checked(photos, tuple(findings), leak)


def _looks(photos: Photos, watch: Watch | None) -> list[Look | BadPicture]:
    results: list[Look | BadPicture] = []
    for result in look(photos.samples):
        results.append(result)
        if watch:
            watch("looking at pictures", len(results), len(photos))
    return results


def _encode(photos: Photos, clip: Clip, folder: Path | None, watch: Watch | None) -> tuple[Tensor, Logits]:
    """Return raw features `[N, D]`, from the bank if it has them, and logits `[N, C]` of zero-shot CLIP."""
    method = build(REFERENCE, clip)
    method.set_classes(photos.names)
    progress = None if watch is None else partial(watch, "encoding pictures")
    features = clip_features(photos, clip, folder, progress)
    with torch.no_grad():
        zero_shot = method.logits(method.pair(features[None].to(clip.logit_scale.device))).cpu()
    return features, zero_shot


def _unreadable(photos: Photos, looks: Sequence[Look | BadPicture]) -> Iterator[Finding]:
    for index, (sample, bad) in enumerate(zip(photos.samples, looks, strict=True)):
        if isinstance(bad, BadPicture):
            label = photos.names[sample.label]
            yield Finding("unreadable", (sample.name,), label, bad.reason, 1.0, (index,))


def _few(names: Sequence[str], labels: Labels) -> Iterator[Finding]:
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    for name, count in zip(names, counts, strict=True):
        if count < FEW:
            text = f"{count} pictures; {FEW} are needed to judge their labels, and some more to test on"
            yield Finding("few", (), name, text.replace("1 pictures", "1 picture"), 1 - count / FEW)


def _wrong_labels(photos: Photos, logits: Logits, labels: Labels) -> Iterator[Finding]:
    for entry in suspects(logits, labels):
        name = photos.samples[entry.picture].name
        text = f"looks like {photos.names[entry.other]}"
        yield Finding(
            "label", (name,), photos.names[int(labels[entry.picture])], text, entry.margin, (entry.picture,)
        )


def _twins(photos: Photos, looks: Sequence[Look], features: Tensor) -> Iterator[Finding]:
    thumbnails = torch.stack([stats.thumbnail for stats in looks])
    first = first_of(list(twins(thumbnails, features)), len(looks))
    members: dict[int, list[int]] = {}
    for index, root in enumerate(first):
        members.setdefault(root, []).append(index)
    for indices in members.values():
        if len(indices) > 1:
            samples = [photos.samples[index] for index in indices]
            classes = list(dict.fromkeys(photos.names[sample.label] for sample in samples))
            in_test = {sample.split == "test" for sample in samples}
            kind: Kind = "two labels" if len(classes) > 1 else "two splits" if len(in_test) > 1 else "twin"
            text = "one picture, or nearly so" + (f": {', '.join(classes)}" if len(classes) > 1 else "")
            yield Finding(
                kind, tuple(sample.name for sample in samples), classes[0], text, 1.0, tuple(indices)
            )


def _alike(names: Sequence[str], zero_shot: Logits, labels: Labels) -> Iterator[Finding]:
    for pair in alike(zero_shot, labels):
        first, second = names[pair.first], names[pair.second]
        text = f"of {first} and {second}, CLIP gives {100 * pair.right:.0f} % the right one"
        yield Finding("alike", (), f"{first}, {second}", text, 1 - pair.right)


def _pixels(photos: Photos, looks: Sequence[Look], side: int) -> Iterator[Finding]:
    typical = torch.tensor([stats.sharpness for stats in looks]).median().item()
    medians = {
        kind: torch.tensor([getattr(stats, kind) for stats in looks]).median().item()
        for kind in ("bright", "dark")
    }
    for index, (sample, stats) in enumerate(zip(photos.samples, looks, strict=True)):
        problems: list[tuple[Kind, str, float]] = []
        if min(stats.width, stats.height) < side / 2:
            problems.append(("tiny", f"{stats.width}x{stats.height}, and CLIP looks at {side}x{side}", 0.5))
        if stats.sharpness < _BLURRED * typical:
            problems.append(
                ("blurred", f"{stats.sharpness:.0f} sharp, and half of them are over {typical:.0f}", 0.5)
            )
        for kind, word in (("bright", "white"), ("dark", "black")):
            share = getattr(stats, kind)
            if share > _WHITE and medians[kind] < _USUAL:
                problems.append(("exposure", f"{100 * share:.0f} % of it is {word}", share))
        for kind, words, weight in problems:
            yield Finding(kind, (sample.name,), photos.names[sample.label], words, weight, (index,))


def _leaks(photos: Photos, groups: Sequence[str]) -> Iterator[Finding]:
    """Yield the groups with pictures both in the test split and in another."""
    for group, indices in _members(groups).items():
        samples: list[Sample] = [photos.samples[index] for index in indices]
        tested = [sample for sample in samples if sample.split == "test"]
        if 0 < len(tested) < len(samples):
            text = f"{len(tested)} of its {len(samples)} pictures are to test on, the others to learn from"
            names = tuple(sample.name for sample in tested[:3])
            yield Finding("leak", names, group, text, len(tested) / len(samples), tuple(indices))


def _bursts(photos: Photos, groups: Sequence[str]) -> Iterator[Finding]:
    """Yield the bursts of photos without splits, the longest first."""
    for group, indices in _members(groups).items():
        if len(indices) > 1:
            names = tuple(photos.samples[index].name for index in indices)
            text = f"{len(indices)} pictures, one moment: keep them in one split"
            yield Finding("burst", names, group, text, 1 - 1 / len(indices), tuple(indices))


def _members(groups: Sequence[str]) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return members


def as_csv(photos: Photos, folder: Path) -> str:
    """Return a CSV list with image, label and split; paths are relative to the folder of the list.

    Raises:
        InputError: A picture is not a file.
    """
    rows: list[tuple[str, str, str]] = []
    for sample in photos.samples:
        if not isinstance(sample.picture, Path):
            raise InputError(f"{sample.name} is no file, and a list has files: leave --write out")
        path = os.path.relpath(sample.picture.absolute(), folder.absolute())
        rows.append((Path(path).as_posix(), photos.names[sample.label], sample.split or ""))
    return csv_text([("image", "label", "split"), *rows])
