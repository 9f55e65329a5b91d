"""What is told of a set: counts against the official split, absent pictures, masks, names."""

import json
from pathlib import Path

import pytest

from foveate.datasets.catalogue import find, keys
from foveate.datasets.checking import check_set
from foveate.datasets.splits import Split, official_split
from foveate.errors import InputError


def official() -> Split:
    split = official_split(find("dtd"))
    assert split is not None
    return split


def official_lists() -> dict[str, list[tuple[str, int, str]]]:
    """DTD's official split in the form of a split file."""
    split, lists = official(), {part: [] for part in ("train", "val", "test")}
    for row in split.rows:
        lists[row.split].append((row.path, row.label, split.names[row.label]))
    return lists


def write_split(root: Path, lists: dict[str, list[tuple[str, int, str]]]) -> None:
    (root / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(lists))


def test_a_whole_set(hollow):
    found = check_set(hollow("dtd/dtd/images"), "dtd")
    assert (found.state, found.layout, found.absent, found.faults) == ("whole", "torchvision", 0, ())
    assert found.counts == found.official == {"classes": 47, "train": 2820, "val": 1128, "test": 1692}
    assert found.names_hash == found.official_names_hash
    assert found.usable


def test_absent_pictures_are_listed(hollow):
    found = check_set(hollow("dtd/images", without="braided"), "dtd")
    names = [row.path for row in official().rows if row.path.startswith("braided/")]
    assert (found.state, found.absent, found.absent_pictures) == ("incomplete", 120, tuple(names))
    assert found.faults == (f"120 of 5,640 pictures are not there, {', '.join(names[:5])} and 115 more",)
    assert not found.usable


def test_a_subset_is_another_split_and_can_be_used(real, link):
    found = check_set(link("dtd", real("dtd10/dtd")), "dtd")
    assert (found.state, found.usable) == ("other split", True)
    assert (
        found.faults[0]
        == "officially 47 classes, 2,820 train pictures, 1,128 val pictures, 1,692 test pictures"
    )
    assert "10 of the 47 official classes, in the official order" in found.faults
    assert found.names_hash != found.official_names_hash


REAL = {
    "caltech101": ("caltech101/caltech-101", "caltech-101", "caltech-101/caltech-101", "caltech101"),
    "dtd": ("dtd10/dtd", "dtd", "dtd/dtd/dtd", "dtd/dtd"),
    "imagenet": ("imagenet_tiny20/imagenet/images", "imagenet/images", "imagenet-1k/imagenet/images", "."),
}
"""Where the pictures are, and the folder for them in each convention."""


@pytest.mark.parametrize(("place", "layout"), [(1, "CoOp"), (2, "FVG-PT"), (3, "torchvision")])
@pytest.mark.parametrize("key", REAL)
def test_real_sets_in_each_convention(real, link, tmp_path, key, place, layout):
    source, home = real(REAL[key][0]), REAL[key][place]
    if home == ".":  # torchvision has ImageNet's train and val in the root itself
        for part in ("train", "val"):
            link(part, source / part)
    else:
        link(home, source)
    found = check_set(tmp_path / "root", key)
    assert (found.layout, found.state, found.absent) == (layout, "other split", 0)
    assert found.folder == str(tmp_path / "root" / home.removesuffix("/images"))


def test_another_split_of_the_same_size_is_told(hollow, tmp_path):
    hollow("dtd/images")
    lists = official_lists()
    write_split(tmp_path, lists | {"train": lists["train"][::-1]})
    found = check_set(tmp_path, "dtd")
    assert found.state == "other split"
    assert found.faults == ("another split than the official one, of the same size",)
    write_split(tmp_path, lists)
    assert check_set(tmp_path, "dtd").state == "whole"


def test_classes_in_another_order_are_told(hollow, tmp_path):
    hollow("dtd/images")
    turned = {
        part: [(path, 46 - label, name) for path, label, name in rows]
        for part, rows in official_lists().items()
    }
    write_split(tmp_path, turned)
    found = check_set(tmp_path, "dtd")
    assert found.state == "incomplete"
    assert found.faults[-1] == (
        "classes in another order than the official one, first 'zigzagged': base and new would be others"
    )
    assert found.names_hash != found.official_names_hash


def test_other_names_are_told(real, link, tmp_path):
    """The list beside these pictures has ImageNet's own names, which are not CLIP's."""
    found = check_set(link("imagenet", real("imagenet_tiny20/imagenet")), "imagenet")
    assert found.state == "other split"
    names = tmp_path / "root" / "imagenet" / "classnames.txt"
    assert found.faults[-1] == (
        f"3 class names are not the official ones, first 'hog'; remove {names} to take CLIP's"
    )
    assert found.counts == {"classes": 20, "train": 320, "val": 0, "test": 240}


def test_imagenet_without_a_half(touch, tmp_path):
    touch(tmp_path / "imagenet" / "images" / "val", ["n01440764/a.JPEG"])
    found = check_set(tmp_path, "imagenet")
    assert found.state == "incomplete"
    assert found.faults[0] == f"no train pictures: {tmp_path / 'imagenet/images/train'} is not there"


