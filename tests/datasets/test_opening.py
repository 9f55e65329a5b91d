"""Sets of every convention become the same photos; what cannot be used is one clear line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from foveate.data.samples import Photos
from foveate.datasets.catalogue import find
from foveate.datasets.opening import open_set
from foveate.datasets.places import locate
from foveate.errors import InputError


def counts(photos: Photos) -> tuple[int, ...]:
    return tuple(len(photos.split(split)) for split in ("train", "val", "test"))


@pytest.mark.parametrize(
    ("below", "layout"),
    [("dtd", "CoOp"), ("dtd/dtd", "torchvision"), ("dtd/dtd/dtd", "FVG-PT")],
)
def test_real_dtd_is_the_same_in_each_layout(real, link, below, layout):
    home = real("dtd10/dtd")
    root = link(below, home)
    place = locate(root, find("dtd"))
    assert place is not None
    assert place.layout == layout
    photos = open_set(root, "dtd")
    assert counts(photos) == (160, 40, 120)
    assert photos.names[:2] == ("banded", "blotchy")
    content = json.loads((home / "split_zhou_DescribableTextures.json").read_text())
    assert [
        s.picture.relative_to(root / below / "images").as_posix() for s in photos.split("test").samples
    ] == [path for path, _, _ in content["test"]]


@pytest.mark.parametrize("below", ["caltech-101", "caltech-101/caltech-101", "caltech101"])
def test_real_caltech_is_the_same_in_each_layout(real, link, below):
    photos = open_set(link(below, real("caltech101/caltech-101")), "Caltech101")
    assert counts(photos) == (1600, 400, 600)
    assert (len(photos.names), photos.names[4], photos.names[-1]) == (100, "airplane", "yin yang")


@pytest.mark.parametrize(
    ("below", "layout"),
    [("imagenet", "CoOp"), ("imagenet-1k/imagenet", "FVG-PT"), ("imagenet/imagenet", "nested")],
)
def test_real_imagenet_folders(real, link, below, layout):
    home = real("imagenet_tiny20/imagenet")
    root = link(below, home)
    place = locate(root, find("imagenet"))
    assert place is not None
    assert (place.layout, place.names_file) == (layout, root / below / "classnames.txt")
    photos = open_set(root, "imagenet", masks=home / "boxmasks")
    assert counts(photos) == (320, 0, 240)
    assert photos.names[:3] == ("dugong", "Chihuahua", "ladybug")
    assert all(sample.mask is not None for sample in photos.samples)
    assert [s.picture for s in photos.split("train").samples] == sorted(
        (root / below).glob("images/train/*/*")
    )
    assert len(open_set(root, "imagenet", splits=("test",))) == 240


def test_torchvisions_layout_takes_the_official_split_that_comes_with_foveate(hollow):
    root = hollow("dtd/dtd/images")
    photos = open_set(root, "DTD")
    assert counts(photos) == (2820, 1128, 1692)
    assert (len(photos.names), photos.names[-1]) == (47, "zigzagged")
    place = locate(root, find("dtd"))
    assert place is not None
    assert place.layout == "torchvision"


@pytest.mark.parametrize("home", ["food-101", "food101/food-101", "food-101/food-101"])
@pytest.mark.parametrize("prefix", ["", "images/"])
def test_lists_may_repeat_the_pictures_folder(small, home, prefix):
    photos = open_set(small(home, prefix), "food101")
    assert photos.names == ("house cat", "dog")
    assert counts(photos) == (12, 2, 2)


@pytest.mark.parametrize(
    ("home", "tree"),
    [
        ("food-101", "food-101/mask"),  # beside the pictures
        ("food101/food-101", "food101/mask/food-101/images"),  # FVG-PT: inner folders repeated
        ("food101/food-101", "food101/mask/images"),
        ("food101/food-101", "food101/mask"),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_masks_of_known_layouts_are_attached(small, trained, write_masks, home, tree, suffix):
    root = small(home)
    names = [str(Path(path).with_suffix(suffix)) for path in trained]
    write_masks(root / tree, names)
    photos = open_set(root, "food101")
    assert [s.mask for s in photos.split("train").samples] == [root / tree / name for name in names]
    assert not any(sample.mask for sample in photos.split("test").samples)
    assert photos.mask_values == "binary255"


def test_flat_masks_and_masks_of_other_folders(small, trained, write_masks, tmp_path):
    root = small("food-101")
    write_masks(tmp_path / "masks" / "food101", trained)
    write_masks(tmp_path / "masks" / "dtd", ["other.png"])
    assert sum(s.mask is not None for s in open_set(root, "food101", masks=tmp_path / "masks").samples) == 12
    own = open_set(root, "food101", masks=tmp_path / "masks" / "food101")
    assert sum(sample.mask is not None for sample in own.samples) == 12
    with pytest.raises(
        InputError, match=r"no mask in it matches a picture; expected, for instance, .*cat/0.png"
    ):
        open_set(root, "food101", masks=tmp_path / "masks" / "dtd")
    with pytest.raises(InputError, match="no such folder of masks"):
        open_set(root, "food101", masks=tmp_path / "nowhere")
    write_masks(tmp_path / "flat", ["0.png", "1.png"])  # of cat and of dog
    with pytest.raises(InputError, match="would be the mask of both"):
        open_set(root, "food101", masks=tmp_path / "flat")


def aircraft(home: Path, write_pictures: Callable[..., None], broken: str = "") -> None:
    """Lay out FGVC-Aircraft of three variants."""
    names = ["707-320", "F-16A/B", "An-12"]
    (home / "images").mkdir(parents=True)
    (home / "variants.txt").write_text("\n".join(names) + "\n")
    for part, split in enumerate(("train", "val", "test")):
        lines = [f"{part}{row}{n} {name}" for row, name in enumerate(names) for n in range(2)]
        write_pictures(home / "images", [f"{line.split()[0]}.jpg" for line in lines])
        (home / f"images_variant_{split}.txt").write_text("\n".join([*lines, broken]) + "\n")


@pytest.mark.parametrize(
    "home",
    ["fgvc_aircraft", "fgvc_aircraft/fgvc-aircraft-2013b/fgvc_aircraft", "fgvc-aircraft-2013b/data"],
)
def test_aircraft_is_read_from_its_own_lists(tmp_path, write_pictures, home):
    aircraft(tmp_path / home, write_pictures)
    photos = open_set(tmp_path, "FGVCAircraft")
    assert photos.names == ("707-320", "F-16A/B", "An-12")  # in the file's order
    assert counts(photos) == (6, 6, 6)
    assert [s.label for s in photos.split("val").samples] == [0, 0, 1, 1, 2, 2]


def test_aircraft_with_a_broken_list(tmp_path, write_pictures):
    aircraft(tmp_path / "fgvc_aircraft", write_pictures, "999 Concorde")
    with pytest.raises(
        InputError, match=r"images_variant_train.txt, line 7: 'Concorde' is not in .*variants.txt"
    ):
        open_set(tmp_path, "fgvc_aircraft")
    (tmp_path / "fgvc_aircraft" / "images_variant_train.txt").unlink()
    with pytest.raises(InputError, match=r"images_variant_train.txt: no such file; it comes with"):
        open_set(tmp_path, "fgvc_aircraft")


def test_variants_of_imagenet_map_folders_to_names(touch, tmp_path):
    touch(
        tmp_path / "imagenet-rendition" / "imagenet-r", ["n01443537/b.jpg", "n01494475/a.jpg", "README.txt"]
    )
    photos = open_set(tmp_path, "ImageNet-R")
    assert photos.names == ("goldfish", "hammerhead shark")
    assert [(s.label, s.split) for s in photos.samples] == [(0, "test"), (1, "test")]
    home = tmp_path / "imagenetv2"  # folders by number, and 10 comes after 2
    touch(home / "imagenetv2-matched-frequency-format-val", ["0/a.jpeg", "10/a.jpeg", "2/a.jpeg"])
    assert open_set(tmp_path, "imagenetv2").names == ("tench", "great white shark", "brambling")
    (tmp_path / "imagenet" / "images" / "val" / "n01443537").mkdir(parents=True)
    (tmp_path / "imagenet" / "classnames.txt").write_text("n01494475 hammerhead\nn01443537 gold_fish\n")
    assert open_set(tmp_path, "imagenet_r").names == (
        "gold fish",
        "hammerhead",
    )  # ImageNet's own list goes first


def test_folders_that_are_no_classes(touch, tmp_path):
    touch(tmp_path / "imagenet-adversarial" / "imagenet-a", ["cats/a.jpg"])
    with pytest.raises(
        InputError, match=r"imagenet-a/cats: foveate's own classnames.txt has no name for this"
    ):
        open_set(tmp_path, "imagenet_a")
    (tmp_path / "imagenet-rendition" / "imagenet-r").mkdir(parents=True)
    with pytest.raises(InputError, match="no class folders; each is called by a WordNet id"):
        open_set(tmp_path, "imagenet_r")
    names = tmp_path / "imagenet-adversarial" / "classnames.txt"
    names.write_text("n01440764\n")
    with pytest.raises(
        InputError, match=r"classnames.txt, line 1: expected a WordNet id, a space and a name"
    ):
        open_set(tmp_path, "imagenet_a")
    names.write_text("n01440764 fish\nn01443537 fish\n")
    with pytest.raises(InputError, match="n01440764 and n01443537 are both called 'fish'; rename one"):
        open_set(tmp_path, "imagenet_a")


def test_what_is_not_there(tmp_path, small):
    with pytest.raises(InputError, match="no such folder; give the folder that the data sets are in"):
        open_set(tmp_path / "nowhere", "dtd")
    with pytest.raises(
        InputError, match=r"DTD is not in .*: expected dtd/images or .*; https://www.robots.ox"
    ):
        open_set(tmp_path, "dtd")
    root = small("food-101")
    (root / "food-101" / "split_zhou_Food101.json").unlink()
    with pytest.raises(
        InputError, match=r"split_zhou_Food101.json: no such file, and no other split will do; .*zh"
    ):
        open_set(root, "food101")


def test_absent_pictures_are_counted(small):
    root = small("food-101")
    (root / "food-101" / "images" / "dog" / "3.png").unlink()
    (root / "food-101" / "images" / "dog" / "7.png").unlink()
    with pytest.raises(InputError, match=r"Food101: 2 of 16 pictures .*first dog/3.png; `foveate data check"):
        open_set(root, "food101")
    with pytest.raises(InputError, match="1 of 12 pictures"):
        open_set(root, "food101", splits=("train",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "not valid JSON"),
        ("[]", "expected train, val and test lists"),
        ('{"train": {}}', "expected train, val and test lists"),
        ('{"train": [["a.png", "0", "cat"]]}', r"train\[0\] is not \[path, label, name\]"),
        ('{"train": [], "val": [], "test": []}', "no pictures"),
        ('{"train": [["a.png", 0, "cat"], ["b.png", 0, "dog"]]}', "label 0 is 'dog' here and 'cat' before"),
        ('{"train": [["a.png", 0, "cat"], ["b.png", 1, "cat"]]}', "are both called 'cat'"),
    ],
)
def test_split_files_that_are_none(small, text, message):
    root = small("food-101")
    (root / "food-101" / "split_zhou_Food101.json").write_text(text)
    with pytest.raises(InputError, match=message):
        open_set(root, "food101")


def test_classes_in_another_order_are_refused(real, tmp_path):
    """Base and new would be other classes than in the papers, and no error would tell."""
    home = real("dtd10/dtd")
    content = json.loads((home / "split_zhou_DescribableTextures.json").read_text())
    turned = {part: [[path, 9 - label, name] for path, label, name in rows] for part, rows in content.items()}
    (tmp_path / "dtd").mkdir()
    (tmp_path / "dtd" / "images").symlink_to(home / "images")
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(turned))
    with pytest.raises(
        InputError, match="classes are in another order than the official one, so base and new"
    ):
        open_set(tmp_path, "dtd")
