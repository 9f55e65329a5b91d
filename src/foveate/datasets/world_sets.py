"""Drawn scenes as data sets on disk, so that every protocol can run without real data.

Each set is a folder as for CoOp: pictures, a `split_zhou_*.json`, and beside them `mask/` with the exact
foregrounds.

- Sets of species: most training scenes are at the home of the species. Each test condition has its own
  split file; the test split of the set's own file has scenes at any place. Worse masks are in
  `mask-eroded/`, `mask-shifted/` and `mask-wrong/`.
- Sets of plain names: they differ in the number and choice of classes, in whether the place predicts the
  class in training (`homes`), and in size and rotation of objects. Test scenes are at any place.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from foveate.data.samples import Sample
from foveate.datasets.catalogue import (
    CONDITIONS,
    VAL,
    DataSet,
    SpeciesWorld,
    World,
    find,
    species_keys,
    world_keys,
)
from foveate.datasets.whole import WholeFolder
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.seeds import stream
from foveate.world.photos import ScenePicture, Spoil, scene_photos, species_photos, spoil
from foveate.world.scenes import COLOURS, PLACES, SHAPES, render
from foveate.world.species import BASE, NEW, Condition

OnCount = Callable[[int, int], None]
"""Called with the number of drawn scenes, and the total."""

PICTURES, MASKS = "images", "mask"
SEED = 1


def draw_sets(
    root: Path, keys: Sequence[str] | None = None, *, seed: int = SEED, on_count: OnCount | None = None
) -> tuple[str, ...]:
    """Draw sets below a folder, each in `root/KEY`; a complete set is not changed.

    A set is drawn in a temporary folder and then renamed, so an interrupted call leaves complete sets or
    none.

    Args:
        root: Output folder; created if missing.
        keys: Keys of the sets; None draws those of species and of plain names. A test condition of a set
            ("species@home") is drawn with its set.
        seed: Seed of names, homes and scenes.
        on_count: Called with the progress.

    Returns:
        The keys of the sets drawn in this call.

    Raises:
        InputError: No drawn set has such a key; or its place holds something else, or the set of another
            seed.
        OSError: No space, or no permission.
    """
    named = (*species_keys(), *world_keys()) if keys is None else keys
    wanted = [find(key) for key in dict.fromkeys(key.partition("@")[0] for key in named)]
    other = next((one for one in wanted if one.world is None), None)
    if other is not None:
        raise InputError(f"{other.title} cannot be drawn, it is photographs: {other.where}")
    folders = {one.key: WholeFolder(root / one.key, _record(one, seed)) for one in wanted}
    missing = [one for one in wanted if not folders[one.key].is_there()]
    total = sum(one.train + one.val + one.test * _tests(one) for one in missing)
    done = 0
    root.mkdir(parents=True, exist_ok=True)
    for one in missing:
        for _ in _draw_into(folders[one.key], one, seed):
            done += 1
            if on_count is not None:
                on_count(done, total)
    return tuple(one.key for one in missing)


def _tests(one: DataSet) -> int:
    """Return the number of test splits of a set."""
    return len(CONDITIONS) if isinstance(one.world, SpeciesWorld) else 1


def _record(one: DataSet, seed: int) -> dict[str, Any]:
    """Return everything that determines a set: equal records mean equal sets."""
    assert one.world is not None
    row = {
        name: list(value) if isinstance(value, tuple) else value for name, value in vars(one.world).items()
    }
    return {"version": 1, "key": one.key, "seed": seed, "classes": one.classes, "world": row}


def _draw_into(whole: WholeFolder, one: DataSet, seed: int) -> Iterator[None]:
    """Draw a set in a temporary folder, one scene at a time, then rename it."""
    with whole.written() as beside:
        rows: dict[str, list[list[Any]]] = {"train": [], "val": [], "test": []}
        names = class_names(one, seed)
        for split, sample, path in _scenes(one, names, seed):
            _save(sample, beside, path)
            rows.setdefault(split, []).append([path, sample.label, names[sample.label]])
            yield
        tests = {condition: rows.pop(condition) for condition in CONDITIONS if condition in rows}
        if tests:
            rows["test"] = tests["any"]
            _save_spoiled(beside, [path for split in rows.values() for path, *_ in split], seed)
        write_atomically(beside / one.split_file, json.dumps(rows, indent=1) + "\n")
        for condition, scenes in tests.items():
            other = find(f"{one.key}@{condition}")
            write_atomically(beside / other.split_file, json.dumps({**rows, "test": scenes}, indent=1) + "\n")


def class_names(one: DataSet, seed: int = SEED) -> tuple[str, ...]:
    """Return the class names of a drawn set, in label order."""
    if isinstance(one.world, SpeciesWorld):
        return (*BASE, *NEW)  # equal numbers: the first half are base classes in every protocol
    assert one.world is not None
    colours, shapes = one.world.colours or tuple(COLOURS), one.world.shapes or tuple(SHAPES)
    names = [f"{colour} {shape}" for colour in colours for shape in shapes]
    order = np.random.default_rng(_number(seed, one.key, "names")).permutation(len(names))
    return tuple(names[place] for place in order[: one.classes])


def _scenes(one: DataSet, names: Sequence[str], seed: int) -> Iterator[tuple[str, Sample, str]]:
    """Yield split, scene and path: train, val and test, and in each class by class."""
    world = one.world
    assert world is not None
    if isinstance(world, SpeciesWorld):
        yield from _species_scenes(one.key, world, names, seed)
        return
    at_home = homes(one, seed) or (None,)
    for split, each in (("train", world.shots), ("val", VAL), ("test", world.tests)):
        placed = (None,) if split == "test" else at_home
        counts = dict.fromkeys(range(len(names)), 0)
        drawn: list[Sample] = []
        for turn, home in enumerate(placed):
            number = each // len(placed) + (turn < each % len(placed))
            source = _number(seed, one.key, split, turn)
            drawn += scene_photos(
                names, number, source, home=home, radius=world.radius, turn=world.turn
            ).samples
        for sample in sorted(drawn, key=lambda sample: sample.label):
            counts[sample.label] += 1
            folder = names[sample.label].replace(" ", "_")
            yield split, sample, f"{folder}/{split}_{counts[sample.label]:03d}.png"


def _species_scenes(
    key: str, world: SpeciesWorld, names: Sequence[str], seed: int
) -> Iterator[tuple[str, Sample, str]]:
    """Yield the train and val scenes, and the test scenes of each condition."""
    drawn = {
        split: species_photos(
            names, each, _number(seed, key, split), at_home=world.at_home, others=world.others
        )
        for split, each in (("train", world.shots), ("val", VAL))
    }
    for condition in get_args(Condition):
        for half in (BASE, NEW):
            source = _number(seed, key, condition, half[0])
            drawn[f"{condition} {half[0]}"] = species_photos(
                half, world.tests, source, condition=condition, others=world.others
            )
    for what, photos in drawn.items():
        split = what.partition(" ")[0]
        counts = dict.fromkeys(photos.names, 0)
        for sample in photos.samples:
            name = photos.names[sample.label]
            counts[name] += 1
            path = f"{name.replace(' ', '_')}/{split}_{counts[name]:03d}.png"
            yield split, replace(sample, label=names.index(name)), path


def _save_spoiled(folder: Path, paths: Sequence[str], seed: int) -> None:
    """Write worse masks of these pictures next to the exact ones."""
    masks = np.stack([np.asarray(Image.open(folder / MASKS / path)) > 0 for path in paths])
    for kind in get_args(Spoil):
        for path, mask in zip(paths, spoil(masks, kind, seed), strict=True):
            file = folder / f"{MASKS}-{kind}" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(file, compress_level=1)


def homes(one: DataSet, seed: int = SEED) -> tuple[dict[str, str], ...]:
    """Return one assignment of places to classes for each home of a drawn set; empty for any place."""
    world = one.world
    assert isinstance(world, World)
    places = list(world.places or PLACES)
    order = np.random.default_rng(_number(seed, one.key, "homes")).permutation(len(places))
    return tuple(
        {name: places[order[(row + turn) % len(places)]] for row, name in enumerate(class_names(one, seed))}
        for turn in range(world.homes)
    )


def _save(sample: Sample, folder: Path, path: str) -> None:
    picture = sample.picture
    assert isinstance(picture, ScenePicture)
    images, masks = render([picture.scene], picture.size)
    layers = {PICTURES: Image.fromarray(images[0]), MASKS: Image.fromarray(masks[0])}
    for place, image in layers.items():
        file = folder / place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file, compress_level=1)


def _number(seed: int, *name: str | int) -> int:
    return stream(seed, "world sets", *name).initial_seed() % 2**31
