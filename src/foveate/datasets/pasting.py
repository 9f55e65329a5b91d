"""Pastes objects of photographs on other grounds, under the test conditions of the drawn species.

The objects are those of a set's test pictures with masks. They keep their position and their class.
Each condition has a split file with the same objects, in the same order:

- home: the test pictures as they are.
- same: on the ground of another picture of their class (their own, if there is no other). It differs from
  home only by the pasting.
- any: on the ground of a picture of a class drawn among all others.
- sibling: on the ground of one other class, the same for all objects of a class. The classes form a circle in
  random order, separately for base and new classes. So the ground suggests a wrong class that is among the
  choices of base-to-new.
- unseen: on the ground of a picture of another data set.

- Mixed-same and mixed-rand: Xiao et al. 2021, Noise or Signal, https://arxiv.org/abs/2006.09994
"""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from foveate.data.fewshot import base_new
from foveate.data.loader import PictureSet
from foveate.data.samples import Photos, Sample
from foveate.datasets.catalogue import PASTED, DataSet, find, pasted_folder
from foveate.datasets.opening import open_set
from foveate.datasets.world_sets import WholeFolder, save_image
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.foreground.options import OnCount
from foveate.foreground.pictures import measure
from foveate.foreground.views import exchange
from foveate.seeds import stream

TESTS = 20
"""Default maximum number of objects of a class."""

SIDE = 336
"""Maximum shorter side of written pictures, in pixels: no CLIP model here has a larger input."""

MOST_OBJECT = 0.8
"""Maximum share of a picture that an object covers: some ground must be visible."""

MOST_ENLARGED = 2.0
"""Maximum factor by which a ground is enlarged to cover a picture."""

ORIGINS = "origins.csv"
PICTURES, MASKS = "images", "mask"


@dataclass(frozen=True)
class Pasted:
    """Result of pasting a set.

    Attributes:
        made: Whether this call made it; otherwise it existed before.
        classes: Number of classes with objects.
        tests: Number of test pictures.
        masked: Number of test pictures with a mask.
        objects: Number of objects that were taken from them.
        folder: The folder of the pasted pictures.
    """

    made: bool
    classes: int
    tests: int
    masked: int
    objects: int
    folder: Path


class _Lender(NamedTuple):
    """A picture that may lend its ground, and its set."""

    pictures: PictureSet
    sample: Sample


def paste_set(
    root: Path,
    key: str,
    grounds: str,
    *,
    masks: Path | None = None,
    seed: int = 1,
    tests: int = TESTS,
    on_count: OnCount | None = None,
) -> Pasted:
    """Write a set's objects on shifted grounds, and a split file for each condition, in `root/KEY-pasted`.

    The files are written to a temporary folder that is then renamed, so an interrupted call leaves nothing. A
    complete set is not changed. Equal arguments give equal bytes.

    Args:
        root: The root folder of the data sets.
        key: The set, by key, title or configuration name.
        grounds: The set whose test pictures are the grounds of "unseen"; where it has masks, its objects are
            painted over.
        masks: Masks of the set, as for `open_set`.
        seed: Seed of the choice of objects and grounds.
        tests: Maximum number of objects of a class.
        on_count: Called with the number of pasted pictures, and the total.

    Raises:
        InputError: A set is missing, or is a drawn one; no test picture has a mask, or only those of one
            class have; the grounds are those of the set, or are too small; the folder has other content.
    """
    dataset, ground_set = _real(key), _real(grounds)
    if dataset.key == ground_set.key:
        raise InputError(f"{dataset.key} lends no unseen grounds to itself: give --grounds another set")
    if tests < 1:
        raise InputError(f"--tests is {tests}: give 1 or more")
    photos = open_set(root, dataset.key, masks=masks)
    test_photos, ground_photos = photos.split("test"), open_set(root, ground_set.key, splits=("test",))
    masked = test_photos.with_samples([sample for sample in test_photos.samples if sample.mask is not None])
    if not masked.samples:
        raise InputError(
            f"{dataset.title}: none of {len(test_photos)} test pictures has a mask; make them with"
            " `foveate masks`, or give --masks"
        )
    record = {"version": 1, "key": dataset.key, "seed": seed, "tests": tests, "grounds": ground_set.key}
    record |= {"of": photos.digest(masks=True)[:16], "and": ground_photos.digest(masks=True)[:16]}
    folder = WholeFolder(root / pasted_folder(dataset.key), record, "pasted.json")
    made = not folder.is_there()
    if made:
        pictures = PictureSet(masked, SIDE)
        objects = _objects(pictures, seed, tests)
        circle = _circle(photos, {sample.label for sample in objects}, dataset, seed)
        paster = _Paster(pictures, objects, PictureSet(ground_photos, SIDE), circle, seed)
        with folder.written() as temporary:
            _write(temporary, root, dataset, paster, photos.names, on_count)
    rows = open_set(root, f"{dataset.key}@home", splits=("test",)).samples
    return Pasted(
        made, len({row.label for row in rows}), len(test_photos), len(masked), len(rows), folder.path
    )