def test_masks_are_counted(small, trained, write_masks):
    root = small("food101/food-101")
    write_masks(root / "food101/mask/food-101/images", trained[:9])
    found = check_set(root, "food101")
    assert found.masks == {"train": 9, "val": 0, "test": 0}
    assert "with 2 folders above the pictures" in found.mask_rule
    pictures = root / "food101/food-101/images"
    assert found.faults[-1] == f"masks: 3 train pictures have none, first {pictures / trained[9]}"
    write_masks(root / "masks", ["unknown.png"])
    told = check_set(root, "food101", masks=root / "masks").faults[-1]
    assert told.startswith("masks: ")
    assert "no mask in it matches a picture" in told
    with pytest.raises(InputError, match="nowhere: no such folder of masks"):
        check_set(root, "food101", masks=root / "nowhere")


def test_masks_by_other_names_are_told(small, write_masks):
    root = small("food-101")
    write_masks(root / "food-101" / "mask", ["cat_0.png"])
    found = check_set(root, "food101")
    assert (found.masks, found.state) == ({}, "other split")
    assert found.faults[-1] == (
        f"masks: {root / 'food-101/mask'} has none of any picture; "
        f"expected, for instance, {root / 'food-101/mask/cat/0.png'}"
    )


def test_a_missing_split_file_is_told_and_where_it_can_be_had(small):
    root = small("food-101")
    (root / "food-101" / "split_zhou_Food101.json").unlink()
    found = check_set(root, "food101")
    assert found.state == "incomplete"
    assert "split_zhou_Food101.json: no such file, and no other split will do" in found.faults[0]
    assert "huggingface.co" in found.where


def test_files_by_another_spelling_are_pointed_at(small):
    """Some disks and archives change case, or write an accent as two letters."""
    root = small("food-101", "caf\u00e9/")
    (root / "food-101/images/cat").rename(root / "food-101/images/cat1")
    (root / "food-101/images/cafe\u0301").mkdir()
    (root / "food-101/images/cat1").rename(root / "food-101/images/cafe\u0301/cat")
    found = check_set(root, "food101")
    assert "there it is cafe\u0301/cat/0.png in another Unicode form, so rename the files" in found.faults[0]
    picture = root / "food-101/images/cafe\u0301/cat/0.png"
    picture.rename(picture.with_suffix(".PNG"))
    (root / "food-101/images/cafe\u0301").rename(root / "food-101/images/caf\u00e9")
    fault = check_set(root, "food101").faults[0]
    assert fault.endswith("there it is caf\u00e9/cat/0.PNG, so rename the files as the list has them")


def test_links_that_lead_nowhere_are_absent(small):
    picture = small("food-101") / "food-101" / "images" / "cat" / "2.png"
    picture.unlink()
    picture.symlink_to("elsewhere.png")
    found = check_set(picture.parents[3], "food101")
    assert (found.state, found.absent_pictures) == ("incomplete", ("cat/2.png",))
    assert found.faults[0] == ("1 of 16 pictures are not there, cat/2.png: a broken link, or no file")


def test_labels_that_skip_numbers_are_told(small):
    root = small("food-101")
    path = root / "food-101" / "split_zhou_Food101.json"
    path.write_text(path.read_text().replace(", 1,", ", 7,"))
    found = check_set(root, "food101")
    assert (found.state, found.counts["classes"]) == ("other split", 2)
    assert "labels skip numbers, 'dog' is 7 in the list and 1 here" in found.faults


def test_imagenets_halves_are_compared(touch, tmp_path):
    images = tmp_path / "imagenet" / "images"
    touch(images, ["train/n01440764/a.JPEG", "train/n01443537/a.JPEG", "val/n01440764/a.JPEG"])
    touch(images, ["val/n01484850/a.JPEG"])
    faults = check_set(tmp_path, "imagenet").faults
    assert f"classes without test pictures: 1, first {images / 'val/n01443537'}" in faults
    untrained = images / "train" / "n01484850"
    assert f"classes whose test pictures are left out: 1, for there is no {untrained}" in faults


def test_imagenets_pictures_without_class_folders(touch, tmp_path):
    """The validation archive unpacks flat."""
    images = tmp_path / "imagenet" / "images"
    touch(images, ["train/n01440764/a.JPEG", "val/ILSVRC2012_val_00000001.JPEG"])
    found = check_set(tmp_path, "imagenet")
    assert found.state == "incomplete"
    assert found.faults[0] == (
        f"no test pictures: in {images / 'val'} each class must have a folder, called by its WordNet id"
    )


def test_a_set_that_may_not_be_read_is_no_end_of_the_check(small, monkeypatch):
    root = small("food-101")
    file = root / "food-101" / "split_zhou_Food101.json"

    def refused(self: Path, **_: object) -> str:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refused)
    found = check_set(root, "food101")
    assert found.state == "incomplete"
    assert found.faults == (f"{file}: cannot be read (Permission denied)",)


def test_an_empty_root(tmp_path):
    found = [check_set(tmp_path, key) for key in keys()]
    assert {one.state for one in found} == {"not there"}
    assert all(one.where.startswith(("http", "the mirrors")) for one in found)
    assert found[1].faults == (
        "expected caltech-101/101_ObjectCategories or caltech-101/caltech-101/101_ObjectCategories or "
        "caltech101/101_ObjectCategories",
    )
    with pytest.raises(InputError, match="no such folder; give the folder that the data sets are in"):
        check_set(tmp_path / "nowhere", "dtd")
