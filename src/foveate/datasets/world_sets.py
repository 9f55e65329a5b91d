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
import shutil
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

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
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.foreground.options import OnCount
from foveate.seeds import stream
from foveate.world.photos import ScenePicture, Spoil, scene_photos, species_photos, spoil
from foveate.world.scenes import COLOURS, PLACES, SHAPES, render
from foveate.world.species import BASE, NEW, Condition

# Folders of sets that foveate writes: complete or absent.


@dataclass(frozen=True)
class WholeFolder:
    """The folder of a set, and everything that determines its content.

    Attributes:
        path: The folder.
        record: Values that determine the content, with a "version"; equal records mean equal files.
        file: Name of the file in it that holds the record and the list of all files.
    """

    path: Path
    record: Mapping[str, Any]
    file: str = "drawn.json"

    def is_there(self) -> bool:
        """Return whether the set exists with all its files.

        Raises:
            InputError: The folder holds something else, or was made with other settings.
        """
        if not self.path.exists():
            return False
        try:
            stored = cast("dict[str, Any]", json.loads((self.path / self.file).read_text(encoding="utf-8")))
            listed = set(cast("list[str]", stored.pop("files")))
        except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
            raise InputError(
                f"{self.path} is there, and is no set that foveate made: remove it, or take another folder"
            ) from error
        changed = [name for name, value in self.record.items() if stored.get(name) != value]
        if changed:
            stored_value = stored.get(changed[0])
            is_setting = isinstance(stored_value, int | str) and changed[0] != "version"
            origin = f"with {changed[0]} {stored_value}" if is_setting else "by another version"
            raise InputError(f"{self.path} was made {origin}: remove it, or take another folder")
        return listed <= set(_files(self.path))

    @contextmanager
    def written(self) -> Generator[Path]:
        """Yield a temporary folder that replaces this one when the block ends; a failure leaves nothing."""
        temporary = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        try:
            yield temporary
            listed = {"files": sorted(_files(temporary))}
            write_atomically(temporary / self.file, json.dumps({**self.record, **listed}) + "\n")
            temporary.chmod(0o755)  # by default, only the owner can read a temporary folder
            if self.path.exists():  # an incomplete set of foveate's own
                shutil.rmtree(self.path)
            temporary.rename(self.path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


# The drawn sets.


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
        InputError: No drawn set has such a key; or its folder has other content, or the set of another seed.
        OSError: No space, or no permission.
    """
    requested = (*species_keys(), *world_keys()) if keys is None else keys
    datasets = [find(key) for key in dict.fromkeys(key.partition("@")[0] for key in requested)]
    photographic = next((dataset for dataset in datasets if dataset.world is None), None)
    if photographic is not None:
        raise InputError(f"{photographic.title} cannot be drawn, it is photographs: {photographic.where}")
    folders = {dataset.key: WholeFolder(root / dataset.key, _record(dataset, seed)) for dataset in datasets}
    missing = [dataset for dataset in datasets if not folders[dataset.key].is_there()]
    total = sum(
        dataset.train + dataset.val + dataset.test * _test_split_count(dataset) for dataset in missing
    )
    done = 0
    root.mkdir(parents=True, exist_ok=True)
    for dataset in missing:
        for _ in _draw_into(folders[dataset.key], dataset, seed):
            done += 1
            if on_count is not None:
                on_count(done, total)
    return tuple(dataset.key for dataset in missing)


def _test_split_count(dataset: DataSet) -> int:
    """Return the number of test splits of a set."""
    return len(CONDITIONS) if isinstance(dataset.world, SpeciesWorld) else 1


def _record(dataset: DataSet, seed: int) -> dict[str, Any]:
    """Return everything that determines a set: equal records mean equal sets."""
    assert dataset.world is not None
    settings = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(dataset.world).items()
    }
    return {"version": 1, "key": dataset.key, "seed": seed, "classes": dataset.classes, "world": settings}


def _draw_into(folder: WholeFolder, dataset: DataSet, seed: int) -> Iterator[None]:
    """Draw a set in a temporary folder, one scene at a time, then rename it."""
    with folder.written() as temporary:
        rows: dict[str, list[list[Any]]] = {"train": [], "val": [], "test": []}
        names = class_names(dataset, seed)
        for split, sample, path in _scenes(dataset, names, seed):
            _save(sample, temporary, path)
            rows.setdefault(split, []).append([path, sample.label, names[sample.label]])
            yield
        tests = {condition: rows.pop(condition) for condition in CONDITIONS if condition in rows}
        if tests:
            rows["test"] = tests["any"]
            _save_spoiled(temporary, [path for split_rows in rows.values() for path, *_ in split_rows], seed)
        write_atomically(temporary / dataset.split_file, json.dumps(rows, indent=1) + "\n")
        for condition, scenes in tests.items():
            variant = find(f"{dataset.key}@{condition}")
            write_atomically(
                temporary / variant.split_file, json.dumps({**rows, "test": scenes}, indent=1) + "\n"
            )


def class_names(dataset: DataSet, seed: int = SEED) -> tuple[str, ...]:
    """Return the class names of a drawn set, in label order."""
    if isinstance(dataset.world, SpeciesWorld):
        return (*BASE, *NEW)  # equal numbers: the first half are base classes in every protocol
    assert dataset.world is not None
    colours, shapes = dataset.world.colours or tuple(COLOURS), dataset.world.shapes or tuple(SHAPES)
    names = [f"{colour} {shape}" for colour in colours for shape in shapes]
    order = np.random.default_rng(_number(seed, dataset.key, "names")).permutation(len(names))
    return tuple(names[index] for index in order[: dataset.classes])


def _scenes(dataset: DataSet, names: Sequence[str], seed: int) -> Iterator[tuple[str, Sample, str]]:
    """Yield split, scene and path: train, val and test, and in each class by class."""
    world = dataset.world
    assert world is not None
    if isinstance(world, SpeciesWorld):
        yield from _species_scenes(dataset.key, world, names, seed)
        return
    train_homes = homes(dataset, seed) or (None,)
    for split, per_class in (("train", world.shots), ("val", VAL), ("test", world.tests)):
        split_homes = (None,) if split == "test" else train_homes
        counts = dict.fromkeys(range(len(names)), 0)
        drawn: list[Sample] = []
        for index, home in enumerate(split_homes):
            count = per_class // len(split_homes) + (index < per_class % len(split_homes))
            scene_seed = _number(seed, dataset.key, split, index)
            drawn += scene_photos(
                names, count, scene_seed, home=home, radius=world.radius, turn=world.turn
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
            names, per_class, _number(seed, key, split), at_home=world.at_home, others=world.others
        )
        for split, per_class in (("train", world.shots), ("val", VAL))
    }
    for condition in get_args(Condition):
        for half in (BASE, NEW):
            scene_seed = _number(seed, key, condition, half[0])
            drawn[f"{condition} {half[0]}"] = species_photos(
                half, world.tests, scene_seed, condition=condition, others=world.others
            )
    for part, photos in drawn.items():
        split = part.partition(" ")[0]
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
            save_image(Image.fromarray(mask), folder / f"{MASKS}-{kind}" / path, compress_level=1)


def homes(dataset: DataSet, seed: int = SEED) -> tuple[dict[str, str], ...]:
    """Return one assignment of places to classes for each home of a drawn set; empty for any place."""
    world = dataset.world
    assert isinstance(world, World)
    places = list(world.places or PLACES)
    order = np.random.default_rng(_number(seed, dataset.key, "homes")).permutation(len(places))
    names = class_names(dataset, seed)
    return tuple(
        {name: places[order[(row + turn) % len(places)]] for row, name in enumerate(names)}
        for turn in range(world.homes)
    )


def _save(sample: Sample, folder: Path, path: str) -> None:
    picture = sample.picture
    assert isinstance(picture, ScenePicture)
    images, masks = render([picture.scene], picture.size)
    save_image(Image.fromarray(images[0]), folder / PICTURES / path, compress_level=1)
    save_image(Image.fromarray(masks[0]), folder / MASKS / path, compress_level=1)


def save_image(image: Image.Image, file: Path, **options: Any) -> None:
    """Save a picture as Pillow does with these options, and create its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **options)


def _number(seed: int, *name: str | int) -> int:
    return stream(seed, "world sets", *name).initial_seed() % 2**31
