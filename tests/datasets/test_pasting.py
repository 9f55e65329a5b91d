"""Photographs on shifted grounds: what is pasted on what, and what becomes of bad input."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.datasets.catalogue import PASTED, find
from foveate.datasets.opening import open_set
from foveate.datasets.pasting import paste_set, siblings
from foveate.errors import InputError

CLASSES = ("bee", "cat", "dog", "owl", "pig")
OBJECTS = ((250, 20, 20), (20, 250, 20), (20, 20, 250), (250, 250, 20), (250, 20, 250))
GROUNDS = ((60, 60, 60), (90, 60, 120), (120, 160, 90), (160, 110, 160), (200, 200, 200))
TEXTURE = (10, 230, 230)
SIZE, EACH = 48, 3


def _picture(
    ground: tuple[int, int, int], place: int, of: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw an even object, a square of 16 pixels, on an even ground; return it and its mask."""
    pixels = np.full((SIZE, SIZE, 3), ground, np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[8:24, 6 + place : 22 + place] = 255
    pixels[mask > 0] = of
    return pixels, mask


def _save(pixels: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Food101 of five classes, each on its own even ground; and DTD of textures of one colour."""
    root = tmp_path_factory.mktemp("photographs")
    split: dict[str, list[tuple[str, int, str]]] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(CLASSES):
        for number in range(2 * EACH):
            path = f"{name}/{number}.png"
            pixels, mask = _picture(GROUNDS[label], 4 * (number % EACH), OBJECTS[label])
            _save(pixels, root / "food-101" / "images" / path)
            _save(mask, root / "food-101" / "mask" / path)
            split["train" if number < EACH else "test"].append((path, label, name))
    (root / "food-101" / "split_zhou_Food101.json").write_text(json.dumps(split))
    rows = [(f"banded/{number}.png", 0, "banded") for number in range(2)]
    for path, *_ in rows:
        _save(np.full((SIZE, SIZE, 3), TEXTURE, np.uint8), root / "dtd" / "images" / path)
    split = {"train": [], "val": [], "test": rows}
    (root / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    return root


@pytest.fixture(scope="module")
def pasted(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pasted")
    shutil.copytree(made, root, dirs_exist_ok=True)
    done: list[tuple[int, int]] = []
    found = paste_set(root, "food101", "dtd", on_count=lambda *count: done.append(count))
    assert (found.made, found.classes, found.tests, found.masked, found.objects) == (True, 5, 15, 15, 15)
    assert done == [(number, 60) for number in range(1, 61)]
    return root


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "root")
    return tmp_path / "root"


def _ground_of(pixels: np.ndarray) -> tuple[int, ...]:
    return tuple(int(value) for value in np.median(pixels[32:].reshape(-1, 3), axis=0))


@pytest.mark.parametrize("condition", PASTED)
def test_objects_keep_their_pixels_and_class_and_get_the_ground_of_the_condition(
    pasted: Path, condition: str
):
    photos = open_set(pasted, f"food101@{condition}")
    assert photos.names == CLASSES
    assert not photos.split("train", "val").samples
    grounds: dict[int, set[tuple[int, ...]]] = {label: set() for label in range(len(CLASSES))}
    own = open_set(pasted, "food101").split("test")
    assert [one.label for one in photos.samples] == [one.label for one in own.samples]
    for sample, before in zip(photos.samples, own.samples, strict=True):
        pixels = np.asarray(Image.open(sample.picture)).astype(int)
        mask = np.asarray(Image.open(sample.mask)) > 0
        assert (mask == (np.asarray(Image.open(before.mask)) > 0)).all()
        inside = (
            mask & np.roll(mask, 2, 0) & np.roll(mask, -2, 0) & np.roll(mask, 2, 1) & np.roll(mask, -2, 1)
        )
        assert np.abs(pixels[inside] - OBJECTS[sample.label]).max() <= 12  # JPEG
        ground = min((*GROUNDS, TEXTURE), key=lambda one: np.abs(np.subtract(one, _ground_of(pixels))).sum())
        far = ~(
            mask | np.roll(mask, 8, 0) | np.roll(mask, -8, 0) | np.roll(mask, 8, 1) | np.roll(mask, -8, 1)
        )
        far[:, :6] = far[:, -6:] = False
        assert np.abs(pixels[far] - ground).max() <= 12, condition  # its own object is painted over
        grounds[sample.label].add(ground)
    for label, seen in grounds.items():
        if condition in ("home", "same"):
            assert seen == {GROUNDS[label]}
        elif condition == "unseen":
            assert seen == {TEXTURE}
        else:
            assert seen <= {*GROUNDS} - {GROUNDS[label]}
    if condition == "sibling":
        named = {label: [GROUNDS.index(one) for one in seen] for label, seen in grounds.items()}
        assert all(len(one) == 1 for one in named.values())
        # Base classes are 0, 1, 2, and new ones 3, 4: the ground names a class of the same half.
        assert {
            frozenset((label, *one)) <= {0, 1, 2} or {label, *one} == {3, 4} for label, one in named.items()
        } == {True}
    if condition == "any":
        assert len({one for seen in grounds.values() for one in seen}) > 3


def test_home_is_the_test_pictures_themselves_and_origins_say_what_was_pasted(pasted: Path):
    home, own = open_set(pasted, "food101@home"), open_set(pasted, "food101").split("test")
    assert [one.picture for one in home.samples] == [one.picture for one in own.samples]
    with (pasted / "food101-pasted" / "origins.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 15
    for row in rows:
        assert (pasted / row["picture"]).is_file()
        assert Path(row["object"]).parent.name == row["class"]
        assert (row["ground's class"] == row["class"]) == (row["condition"] == "same")
        assert row["object"] != row["ground"]


def test_equal_arguments_give_equal_bytes_and_another_seed_other_grounds(pasted: Path, copied: Path):
    def content(root: Path) -> dict[str, bytes]:
        folder = root / "food101-pasted"
        return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paste_set(copied, "food101", "dtd", on_count=stop)
    assert sorted(one.name for one in copied.iterdir()) == ["dtd", "food-101"]
    paste_set(copied, "Food101", "DTD")
    assert content(copied) == content(pasted)
    assert not paste_set(copied, "food101", "dtd").made
    with pytest.raises(InputError, match="food101-pasted was made with seed 1: remove it, or take another"):
        paste_set(copied, "food101", "dtd", seed=2)
    next((copied / "food101-pasted").rglob("*.jpg")).unlink()
    assert paste_set(copied, "food101", "dtd").made
    assert content(copied) == content(pasted)
    shutil.rmtree(copied / "food101-pasted")
    assert paste_set(copied, "food101", "dtd", seed=2, tests=2).objects == 10
    assert content(copied)["origins.csv"] != content(pasted)["origins.csv"]


@pytest.mark.parametrize("seed", range(5))
def test_siblings_are_a_circle_in_each_group(seed: int):
    groups = ([0, 1, 2, 5], [3, 7], list(range(10, 40)))
    found = siblings(groups, seed)
    for labels in groups:
        assert sorted(found[label] for label in labels) == labels
        assert all(found[label] != label for label in labels)
        around, label = set[int](), labels[0]
        while label not in around:
            around.add(label)
            label = found[label]
        assert around == set(labels)
    assert siblings(groups, seed) == found
    assert siblings(([0, 1], [2]), seed) == {}
    assert siblings(groups, seed + 5) != found


def test_classes_without_masks_keep_their_place_among_the_names(copied: Path):
    shutil.rmtree(copied / "food-101" / "mask" / "cat")
    shutil.rmtree(copied / "food-101" / "mask" / "owl")  # one new class is left: the circle is over all
    found = paste_set(copied, "food101", "dtd")
    assert (found.classes, found.masked, found.objects) == (3, 9, 9)
    photos = open_set(copied, "food101@sibling")
    assert photos.names == CLASSES
    assert {one.label for one in photos.samples} == {0, 2, 4}


def _bare(root: Path) -> None:
    shutil.rmtree(root / "food-101" / "mask")


def _one_class(root: Path) -> None:
    for name in CLASSES[1:]:
        shutil.rmtree(root / "food-101" / "mask" / name)


def _small(root: Path) -> None:
    for file in (root / "dtd").rglob("*.png"):
        Image.open(file).resize((20, 20)).save(file)


def _full(root: Path) -> None:
    for file in (root / "food-101" / "mask").rglob("*.png"):
        Image.new("L", (SIZE, SIZE), 255).save(file)


def _cut_off(root: Path) -> None:
    file = root / "food-101" / "images" / "owl" / "4.png"
    file.write_bytes(file.read_bytes()[:80])


def _taken(root: Path) -> None:
    (root / "food101-pasted").mkdir()


def _unchanged(root: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "words", "says"),
    [
        (_bare, (), "Food101: none of 15 test pictures has a mask; make them with `foveate masks`"),
        (_one_class, (), "Food101: objects with masks are of 1 class; others must lend their grounds"),
        (_full, (), "Food101: objects with masks are of 0 class"),
        (_small, (), "no picture lends it a ground under 'unseen': each is less than half of 48x48"),
        (_cut_off, (), "; replace or remove it\n"),  # nothing can be skipped here
        (_taken, (), "food101-pasted is there, and is no set that foveate made"),
        (_unchanged, ("--tests", "0"), "--tests is 0: give 1 or more"),
        (_unchanged, ("--grounds", "food101"), "food101 lends no unseen grounds to itself"),
        (_unchanged, ("--grounds", "species"), "species is no set of photographs"),
        (_unchanged, ("--grounds", "sun397"), "SUN397 is not in"),
        (_unchanged, ("--masks", "{root}/dtd"), "no mask in it matches a picture"),
    ],
)
def test_bad_input_is_one_line(
    foveate: Callable[..., object],
    copied: Path,
    spoil: Callable[[Path], None],
    words: tuple[str, ...],
    says: str,
):
    spoil(copied)
    given = [word.format(root=copied) for word in words]
    given += [] if "--grounds" in words else ["--grounds", "dtd"]
    said = foveate("data", "paste", copied, "food101", *given)
    assert (said.code, said.err.count("\n")) == (2, 1), said.err
    assert says in said.err
    assert not any(one.name.startswith(".") for one in copied.iterdir())


def test_the_command_says_how_many(foveate: Callable[..., object], copied: Path):
    (copied / "food-101" / "mask" / "owl" / "4.png").unlink()
    said = foveate("data", "paste", copied, "food101", "--grounds", "dtd", "--tests", 2)
    head, row = (line.split("\t") for line in said.out.splitlines())
    assert head == ["set", "state", "test", "with mask", "objects", "classes", "folder"]
    assert row == ["food101", "pasted", "15", "14", "10", "5", str(copied / "food101-pasted")]
    said = foveate("data", "paste", copied, "food101", "--grounds", "dtd", "--tests", 2)
    assert said.out.splitlines()[1].split("\t")[1:6] == ["there before", "15", "14", "10", "5"]


def test_every_set_of_photographs_has_pasted_test_splits():
    for key in ("imagenet", "fgvc_aircraft", "dtd"):
        one = find(f"{key}@same")
        assert (one.kind, one.homes) == ("split", (("pasted", f"{key}-pasted"),))
        assert one.where == f"paste it: foveate data paste ROOT {key} --grounds SET"
    with pytest.raises(
        InputError, match="dtd has no test split 'away': take home, any, sibling, unseen, same"
    ):
        find("dtd@away")
    with pytest.raises(InputError, match="species has no test split 'same'"):
        find("species@same")