def _real(name: str) -> DataSet:
    dataset = find(name)
    if dataset.world is not None or "@" in dataset.key:
        raise InputError(f"{dataset.key} is no set of photographs: only these are pasted")
    return dataset


def _objects(pictures: PictureSet, seed: int, limit: int) -> list[Sample]:
    """Return up to `limit` samples of each class that show an object and a ground, class by class."""
    by_label: dict[int, list[Sample]] = defaultdict(list)
    for sample in pictures.photos.samples:
        by_label[sample.label].append(sample)
    chosen: list[Sample] = []
    for label, samples in sorted(by_label.items()):
        order = torch.randperm(len(samples), generator=stream(seed, "pasted objects", label)).tolist()
        usable = (index for index in order if 0 < pictures.whole(samples[index])[2] <= MOST_OBJECT)
        chosen += [samples[index] for index in sorted(islice(usable, limit))]
    return chosen


def _circle(photos: Photos, labels: set[int], dataset: DataSet, seed: int) -> dict[int, int]:
    """Return, for each class, the other class whose grounds its objects get under "sibling"."""
    if len(labels) < 2:
        raise InputError(
            f"{dataset.title}: objects with masks are of {len(labels)} class; others must lend their grounds"
        )
    base = set(base_new(photos)[0]) if photos.split("train").samples else labels
    halves = [sorted(labels & base), sorted(labels - base)]
    return siblings(halves, seed) or siblings([sorted(labels)], seed)


def siblings(groups: Sequence[Sequence[int]], seed: int) -> dict[int, int]:
    """Map each class to another class of its group, one to one.

    Args:
        groups: Labels, in groups. If a group has a single class, the mapping is empty.
        seed: Seed of the order on the circle.
    """
    mapping: dict[int, int] = {}
    for number, labels in enumerate(groups):
        if len(labels) == 1:
            return {}
        order = torch.randperm(len(labels), generator=stream(seed, "siblings", number)).tolist()
        mapping |= {labels[index]: labels[order[(turn + 1) % len(order)]] for turn, index in enumerate(order)}
    return mapping


