"""Data sets laid out in each convention: real ones where they are, hollow ones of names without pictures."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.datasets.catalogue import find
from foveate.datasets.splits import official_split
from foveate.datasets.world_sets import draw_sets


@pytest.fixture
def link(tmp_path: Path) -> Callable[[str, Path], Path]:
    """Put a link to a real folder below a new root: `link("dtd/dtd/dtd", folder)` returns the root."""

    def put(below: str, target: Path) -> Path:
        place = tmp_path / "root" / below
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
        return tmp_path / "root"

    return put


@pytest.fixture
def write_pictures() -> Callable[[Path, Iterable[str]], None]:
    """Write a small picture at each path."""

    def write(folder: Path, names: Iterable[str]) -> None:
        for number, name in enumerate(names):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            _save(pixels, folder / name)

    return write


@pytest.fixture
def write_masks() -> Callable[[Path, Iterable[str]], None]:
    """Write a mask of the left half at each path."""

    def write(folder: Path, names: Iterable[str]) -> None:
        for name in names:
            half = np.zeros((8, 8), np.uint8)
            half[:, :4] = 255
            _save(half, folder / name)

    return write


@pytest.fixture
def touch() -> Callable[[Path, Iterable[str]], None]:
    """Make an empty file at each path: to be listed, not to be opened."""
    return _touch


@pytest.fixture(scope="session")
def empty_dtd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of DTD's pictures as empty files."""
    split = official_split(find("dtd"))
    assert split is not None
    folder = tmp_path_factory.mktemp("dtd")
    _touch(folder, [row.path for row in split.rows])
    return folder


@pytest.fixture
def hollow(tmp_path: Path, empty_dtd: Path) -> Callable[..., Path]:
    """Lay out the whole of DTD, as empty files and without a split file; return the root."""

    def make(pictures: str, without: str = "") -> Path:
        folder = tmp_path / pictures
        folder.mkdir(parents=True)
        for own in empty_dtd.iterdir():
            if own.name != without:
                (folder / own.name).symlink_to(own)
        return tmp_path

    return make


@pytest.fixture
def small(tmp_path: Path, write_pictures: Callable[[Path, Iterable[str]], None]) -> Callable[..., Path]:
    """A root with Food101 of two classes, in any folder: `small("food-101")`; paths begin with `prefix`."""

    def make(home: str, prefix: str = "") -> Path:
        folder = tmp_path / "root" / home
        split = {part: [[prefix + row[0], *row[1:]] for row in rows] for part, rows in SMALL.items()}
        write_pictures(folder / "images", [row[0] for rows in SMALL.values() for row in rows])
        (folder / "split_zhou_Food101.json").write_text(json.dumps(split))
        return tmp_path / "root"

    return make


SMALL = {
    "train": [(f"cat/{n}.png", 0, "house_cat") for n in range(6)]
    + [(f"dog/{n}.png", 1, "dog") for n in range(6)],
    "val": [("cat/6.png", 0, "house_cat"), ("dog/6.png", 1, "dog")],
    "test": [("cat/7.png", 0, "house_cat"), ("dog/7.png", 1, "dog")],
}


@pytest.fixture
def trained() -> list[str]:
    """Paths of the training pictures of `small`."""
    return [path for path, _, _ in SMALL["train"]]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the smallest drawn set; to be copied before it is changed."""
    root = tmp_path_factory.mktemp("world")
    draw_sets(root, ["world-4"])
    return root


def _save(pixels: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def _touch(folder: Path, names: Iterable[str]) -> None:
    names = list(names)
    for place in {(folder / name).parent for name in names}:
        place.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
