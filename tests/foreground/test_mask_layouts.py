"""Which mask belongs to which picture, in every layout people and papers use."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.errors import InputError
from foveate.foreground.matching import find_masks

PICTURES = ("cat/01.jpg", "cat/02.jpg", "dog/03.jpeg")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def find(tmp_path, masks, pictures=PICTURES, inner="data/images", root="."):
    """Lay out pictures under `inner` and masks under the folder itself; return what each picture gets."""
    top = tmp_path / inner
    touch(top, *pictures)
    touch(tmp_path, *masks)
    pairs = [(top / name, Path(name)) for name in pictures]
    found = find_masks(pairs, None if root is None else tmp_path / root)
    return [mask and mask.relative_to(tmp_path).as_posix() for mask in found]


LAYOUTS = {
    "full mirror": ["m/cat/01.jpg", "m/cat/02.jpg", "m/dog/03.jpeg"],
    "other extension": ["m/cat/01.png", "m/cat/02.PNG", "m/dog/03.npy"],
    "appended": ["m/cat/01.jpg.png", "m/cat/02.jpg.png", "m/dog/03.jpeg.png"],
    "_mask": ["m/cat/01_mask.png", "m/cat/02_mask.png", "m/dog/03_mask.png"],
    ".mask": ["m/cat/01.mask.png", "m/cat/02.mask.png", "m/dog/03.mask.png"],
    "inner folder repeated": ["m/images/cat/01.png", "m/images/cat/02.png", "m/images/dog/03.png"],
    "two repeated": ["m/data/images/cat/01.png", "m/data/images/cat/02.png", "m/data/images/dog/03.png"],
    "flat": ["m/01.png", "m/02.png", "m/03.png"],
    "mask below": ["m/mask/cat/01.png", "m/mask/cat/02.png", "m/mask/dog/03.png"],
    "masks below, repeated": [f"m/masks/images/{name}.png" for name in ("cat/01", "cat/02", "dog/03")],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    assert find(tmp_path, LAYOUTS[layout], root="m") == LAYOUTS[layout]


def test_last_two_components(tmp_path):
    """DAPT: the class folder and the file, wherever the pictures lie."""
    pictures = ("train/cat/01.jpg", "test/dog/03.jpg")
    assert find(tmp_path, ["mask/cat/01.jpg", "mask/dog/03.jpg"], pictures) == [
        "mask/cat/01.jpg",
        "mask/dog/03.jpg",
    ]


def test_voc(tmp_path):
    pictures = ("VOC2012/JPEGImages/2007_01.jpg",)
    masks = ["VOC2012/SegmentationClass/2007_01.png"]
    assert find(tmp_path, masks, pictures, inner=".", root="VOC2012/SegmentationClass") == masks


def test_beside_the_pictures(tmp_path):
    masks = ["p/cat/01_mask.png", "p/dog/03_mask.jpg"]
    assert find(tmp_path, masks, inner="p", root=None) == ["p/cat/01_mask.png", None, "p/dog/03_mask.jpg"]
    assert find(tmp_path / "b", ["p/cat/01.mask.png"], inner="p", root=None) == [
        "p/cat/01.mask.png",
        None,
        None,
    ]
    assert find(tmp_path / "c", [], inner="p", root=None) == [None] * 3
    assert find(tmp_path / "d", masks, inner="p", root="p") == [
        "p/cat/01_mask.png",
        None,
        "p/dog/03_mask.jpg",
    ]


def test_a_picture_is_never_its_own_mask(tmp_path):
    assert find(tmp_path, [], inner="p", root="p") == [None] * 3


def test_the_rule_that_finds_most_wins_for_all(tmp_path):
    masks = ["m/cat/01.png", "m/cat/02.png", "m/03.png"]
    assert find(tmp_path, masks, root="m") == ["m/cat/01.png", "m/cat/02.png", None]


def test_lossless_comes_first(tmp_path):
    masks = ["m/cat/01.png", "m/cat/01.jpeg", "m/cat/02.npz", "m/cat/02.jpeg"]
    assert find(tmp_path, masks, root="m") == ["m/cat/01.png", "m/cat/02.npz", None]


def test_one_mask_for_two_pictures(tmp_path):
    with pytest.raises(
        InputError, match=r"01\.png would be the mask of both .*cat/01\.jpg and .*dog/01\.jpg"
    ):
        find(tmp_path, ["m/01.png"], ("cat/01.jpg", "dog/01.jpg"), root="m")
    with pytest.raises(InputError, match="both"):
        find(tmp_path / "b", ["m/cat/01.png"], ("cat/01.jpg", "cat/01.jpeg"), root="m")


def test_no_folder_and_no_pictures(tmp_path):
    with pytest.raises(InputError, match="no such folder of masks"):
        find(tmp_path, [], root="m")
    assert find_masks([], tmp_path) == []


@given(st.lists(st.sampled_from(PICTURES), unique=True), st.sampled_from(sorted(LAYOUTS)))
def test_missing_masks_are_none_and_the_others_stay_right(tmp_path_factory, kept, layout):
    tmp_path = tmp_path_factory.mktemp("layout")
    masks = [mask for picture, mask in zip(PICTURES, LAYOUTS[layout], strict=True) if picture in kept]
    (tmp_path / "m").mkdir()
    expected = [mask if mask in masks else None for mask in LAYOUTS[layout]]
    assert find(tmp_path, masks, root="m") == expected


def test_real_trees():
    shared = (Path(__file__).parents[2] / ".." / "shared" / "data").resolve()
    trees = {
        "msrc10/images": ["msrc10/masks", "msrc10/labelmaps"],
        "imagenet_tiny20/imagenet/images": ["imagenet_tiny20/imagenet/boxmasks"],
    }
    if not shared.exists():
        pytest.skip(f"no real masks: {shared} is not there")
    for images, roots in trees.items():
        pictures = sorted(p for p in (shared / images).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
        pairs = [(p, p.relative_to(shared / images)) for p in pictures]
        for root in roots:
            found = find_masks(pairs, shared / root)
            expected = [(shared / root / rel).with_suffix(".png") for _, rel in pairs]
            assert found == expected