@dataclass(frozen=True)
class _Paster:
    """The objects, and where their grounds come from.

    Attributes:
        pictures: The set of the objects.
        objects: The taken samples, in the order of the split files.
        unseen: The set that lends grounds to "unseen".
        circle: Class that lends grounds under "sibling", by class.
        seed: Seed of the draws.
    """

    pictures: PictureSet
    objects: Sequence[Sample]
    unseen: PictureSet
    circle: Mapping[int, int]
    seed: int

    @cached_property
    def _of_class(self) -> Mapping[int, Sequence[Sample]]:
        by_class: dict[int, list[Sample]] = defaultdict(list)
        for sample in self.objects:
            by_class[sample.label].append(sample)
        return by_class

    def lenders(self, index: int, condition: str) -> Iterator[_Lender]:
        """Yield pictures that may lend the ground of an object, in an order drawn for it."""
        target = self.objects[index]
        source = self.unseen if condition == "unseen" else self.pictures
        candidates: Sequence[Sample] = {
            "unseen": self.unseen.photos.samples,
            "any": self.objects,
            "sibling": self._of_class[self.circle[target.label]],
            "same": [sample for sample in self._of_class[target.label] if sample is not target] or [target],
        }[condition]
        order = torch.randperm(len(candidates), generator=stream(self.seed, "grounds", condition, index))
        for row in order.tolist():
            if condition != "any" or candidates[row].label != target.label:
                yield _Lender(source, candidates[row])

    def paste(self, index: int, condition: str) -> tuple[Image.Image, Image.Image, Sample]:
        """Return an object on its ground, its mask, and the picture that lent the ground.

        Raises:
            InputError: No picture is large enough.
        """
        picture, mask, _ = self.pictures.whole(self.objects[index])
        assert mask is not None
        picture = _downscaled(picture)
        mask = mask.resize(picture.size, Image.Resampling.NEAREST)
        for source, sample in self.lenders(index, condition):
            (width, height), _ = measure(sample.picture)
            if max(picture.width / width, picture.height / height) > MOST_ENLARGED:
                continue
            ground, ground_mask, share = source.whole(sample)
            if share <= MOST_OBJECT:
                return exchange(picture, mask, ground, ground_mask), mask, sample
        name, (width, height) = self.objects[index].name, picture.size
        raise InputError(
            f"{name}: no picture lends it a ground under {condition!r}: each is less than half of"
            f" {width}x{height}, or more than {MOST_OBJECT:.0%} object: take other grounds, or better masks"
        )


def _downscaled(picture: Image.Image) -> Image.Image:
    """Return a picture whose shorter side is at most `SIDE`."""
    shorter = min(picture.size)
    if shorter <= SIDE:
        return picture
    size = (round(picture.width * SIDE / shorter), round(picture.height * SIDE / shorter))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _write(
    folder: Path,
    root: Path,
    dataset: DataSet,
    paster: _Paster,
    names: Sequence[str],
    on_count: OnCount | None,
) -> None:
    """Write pictures, masks and split files; paths in these begin at the root of the data sets."""
    origins = [("condition", "picture", "object", "class", "ground", "ground's class")]
    pasted = [condition for condition in PASTED if condition != "home"]
    total = len(pasted) * len(paster.objects)
    for condition in PASTED:
        rows: list[tuple[str, int, str]] = []
        for index, sample in enumerate(paster.objects):
            if condition == "home":
                path, mask = _below(root, sample), paster.pictures.whole(sample)[1]
            else:
                image, mask, lender = paster.paste(index, condition)
                slug = re.sub("[^a-z0-9]+", "_", names[sample.label].lower())
                # Photos.digest has only the names of a file and its folder, so the name has the condition.
                inner = f"{PICTURES}/{condition}/{sample.label:04d}_{slug}/{condition}_{index:06d}.jpg"
                path = f"{pasted_folder(dataset.key)}/{inner}"
                save_image(image, folder / inner, quality=95, subsampling=0)
                ground_class = "" if condition == "unseen" else names[lender.label]
                columns = (_below(root, sample), names[sample.label], _below(root, lender), ground_class)
                origins.append((condition, path, *columns))
            assert mask is not None
            save_image(mask.convert("1"), folder / MASKS / f"{path}.png")
            rows.append((path, sample.label, names[sample.label]))
            if on_count is not None and condition != "home":
                on_count(pasted.index(condition) * len(paster.objects) + index + 1, total)
        split = {"names": names, "train": [], "val": [], "test": rows}
        write_atomically(
            folder / find(f"{dataset.key}@{condition}").split_file, json.dumps(split, indent=1) + "\n"
        )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(origins)
    write_atomically(folder / ORIGINS, text.getvalue())


def _below(root: Path, sample: Sample) -> str:
    assert isinstance(sample.picture, Path)
    if not sample.picture.is_relative_to(root):
        raise InputError(f"{sample.name} is not below {root}: give the folder that holds it as ROOT")
    return sample.picture.relative_to(root).as_posix()
