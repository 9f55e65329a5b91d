"""The draw against numbers from the field's own code, and the base/new cut."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.data.fewshot import base_new, draw_shots
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError

# Appendix A of the specification: two train labels with 100 items each, then two val labels with 30.
STREAMS = {
    1: (
        [17, 72, 97, 8, 32, 15, 63, 57, 60, 83, 48, 26, 12, 62, 3, 49],
        [55, 77, 97, 98, 0, 89, 57, 34, 92, 29, 75, 13, 40, 3, 2, 83],
        [17, 0, 28, 12],
        [21, 6, 13, 23],
    ),
    2: (
        [7, 11, 10, 46, 21, 94, 85, 39, 32, 77, 27, 4, 74, 87, 20, 55],
        [81, 50, 92, 65, 47, 69, 56, 64, 34, 4, 3, 46, 59, 40, 48, 54],
        [28, 16, 5, 17],
        [5, 7, 0, 10],
    ),
    3: (
        [30, 75, 69, 16, 47, 77, 60, 80, 74, 8, 1, 33, 70, 29, 24, 91],
        [60, 69, 70, 50, 81, 19, 29, 66, 49, 94, 1, 85, 99, 8, 20, 97],
        [18, 1, 9, 24],
        [0, 26, 27, 8],
    ),
}


def photos_of(*parts: tuple[int, str | None, int]) -> Photos:
    """Photos with so many pictures of a label and split, in this order; a picture's stem is its number."""
    labels = max(label for label, _, _ in parts) + 1
    samples = [
        Sample(Path(f"{split}/{label}/{number}.jpg"), label, None, split)
        for label, split, count in parts
        for number in range(count)
    ]
    return Photos(tuple(f"class {row}" for row in range(labels)), tuple(samples))


def numbers(photos: Photos, label: int) -> list[int]:
    return [int(s.picture.stem) for s in photos.samples if s.label == label]


@pytest.mark.parametrize("seed", STREAMS)
def test_golden_streams(seed):
    draw = draw_shots(
        photos_of((0, "train", 100), (1, "train", 100), (0, "val", 30), (1, "val", 30)), 16, seed
    )
    drawn = (numbers(draw.train, 0), numbers(draw.train, 1), numbers(draw.val, 0), numbers(draw.val, 1))
    assert drawn == STREAMS[seed]
    assert draw.short == {}


def test_labels_are_drawn_in_order_of_first_appearance():
    photos = photos_of((1, "train", 100), (0, "train", 100))
    draw = draw_shots(photos, 16, 1)
    assert numbers(draw.train, 1) == STREAMS[1][0]
    assert numbers(draw.train, 0) == STREAMS[1][1]
    assert [sample.label for sample in draw.train.samples] == [1] * 16 + [0] * 16


def read_lists(path: Path) -> dict[str, list]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return json.loads(content)


def official_photos(lists: dict[str, list]) -> Photos:
    rows = [(path, label, name, split) for split, items in lists.items() for path, label, name in items]
    names = {label: name for _, label, name, _ in rows}
    assert sorted(names) == list(range(len(names)))
    samples = tuple(Sample(Path(path), label, None, split) for path, label, _, split in rows)
    return Photos(tuple(names[label] for label in sorted(names)), samples)


def test_caltech_is_coops_own_selection(real):
    """16 shots of seed 1 from the whole split file are the list CoOp's code made (SOURCE.md of the data)."""
    folder = real("caltech101/caltech-101")
    photos = official_photos(read_lists(folder / "split_zhou_Caltech101.official.json"))
    expected = read_lists(folder / "split_zhou_Caltech101.json")
    draw = draw_shots(photos, 16, 1)
    assert [s.picture.as_posix() for s in draw.train.samples] == [path for path, _, _ in expected["train"]]
    assert [s.picture.as_posix() for s in draw.val.samples] == [path for path, _, _ in expected["val"]]


