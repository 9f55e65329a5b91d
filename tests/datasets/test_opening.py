"""Sets of every convention become the same photos; what cannot be used is one clear line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from foveate.data.samples import Photos
from foveate.datasets.catalogue import find, locate
from foveate.datasets.opening import open_set
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
    names = ["Zeppelin NT", "707-320", "F-16A/B"]
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
    assert photos.names == ("Zeppelin NT", "707-320", "F-16A/B")  # in the file's order
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
        ('{"train": [], "val": [], "test": []}', "no pictures"),
        ('{"train": [["/a.png", 0, "cat"]]}', r"train\[0\] is not .* a path below the set's folder"),
        ('{"train": [["x/../../a.png", 0, "cat"]]}', "a path below the set's folder"),
        ('{"train": [["a\\u0000.png", 0, "cat"]]}', "a path below the set's folder"),
        ('{"train": [["a\\udc80.png", 0, "cat"]]}', "a path below the set's folder"),
        ('{"train": [["a.png", 0, ""]]}', r"train\[0\] is not \[path, label, name\]"),
        ('{"names": {}, "train": [["a.png", 0, "cat"]]}', "names is no list of class names"),
        ('{"train": [["a.png", 0, "c\\ud800"]]}', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"train": [["a.png", 0, "cat"]], "test": [["a.png", 0, "cat"]]}', "a.png is in train and in test"),
        ('{"train": [["a.png", 0, "cat"], ["a.png", 1, "dog"]]}', "a.png is there twice; keep one"),
        ('{"train": [["a.png", 0, "cat"], ["b.png", 0, "dog"]]}', "label 0 is 'dog' here and 'cat' before"),
        ('{"train": [["a.png", 0, "cat"], ["b.png", 1, "cat"]]}', "are both called 'cat'"),
    ],
)
def test_split_files_that_are_none(small, text, message):
    root = small("food-101")
    (root / "food-101" / "split_zhou_Food101.json").write_text(text)
    with pytest.raises(InputError, match=message):
        open_set(root, "food101")


def test_split_files_as_other_systems_save_them(small):
    root = small("food-101")
    path = root / "food-101" / "split_zhou_Food101.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as some editors begin a file
    assert counts(open_set(root, "food101")) == (12, 2, 2)
    path.write_bytes(path.read_bytes().replace(b"house_cat", b"house_c\xe9t"))
    with pytest.raises(InputError, match=r"split_zhou_Food101.json, line 1: not UTF-8 text"):
        open_set(root, "food101")


@pytest.mark.parametrize(("inner", "layout"), [("sun397/SUN397", "nested"), ("sun397", "CoOp")])
def test_sun397s_folders_have_one_name_on_several_levels(tmp_path, touch, inner, layout):
    split = {part: [[f"a/abbey/{part}.jpg", 0, "abbey"]] for part in ("train", "val", "test")}
    touch(tmp_path / "sun397" / inner, [rows[0][0] for rows in split.values()])
    (tmp_path / "sun397" / "split_zhou_SUN397.json").write_text(json.dumps(split))
    place = locate(tmp_path, find("sun397"))
    assert place is not None
    assert (place.layout, place.pictures) == (layout, tmp_path / "sun397" / inner)
    assert counts(open_set(tmp_path, "sun397")) == (1, 1, 1)


def test_aircraft_lists_that_contradict_themselves(tmp_path, write_pictures):
    home = tmp_path / "fgvc_aircraft"
    aircraft(home, write_pictures)
    train = (home / "images_variant_train.txt").read_text()
    (home / "images_variant_test.txt").write_text(train)
    with pytest.raises(InputError, match=r"000.jpg is in train and in test"):
        open_set(tmp_path, "fgvc_aircraft")
    (home / "variants.txt").write_text("707-320\n707-320\nF-16A/B\nZeppelin NT\n")
    with pytest.raises(InputError, match=r"variants.txt: '707-320' is there twice"):
        open_set(tmp_path, "fgvc_aircraft")
    (home / "variants.txt").write_bytes(b"Caf\xe9\n")
    with pytest.raises(InputError, match=r"variants.txt, line 1: not UTF-8 text.*; it comes with"):
        open_set(tmp_path, "fgvc_aircraft")


def test_aircraft_in_another_order_is_refused(tmp_path, write_pictures):
    home = tmp_path / "fgvc_aircraft"
    aircraft(home, write_pictures)
    (home / "variants.txt").write_text("F-16A/B\n707-320\nZeppelin NT\n")
    with pytest.raises(InputError, match=r"variants.txt: its classes are in another order .*; get it again"):
        open_set(tmp_path, "fgvc_aircraft")


def test_imagenets_names_that_were_shuffled_are_refused(touch, tmp_path):
    home = tmp_path / "imagenet-rendition"
    touch(home / "imagenet-r", ["n01443537/b.jpg", "n01494475/a.jpg"])
    (home / "classnames.txt").write_text("n01443537 hammerhead shark\nn01494475 goldfish\n")
    with pytest.raises(
        InputError,
        match="2 of its names stand behind other ids than theirs, first 'hammerhead shark' behind n01443537",
    ):
        open_set(tmp_path, "imagenet_r")
    (home / "classnames.txt").write_text("n01443537 goldfish\nn01443537 tench\n")
    with pytest.raises(InputError, match=r"classnames.txt, line 2: n01443537 is there a second time"):
        open_set(tmp_path, "imagenet_r")
    (home / "classnames.txt").write_bytes(b"\xef\xbb\xbfn01443537 gold fish\nn01494475 hammerhead\n")
    assert open_set(tmp_path, "imagenet_r").names == ("gold fish", "hammerhead")


def test_imagenet_v2_is_numbered_by_all_ids_whatever_the_list_holds(touch, tmp_path):
    touch(tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val", ["2/a.jpeg"])
    (tmp_path / "imagenetv2" / "classnames.txt").write_text("n01484850 white shark\n")
    assert open_set(tmp_path, "imagenetv2").names == ("white shark",)


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
