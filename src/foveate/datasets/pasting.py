"""Photographs under the test conditions of the drawn species: objects of test pictures on shifted grounds.

The objects are those of a set's test pictures with masks. They stay where they are, and keep their class.
Each condition has a split file with the same objects, in the same order:

- home: the test pictures as they are.
- same: on the ground of another picture of their class (its own, where there is no other). It differs from
  home only by the pasting.
- any: on the ground of a picture of a class drawn among all others.
- sibling: on the ground of one other class, the same for all objects of a class. Classes go around in a
  circle, drawn once, separately for the base and the new classes: the ground names a wrong answer that is
  among the choices of base-to-new.
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
from typing import Any, NamedTuple

import torch
from PIL import Image

from foveate.data.fewshot import base_new
from foveate.data.loader import PictureSet
from foveate.data.samples import Photos, Sample
from foveate.datasets.catalogue import PASTED, DataSet, find, pasted_folder
from foveate.datasets.opening import open_set
from foveate.datasets.whole import WholeFolder
from foveate.datasets.world_sets import OnCount
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.foreground.exchange import exchange
from foveate.foreground.pictures import measure
from foveate.seeds import stream

TESTS = 20
"""Default of the most objects of a class."""

SIDE = 336
"""Shorter side of written pictures at most, in pixels: no CLIP here looks at more."""

MOST_OBJECT = 0.8
"""Share of a picture that an object covers at most: there must be a ground to see."""

MOST_ENLARGED = 2.0
"""Factor by which a ground is enlarged at most to cover a picture."""

ORIGINS = "origins.csv"
PICTURES, MASKS = "images", "mask"


@dataclass(frozen=True)
class Pasted:
    """What was pasted of a set.

    Attributes:
        made: Whether it was made by this call; otherwise it was there.
        classes: Number of classes with objects.
        tests: Number of test pictures.
        masked: Those with a mask.
        objects: Those whose objects were taken.
        folder: The folder of the pasted pictures.
    """

    made: bool
    classes: int
    tests: int
    masked: int
    objects: int
    folder: Path


class _Place(NamedTuple):
    """A picture in its set: the set of the objects, or the one that lends grounds."""

    of: PictureSet
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

    The folder is written beside its place and renamed, so an interrupted call leaves nothing. A complete
    one is not changed. Equal arguments give equal bytes.

    Args:
        root: The root folder of the data sets.
        key: The set, by key, title or configuration name.
        grounds: The set whose test pictures are the grounds of "unseen"; where it has masks, its objects are
            painted over.
        masks: Masks of the set, as for `open_set`.
        seed: Seed of the choice of objects and grounds.
        tests: The most objects of a class.
        on_count: Called with the number of pasted pictures, and the total.

    Raises:
        InputError: A set is not there, or is drawn; no test picture has a mask, or only those of one class;
            the grounds are those of the set, or are too small; something else is in the place.
    """
    one, lenders = _real(key), _real(grounds)
    if one.key == lenders.key:
        raise InputError(f"{one.key} lends no unseen grounds to itself: give --grounds another set")
    if tests < 1:
        raise InputError(f"--tests is {tests}: give 1 or more")
    photos = open_set(root, one.key, masks=masks)
    every, ground = photos.split("test"), open_set(root, lenders.key, splits=("test",))
    masked = every.with_samples([sample for sample in every.samples if sample.mask is not None])
    if not masked.samples:
        raise InputError(
            f"{one.title}: none of {len(every)} test pictures has a mask; make them with `foveate masks`, or"
            " give --masks"
        )
    record = {"version": 1, "key": one.key, "seed": seed, "tests": tests, "grounds": lenders.key}
    record |= {"of": photos.digest(masks=True)[:16], "and": ground.digest(masks=True)[:16]}
    whole = WholeFolder(root / pasted_folder(one.key), record, "pasted.json")
    made = not whole.is_there()
    if made:
        pictures = PictureSet(masked, SIDE)
        objects = _objects(pictures, seed, tests)
        circle = _circle(photos, {sample.label for sample in objects}, one, seed)
        chosen = _Chosen(pictures, objects, PictureSet(ground, SIDE), circle, seed)
        with whole.written() as beside:
            _write(beside, root, one, chosen, photos.names, on_count)
    rows = open_set(root, f"{one.key}@home", splits=("test",)).samples
    return Pasted(made, len({row.label for row in rows}), len(every), len(masked), len(rows), whole.path)


def _real(name: str) -> DataSet:
    one = find(name)
    if one.world is not None or "@" in one.key:
        raise InputError(f"{one.key} is no set of photographs: only these are pasted")
    return one


def _objects(pictures: PictureSet, seed: int, most: int) -> list[Sample]:
    """Return up to `most` samples of each class that show an object and a ground, class by class."""
    own: dict[int, list[Sample]] = defaultdict(list)
    for sample in pictures.photos.samples:
        own[sample.label].append(sample)
    taken: list[Sample] = []
    for label, samples in sorted(own.items()):
        order = torch.randperm(len(samples), generator=stream(seed, "pasted objects", label)).tolist()
        fit = (place for place in order if 0 < pictures.whole(samples[place])[2] <= MOST_OBJECT)
        taken += [samples[place] for place in sorted(islice(fit, most))]
    return taken