def test_dtd_is_coops_own_selection(real):
    folder = real("dtd10/dtd")
    expected = read_lists(folder / "split_zhou_DescribableTextures.json")
    photos = official_photos(read_lists(folder / "split_zhou_DescribableTextures.official.json"))
    draw = draw_shots(photos, 16, 1)
    kept = {path.split("/")[0] for path, _, _ in expected["train"]}
    ours = [s.picture.as_posix() for s in draw.train.samples if s.picture.parts[0] in kept]
    assert ours == [path for path, _, _ in expected["train"]]


@pytest.mark.parametrize(
    ("name", "base", "new", "base_pictures"),
    [
        ("OxfordPets", 19, 18, 304),
        ("OxfordFlowers", 51, 51, 816),
        ("EuroSAT", 5, 5, 80),
        ("UCF101", 51, 50, 816),
    ],
)
def test_base_and_new_have_the_published_sizes(real, name, base, new, base_pictures):
    photos = official_photos(read_lists(real("splits_coop") / f"split_zhou_{name}.json.gz"))
    draw = draw_shots(photos, 16, 1)
    labels = base_new(draw.train)
    assert (len(labels[0]), len(labels[1])) == (base, new)
    assert len(draw.train.only(labels[0])) <= base_pictures
    if name in ("OxfordPets", "EuroSAT"):
        assert len(draw.train.only(labels[0])) == base_pictures
        assert not draw.short


def test_short_classes_give_what_they_have():
    photos = photos_of((0, "train", 3), (1, "train", 20), (2, "test", 5))
    draw = draw_shots(photos, 16, 1)
    assert draw.short == {"class 0": 3, "class 2": 0}
    assert numbers(draw.train, 0) == [0, 1, 2]
    assert len(draw.val) == 0
    with pytest.raises(InputError, match="'class 0' has 3 training pictures, fewer than 16 shots"):
        draw_shots(photos, 16, 1, strict=True)


def test_without_splits_the_rest_is_left_for_testing():
    photos = photos_of((0, None, 10), (1, None, 10))
    draw = draw_shots(photos, 4, 7)
    assert len(draw.train) == 8
    assert len(draw.rest) == 12
    assert {s.picture for s in draw.train.samples} | {s.picture for s in draw.rest.samples} == {
        s.picture for s in photos.samples
    }


def test_all_pictures():
    photos = photos_of((0, "train", 3), (1, "train", 5), (1, "val", 9))
    draw = draw_shots(photos, None, 1)
    assert (len(draw.train), len(draw.val), len(draw.rest), draw.short) == (8, 9, 0, {})


def test_what_cannot_be_drawn():
    with pytest.raises(InputError, match="at least 1"):
        draw_shots(photos_of((0, None, 3)), 0, 1)
    with pytest.raises(InputError, match="train split"):
        draw_shots(photos_of((0, "test", 3)), 1, 1)
    with pytest.raises(InputError, match="two classes"):
        base_new(photos_of((0, None, 3)))


def test_base_is_the_lower_half_of_the_labels_in_train():
    photos = photos_of((4, "train", 1), (0, "train", 1), (2, "train", 1), (1, "test", 1), (3, "train", 1))
    assert base_new(photos) == ([0, 2], [3, 4])
    photos = photos_of((0, "train", 1), (1, "train", 1), (2, "train", 1))
    assert base_new(photos) == ([0, 1], [2])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 16), st.integers(0, 1000))
def test_draws_are_repeatable_and_never_twice_the_same_picture(counts, shots, seed):
    photos = photos_of(*[(label, "train", count) for label, count in enumerate(counts)])
    draw = draw_shots(photos, shots, seed)
    assert draw == draw_shots(photos, shots, seed)
    pictures = [sample.picture for sample in draw.train.samples]
    assert len(set(pictures)) == len(pictures)
    assert list(draw.train.counts().values()) == [min(count, shots) for count in counts]
    assert len(draw.train) + len(draw.rest) == len(photos)