def _circle(photos: Photos, there: set[int], one: DataSet, seed: int) -> dict[int, int]:
    """Return the class whose grounds the objects of each class get under "sibling": never their own."""
    if len(there) < 2:
        raise InputError(
            f"{one.title}: objects with masks are of {len(there)} class; others must lend their grounds"
        )
    base = set(base_new(photos)[0]) if photos.split("train").samples else there
    halves = [sorted(there & base), sorted(there - base)]
    return siblings(halves, seed) or siblings([sorted(there)], seed)


def siblings(groups: Sequence[Sequence[int]], seed: int) -> dict[int, int]:
    """Return one other class of its group for each class, such that each is taken once.

    Args:
        groups: Labels, in groups. If one has a single class, there is no such mapping, and it is empty.
        seed: Seed of the order on the circle.
    """
    found: dict[int, int] = {}
    for number, labels in enumerate(groups):
        if len(labels) == 1:
            return {}
        order = torch.randperm(len(labels), generator=stream(seed, "siblings", number)).tolist()
        found |= {labels[place]: labels[order[(turn + 1) % len(order)]] for turn, place in enumerate(order)}
    return found


@dataclass(frozen=True)
class _Chosen:
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
        found: dict[int, list[Sample]] = defaultdict(list)
        for sample in self.objects:
            found[sample.label].append(sample)
        return found

    def lenders(self, place: int, condition: str) -> Iterator[_Place]:
        """Yield pictures that may lend the ground of an object, in an order drawn for it."""
        own = self.objects[place]
        of = self.unseen if condition == "unseen" else self.pictures
        some: Sequence[Sample] = {
            "unseen": self.unseen.photos.samples,
            "any": self.objects,
            "sibling": self._of_class[self.circle[own.label]],
            "same": [one for one in self._of_class[own.label] if one is not own] or [own],
        }[condition]
        order = torch.randperm(len(some), generator=stream(self.seed, "grounds", condition, place))
        for row in order.tolist():
            if condition != "any" or some[row].label != own.label:
                yield _Place(of, some[row])

    def paste(self, place: int, condition: str) -> tuple[Image.Image, Image.Image, Sample]:
        """Return an object on its ground, its mask, and the picture that lent the ground.

        Raises:
            InputError: No picture is large enough.
        """
        picture, mask, _ = self.pictures.whole(self.objects[place])
        assert mask is not None
        picture = _bounded(picture)
        mask = mask.resize(picture.size, Image.Resampling.NEAREST)
        for of, sample in self.lenders(place, condition):
            (width, height), _ = measure(sample.picture)
            if max(picture.width / width, picture.height / height) > MOST_ENLARGED:
                continue
            ground, its_mask, share = of.whole(sample)
            if share <= MOST_OBJECT:
                return exchange(picture, mask, ground, its_mask), mask, sample
        name, (width, height) = self.objects[place].name, picture.size
        raise InputError(
            f"{name}: no picture lends it a ground under {condition!r}: each is less than half of"
            f" {width}x{height}, or more than {MOST_OBJECT:.0%} object: take other grounds, or better masks"
        )


def _bounded(picture: Image.Image) -> Image.Image:
    """Return a picture whose shorter side is at most `SIDE`."""
    least = min(picture.size)
    if least <= SIDE:
        return picture
    size = (round(picture.width * SIDE / least), round(picture.height * SIDE / least))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _write(
    folder: Path, root: Path, one: DataSet, chosen: _Chosen, names: Sequence[str], on_count: OnCount | None
) -> None:
    """Write pictures, masks and split files; paths in these begin at the root of the data sets."""
    origins = [("condition", "picture", "object", "class", "ground", "ground's class")]
    pasted = [condition for condition in PASTED if condition != "home"]
    total = len(pasted) * len(chosen.objects)
    for condition in PASTED:
        rows: list[tuple[str, int, str]] = []
        for place, sample in enumerate(chosen.objects):
            if condition == "home":
                path, mask = _below(root, sample), chosen.pictures.whole(sample)[1]
            else:
                image, mask, lent = chosen.paste(place, condition)
                slug = re.sub("[^a-z0-9]+", "_", names[sample.label].lower())
                # Fingerprints of sets know only a file's name and its folder's: the name has the condition.
                inner = f"{PICTURES}/{condition}/{sample.label:04d}_{slug}/{condition}_{place:06d}.jpg"
                path = f"{pasted_folder(one.key)}/{inner}"
                _save(image, folder / inner, quality=95, subsampling=0)
                whose = "" if condition == "unseen" else names[lent.label]
                words = (_below(root, sample), names[sample.label], _below(root, lent), whose)
                origins.append((condition, path, *words))
            assert mask is not None
            _save(mask.convert("1"), folder / MASKS / f"{path}.png")
            rows.append((path, sample.label, names[sample.label]))
            if on_count is not None and condition != "home":
                on_count(pasted.index(condition) * len(chosen.objects) + place + 1, total)
        split = {"names": names, "train": [], "val": [], "test": rows}
        write_atomically(
            folder / find(f"{one.key}@{condition}").split_file, json.dumps(split, indent=1) + "\n"
        )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(origins)
    write_atomically(folder / ORIGINS, text.getvalue())


def _save(image: Image.Image, file: Path, **options: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **options)


def _below(root: Path, sample: Sample) -> str:
    assert isinstance(sample.picture, Path)
    if not sample.picture.is_relative_to(root):
        raise InputError(f"{sample.name} is not below {root}: give the folder that holds it as ROOT")
    return sample.picture.relative_to(root).as_posix()
