"""Every way to hand over labelled photos, and every way to get it wrong."""

import csv
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from foveate.data.checks import check_pictures
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.foreground.pictures import open_picture


def local(photos, root):
    """Class, path and split of every sample, in order."""
    return [(photos.names[s.label], s.picture.relative_to(root).as_posix(), s.split) for s in photos.samples]


def masks_of(photos, root):
    return {s.picture.stem: s.mask and s.mask.relative_to(root).as_posix() for s in photos.samples}


def refused(source, *words, **options):
    with pytest.raises(InputError) as caught:
        load_photos(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


# A folder per class


def test_folder_per_class(lay):
    root = lay(
        "big_dog/b.jpg", "big_dog/deep/a.PNG", "cat/1.webp", "cat/.hidden.jpg", ".git/x/1.jpg", "top.jpg"
    )
    (root / "cat" / "notes.txt").write_text("no picture")
    photos = load_photos(str(root))
    assert photos.names == ("big dog", "cat")
    assert local(photos, root) == [
        ("big dog", "big_dog/b.jpg", None),
        ("big dog", "big_dog/deep/a.PNG", None),
        ("cat", "cat/1.webp", None),
    ]
    assert photos.mask_values == "auto"
    assert load_photos(photos) == photos


def test_pictures_of_a_kind_that_is_not_read_are_told_of(lay, tmp_path):
    folder = lay("cat/1.png", "dog/2.png")
    for name in ("cat/3.DNG", "dog/4.dng", "dog/5.MOV", "cat/notes.txt"):
        (folder / name).touch()
    told = r"cat/3.DNG and 2 more left out: formats that are not read \(2 .dng, 1 .mov\); convert"
    with pytest.warns(UserWarning, match=told):
        photos = load_photos(folder)
    assert len(photos) == 2


def test_folder_with_splits(lay):
    root = lay(
        "train/cat/1.jpg", "train/dog/2.jpg", "validation/cat/3.jpg", "test/dog/4.jpg", "test/eel/5.jpg"
    )
    photos = load_photos(root)
    assert photos.names == ("cat", "dog", "eel")
    assert local(photos, root) == [
        ("cat", "train/cat/1.jpg", "train"),
        ("dog", "train/dog/2.jpg", "train"),
        ("cat", "validation/cat/3.jpg", "val"),
        ("dog", "test/dog/4.jpg", "test"),
        ("eel", "test/eel/5.jpg", "test"),
    ]


def test_a_train_can_be_a_class(lay):
    root = lay("train/1.jpg", "bus/2.jpg")
    with pytest.warns(UserWarning, match="train is taken for a class, for beside it are bus"):
        assert load_photos(root).names == ("bus", "train")
    root = lay("test/3.jpg")
    with pytest.warns(UserWarning, match="is taken for a class"):
        assert load_photos(root).names == ("bus", "test", "train")
    refused(lay("two/train/1.jpg", "two/test/2.jpg") / "two", "train", "no class folders")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("Train", "validate"),
        ("train data", "Testing"),
    ],
)
def test_splits_under_their_usual_names(lay, train, test):
    root = lay(f"{train}/cat/1.jpg", f"{train}/dog/2.jpg", f"{test}/cat/3.jpg")
    photos = load_photos(root)
    assert photos.names == ("cat", "dog")
    assert [sample.split for sample in photos.samples] == [
        "train",
        "train",
        "val" if "val" in test else "test",
    ]


def test_what_lies_beside_splits_is_left_out_with_a_word(lay):
    root = lay("train/cat/1.jpg", "train/dog/2.jpg", "test/3.jpg", "sample/cat_4.jpg")
    with pytest.warns(UserWarning, match=r"left out: sample \(no train, val or test\), test"):
        photos = load_photos(root)
    assert photos.counts() == {"cat": 1, "dog": 1}
    root = lay("more/train/cat/1.jpg", "more/train/dog/2.jpg", "more/train/5.jpg") / "more"
    with pytest.warns(UserWarning, match="left out: pictures in train that are in no class folder"):
        assert load_photos(root).counts() == {"cat": 1, "dog": 1}


def test_splits_below_classes(lay):
    root = lay("cat/train/1.jpg", "cat/test/2.jpg", "dog/train/3.jpg")
    photos = load_photos(root)
    assert photos.names == ("cat", "dog")
    assert [sample.split for sample in photos.samples] == ["train", "train", "test"]


def test_folders_that_hold_the_same_are_classes_with_a_word(lay):
    root = lay("fold1/cat/1.jpg", "fold1/dog/2.jpg", "fold2/cat/3.jpg", "fold2/dog/4.jpg")
    with pytest.warns(UserWarning, match="fold1 and fold2 are taken for classes, though both"):
        assert load_photos(root).names == ("fold1", "fold2")


def test_a_flat_folder_of_masks_beside_one_of_pictures(lay):
    root = lay("images/cat/1.jpg", "images/dog/2.jpg", "masks/1.png", "masks/2.png")
    assert masks_of(load_photos(root), root) == {"1": "masks/1.png", "2": "masks/2.png"}


def test_a_folder_too_many(lay):
    root = lay("wrap/inner/cat/1.jpg", "wrap/inner/dog/2.jpg")
    with pytest.warns(UserWarning, match="holds one folder alone"):
        photos = load_photos(root)
    assert photos.names == ("cat", "dog")


def test_a_list_beside_its_pictures(lay):
    root = lay("images/1.jpg", "images/2.jpg")
    (root / "labels.csv").write_text("file_name,class\nimages/1.jpg,cat\nimages/2.jpg,dog\n")
    (root / "notes.csv").write_text("a,b\n1,2\n")
    with pytest.warns(UserWarning, match="has no class folders: its list labels.csv is read"):
        assert load_photos(root).names == ("cat", "dog")


def test_numbered_folders_are_in_their_numbers_order(lay):
    root = lay(*(f"{number}/1.jpg" for number in (1, 2, 10, 11)))
    assert load_photos(root).names == ("1", "2", "10", "11")


def test_folders_called_by_wordnet_ids(lay):
    root = lay("n01440764/1.jpg", "n01443537/2.jpg")
    with pytest.warns(UserWarning, match="n01440764 is called 'tench'"):
        assert load_photos(root).names == ("tench", "goldfish")


def test_two_classes_of_imagenet_that_its_lists_call_the_same_get_two_names(lay):
    root = lay("n03773504/1.jpg", "n04008634/2.jpg")
    with pytest.warns(UserWarning, match="n03773504 is called 'missile'"):
        assert load_photos(root).names == ("missile", "projectile")


def test_files_of_other_endings_are_told_of(lay):
    root = lay("cat/1.jpg", "dog/2.jpg")
    for name in ("a.jpg_large", "a.jpg.1", "a"):
        (root / "cat" / name).write_bytes((root / "cat/1.jpg").read_bytes())
    (root / "cat" / "b.tga").touch()
    os.mkfifo(root / "cat" / "pipe.png")
    with pytest.warns(UserWarning, match="and 3 more left out"):
        assert load_photos(root).counts() == {"cat": 1, "dog": 1}


@pytest.mark.parametrize("others", [("hat",), ("hat", "glove")])
def test_a_class_called_mask(lay, others):
    root = lay(*(f"{name}/{number}.png" for name in ("mask", *others) for number in range(3)))
    for path in (root / "mask").iterdir():
        Image.new("L", (12, 8), 255).save(path)
    assert load_photos(root).names == tuple(sorted(("mask", *others)))


def test_images_folder_inside(lay):
    root = lay("images/cat/1.jpg", "images/dog/2.jpg", "masks/cat/1.png", "masks/dog/2.png")
    photos = load_photos(root)
    assert photos.names == ("cat", "dog")
    assert masks_of(photos, root) == {"1": "masks/cat/1.png", "2": "masks/dog/2.png"}


@pytest.mark.parametrize("tree", ["mask", "masks"])
def test_mask_tree_is_no_class(lay, tree):
    root = lay("cat/1.jpg", "dog/1.jpg", "dog/2.jpg", f"{tree}/cat/1.png", f"{tree}/dog/1.jpg")
    photos = load_photos(root)
    assert photos.names == ("cat", "dog")
    masks = [s.mask and s.mask.relative_to(root).as_posix() for s in photos.samples]
    assert masks == [f"{tree}/cat/1.png", f"{tree}/dog/1.jpg", None]
    assert photos.mask_values != "auto"


def test_mask_tree_of_splits_and_flat_one(lay):
    root = lay("train/cat/1.jpg", "test/cat/2.jpg", "mask/train/cat/1.png", "mask/test/cat/2.png")
    assert masks_of(load_photos(root), root) == {"1": "mask/train/cat/1.png", "2": "mask/test/cat/2.png"}


def test_flat_mask_folder(lay):
    root = lay("cat/1.jpg", "dog/2.jpg", "mask/1.png", "mask/2.png")
    assert masks_of(load_photos(root), root) == {"1": "mask/1.png", "2": "mask/2.png"}


def test_masks_can_be_an_honest_class(lay, noise):
    root = lay("hats/1.jpg", "gloves/1.jpg")
    (root / "masks").mkdir()
    for number in range(3):
        noise(12, 8, number).save(root / "masks" / f"{number}.jpg")
    photos = load_photos(root)
    assert photos.names == ("gloves", "hats", "masks")
    assert photos.counts()["masks"] == 3
    assert all(s.mask is None for s in photos.samples)


def test_masks_beside_pictures(lay):
    root = lay("cat/1.jpg", "cat/1_mask.png", "dog/2.jpg", "dog/2_mask.png", "dog/3.jpg")
    photos = load_photos(root)
    assert photos.counts() == {"cat": 1, "dog": 2}
    assert masks_of(photos, root) == {"1": "cat/1_mask.png", "2": "dog/2_mask.png", "3": None}


def test_pictures_of_masks_beside_stay_pictures(lay, noise):
    root = lay("iron/man.jpg", "cat/1.jpg")
    noise(9, 9).save(root / "iron" / "man_mask.jpg")
    assert load_photos(root).counts() == {"cat": 1, "iron": 2}


def test_given_masks_need_no_name(lay, tmp_path):
    root = lay("cat/1.jpg", "dog/2.jpg", "cutouts_mask/cat/1.png", "cutouts_mask/dog/2.png")
    photos = load_photos(root, masks=root / "cutouts_mask")
    assert photos.names == ("cat", "dog")
    assert masks_of(photos, root) == {"1": "cutouts_mask/cat/1.png", "2": "cutouts_mask/dog/2.png"}
    bare = photos.with_samples([replace(sample, mask=None) for sample in photos.samples])
    assert load_photos(bare, masks=root / "cat" / ".." / "cutouts_mask") == photos


def test_names_from_classnames_txt(lay):
    root = lay("images/n01/1.jpg", "images/n02/2.jpg")
    (root / "classnames.txt").write_text("n02 house finch\nn01 tench\nn03 other\n")
    assert load_photos(root / "images").names == ("tench", "house finch")
    assert load_photos(root).names == ("tench", "house finch")
    (root / "classnames.txt").write_text("n02\thouse finch\r\nn01\ttench\r\n", encoding="utf-8-sig")
    assert load_photos(root).names == ("tench", "house finch")
    (root / "classnames.txt").write_text("N02 house finch\nn01 tench\n")
    with pytest.warns(UserWarning, match=r"classnames.txt has no name for 1 of 2 class folders, first 'n02'"):
        assert load_photos(root).names == ("tench", "n02")
    (root / "classnames.txt").write_text("n01 caf\xe9\n", encoding="latin-1")
    refused(root, "classnames.txt, line 1", "not UTF-8")


def test_a_listing_is_sorted_and_asks_no_file_for_its_state(lay, monkeypatch: pytest.MonkeyPatch):
    root = lay("cat/b/2.png", "cat/b.jpg", "cat/a/1.JPG", "cat/10.jpg", "cat/9.jpg", "cow/x_mask2.jpg")
    (root / "cow" / "gone.jpg").symlink_to(root / "nothing.jpg")
    looked: list[str] = []
    for name in ("stat", "lstat"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda path, *a, real=real, **k: looked.append(os.fspath(path)) or real(path, *a, **k)
        )
    photos = load_photos(root)
    monkeypatch.undo()
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    assert [sample.picture for sample in photos.samples] == files
    assert root / "cow" / "gone.jpg" in files  # reading it will give the error
    assert {path for path in looked if Path(path) in files} == {str(root / "cow" / "gone.jpg")}


def test_a_link_back_up_ends(lay):
    root = lay("cat/1.jpg", "dog/2.jpg")
    (root / "cat" / "up").symlink_to(root / "cat", target_is_directory=True)
    (root / "eel").symlink_to(lay("../elsewhere/3.jpg").parent / "elsewhere", target_is_directory=True)
    assert load_photos(root).counts() == {"cat": 1, "dog": 1, "eel": 1}


def test_folders_refused(lay, tmp_path):
    (tmp_path / "void").mkdir()
    refused(tmp_path / "void", "no pictures found", "one folder per class")
    refused(tmp_path / "gone", "no such file or folder")
    root = lay("big_dog/1.jpg", "big dog/2.jpg")
    refused(root, "'big dog'", "'big_dog'", "both called 'big dog'")
    root = lay("x/cat/1.jpg", "x/_/2.jpg")
    refused(root / "x", "empty name")
    root = lay("y/cat/1.jpg")
    (root / "y" / "dog").mkdir()
    refused(root / "y", "dog: this class folder has no pictures")
    refused(root / "y", "no such folder of masks", masks=tmp_path / "nowhere")
    (tmp_path / "elsewhere").mkdir()
    refused(lay("z/cat/1.jpg") / "z", "no mask in it matches", "cat/1.png", masks=tmp_path / "elsewhere")
    (root / "notes.txt").write_text("x")
    refused(root / "notes.txt", "not a list we read")


def test_two_pictures_one_mask(lay):
    root = lay("train/cat/1.jpg", "test/cat/1.jpg", "masks/cat/1.png")
    refused(root, "would be the mask of both")


# Lists


def test_csv(lay):
    root = lay("a.jpg", "in/b.jpg", "m/a_mask.png")
    text = "image,label,mask,split\na.jpg,small_cat,m/a_mask.png,train\nin/b.jpg,dog,,test\n"
    (root / "list.csv").write_text(text, encoding="utf-8-sig")
    photos = load_photos(root / "list.csv")
    assert photos.names == ("dog", "small cat")
    assert local(photos, root) == [("small cat", "a.jpg", "train"), ("dog", "in/b.jpg", "test")]
    assert photos.samples[0].mask == root / "m/a_mask.png"
    assert photos.samples[1].mask is None
    assert photos.mask_values == "binary255"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_numbers_with_class_names(lay, delimiter):
    root = lay("a.jpg", "b.jpg", "c.jpg")
    rows = [["label", "classname", "image"], ["10", "eel", "a.jpg"], ["9", "cat, big", "b.jpg"]]
    rows.append(["10", "eel", "c.jpg"])
    with (root / "list.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    photos = load_photos(root / "list.csv")
    assert photos.names == ("cat, big", "eel")
    assert [s.label for s in photos.samples] == [1, 0, 1]


def test_json_lines_and_own_columns(lay, tmp_path):
    root = lay("a.jpg", "b.jpg")
    lines = [{"file": "a.jpg", "kind": 1, "split": None}, {"file": "b.jpg", "kind": 0}]
    (tmp_path / "list.json").write_text(json.dumps(lines))
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    for name in ("list.jsonl", "list.json"):
        photos = load_photos(tmp_path / name, images=root, columns={"image": "file", "label": "kind"})
        assert photos.names == ("0", "1")
        assert local(photos, root) == [("1", "a.jpg", None), ("0", "b.jpg", None)]


def test_lists_refused(lay):
    root = lay("a.jpg")

    def write(text, *words, name="list.csv"):
        (root / name).write_text(text)
        refused(root / name, str(root / name), *words)

    write("image,label\n", "no rows")
    write("subject,label\na.jpg,cat\n", "line 2", "no 'image'", "subject, label", "--columns image=")
    write("image,label\na.jpg,\n", "line 2", "'label' is empty")
    write("image,label\ngone.jpg,cat\nb.jpg,cat\na.jpg,cat\n", "2 of its files do not exist", "gone.jpg")
    write("image,label,mask\na.jpg,cat,gone.png\n", "gone.png")
    write("image,label,split\na.jpg,cat,holdout\n", "line 2", "'holdout'")
    write("image,label,classname\na.jpg,1,cat\na.jpg,1,dog\n", "line 3", "'dog' here and 'cat' before")
    write("image,label,classname\na.jpg,1,cat\na.jpg,2,cat\n", "both called 'cat'")
    write("image,label\na.jpg,cat, big\n", "more fields than columns")
    write("image,label,Label\na.jpg,cat,dog\n", "'Label' stands there twice")
    write("image,label\na.jpg,cat\na.jpg,dog\n", "line 3", "a.jpg has two labels, 'cat' and 'dog'")
    write("image,label\na.jpg,ca\x1bt\n", "unseen character (U+001B)")
    write("image,label\na.jpg,cat\u200b\n", "unseen character (U+200B)")
    write('{"image": "a.jpg", "label": "\\udce9"}\n', "is no text in UTF-8", name="list.jsonl")
    write('{"image": "a.jpg"\n', "line 1", "not valid JSON", name="list.jsonl")
    write("[1]\n", "line 1", "not an object", name="list.jsonl")
    write("[1]\n", "item 1", "not an object", name="list.json")
    (root / "latin.csv").write_bytes("image,label\na.jpg,l\xe4rche\n".encode("latin-1"))
    refused(root / "latin.csv", "not UTF-8")


@pytest.mark.parametrize(
    "header", ["image, label", "Image,Class", "file_name,label", "File Name,category", "path,Target"]
)
def test_usual_names_of_columns(lay, header):
    root = lay("a.jpg", "b.jpg")
    (root / "list.csv").write_text(f"{header}\na.jpg,cat\nb.jpg,dog\n")
    assert load_photos(root / "list.csv").names == ("cat", "dog")
    keys = [key.strip() for key in header.split(",")]
    rows = [dict(zip(keys, row, strict=True)) for row in (("a.jpg", "cat"), ("b.jpg", "dog"))]
    (root / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load_photos(root / "list.jsonl").names == ("cat", "dog")


@pytest.mark.parametrize("before", ["in\\", "C:\\data\\in\\", "/elsewhere/data/in/", "D:/in/"])
def test_paths_of_other_machines(lay, before):
    root = lay("in/a.jpg", "in/b.jpg")
    lines = [f"{before}{name}.jpg,{name * 3}" for name in "ab"]
    (root / "list.csv").write_text("\n".join(["image,label", *lines]))
    assert [s.picture for s in load_photos(root / "list.csv").samples] == [
        root / "in/a.jpg",
        root / "in/b.jpg",
    ]
    elsewhere = root.parent / "lists"
    elsewhere.mkdir()
    (elsewhere / "list.csv").write_text((root / "list.csv").read_text())
    assert len(load_photos(elsewhere / "list.csv", images=root)) == 2
    refused(elsewhere / "list.csv", "2 of its files do not exist")
    (root / "split.json").write_text(json.dumps({"train": [[f"{before}a.jpg", 0, "a"]], "test": None}))
    assert [s.picture for s in load_photos(root / "split.json").samples] == [root / "in/a.jpg"]


def test_labels_of_many_digits(lay):
    root = lay("a.jpg", "b.jpg")
    (root / "list.csv").write_text(f"image,label\na.jpg,{'2' * 900}\nb.jpg,{'1' * 900}\n")
    assert load_photos(root / "list.csv").names == ("1" * 900, "2" * 900)
    (root / "list.csv").write_text(f"image,label\na.jpg,{'2' * 5000}\nb.jpg,{'1' * 5000}\n")
    refused(root / "list.csv", "list.csv", "has 5,000 letters: shorten it")


# The field's split files


def split_file(root, name="split_zhou_Pets.json", folder="", first="cat/1.jpg"):
    content = {
        "train": [[first, 3, "cat"], ["dog/2.jpg", 7, "big_dog"]],
        "val": [],
        "test": [["cat/3.jpg", 3, "cat"]],
    }
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / name).write_text(json.dumps(content))
    return root / folder / name


@pytest.mark.parametrize("inner", ["", "images", "101_ObjectCategories", "something_else"])
def test_split_file_finds_its_pictures(lay, inner):
    prefix = f"{inner}/" if inner else ""
    root = lay(*(f"{prefix}{name}" for name in ("cat/1.jpg", "dog/2.jpg", "cat/3.jpg")))
    path = split_file(root)
    expected = [
        ("cat", f"{prefix}cat/1.jpg", "train"),
        ("big dog", f"{prefix}dog/2.jpg", "train"),
        ("cat", f"{prefix}cat/3.jpg", "test"),
    ]
    assert local(load_photos(path), root) == expected
    assert local(load_photos(root), root) == expected, "the folder stands for the split file in it"
    assert local(load_photos(path, images=root / inner), root) == expected


def test_a_split_file_may_list_all_its_classes(lay):
    root = lay("dog/2.jpg")
    content = {"names": ["ant", "big_dog", "cat"], "train": [["dog/2.jpg", 1, "big_dog"]], "val": None}
    (root / "split.json").write_text(json.dumps(content))
    photos = load_photos(root)
    assert (photos.names, photos.samples[0].label) == (("ant", "big dog", "cat"), 1)
    (root / "split.json").write_text(json.dumps({**content, "names": ["ant", "bee"]}))
    refused(root, "train[0]: label 1 is 'big_dog' here and 'bee' before")
    (root / "split.json").write_text(json.dumps({**content, "names": {"0": "ant"}}))
    refused(root, "names is no list of class names")


def test_fvgpt_mask_layout(lay):
    """ROOT/mask/<inner folder>/<path>, the inner folder repeated, as FVG-PT's archive has it."""
    inner = "caltech-101/101_ObjectCategories"
    names = ("cat/1.jpg", "dog/2.jpg", "cat/3.jpg")
    root = lay(*(f"{inner}/{n}" for n in names), *(f"mask/{inner}/{n}" for n in names))
    photos = load_photos(split_file(root, folder="caltech-101"))
    assert masks_of(photos, root)["1"] == f"mask/{inner}/cat/1.jpg"
    assert all(s.mask for s in photos.samples)
    assert load_photos(root / "caltech-101", masks=root / "mask") == photos


def test_dapt_mask_layout(lay):
    """<dataset>/mask/<class folder>/<file>, or flat."""
    names = ("cat/1.jpg", "dog/2.jpg", "cat/3.jpg")
    root = lay(*(f"101_ObjectCategories/{n}" for n in names), *(f"mask/{n}" for n in names))
    assert masks_of(load_photos(split_file(root)), root)["3"] == "mask/cat/3.jpg"


def test_split_files_refused(lay):
    root = lay("cat/1.jpg", "dog/2.jpg", "cat/3.jpg")
    split_file(root)
    split_file(root, "split_zhou_Pets.official.json")
    assert len(load_photos(root)) == 3, "a name with one more dot is not the split file"
    path = split_file(root, "split.json")
    refused(root, "split.json", "split_zhou_Pets.json", "give the file")
    path = split_file(root, "lost.json", first="eel/9.jpg")
    refused(path, "eel/9.jpg", "--images")
    lay("one/eel/9.jpg", "two/eel/9.jpg")
    refused(path, "in one and in two", "--images")
    for content, word in (
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"train": [["a.jpg", true, "cat"]]}', "train[0] is not"),
        ('{"train": [["a.jpg", "x", "cat"]]}', "train[0] is not"),
        ("[]", "no rows"),
        ('{"train": {}}', "expected train, val and test"),
        ('{"other": []}', "no pictures"),
        ('{"train": [["a.jpg", "cat"]]}', "train[0] is not"),
    ):
        path.write_text(content)
        refused(path, word)


def test_real_sets(real):
    caltech = load_photos(real("caltech101/caltech-101"))
    assert (len(caltech), len(caltech.names), caltech.names[0]) == (2600, 100, "face")
    assert {n: len(caltech.split(n)) for n in ("train", "val", "test")} == {
        "train": 1600,
        "val": 400,
        "test": 600,
    }
    assert load_photos(real("caltech101/index.csv")).digest() == caltech.digest()
    assert len(load_photos(real("dtd10/dtd"))) == 320
    flowers = load_photos(real("flowers17"))
    assert (len(flowers), "lily of the valley" in flowers.names) == (578, True)
    msrc = load_photos(real("msrc10"))
    assert msrc.mask_values == "binary255"
    assert all(sample.mask.stem == sample.picture.stem for sample in msrc.samples)
    assert all(sample.mask.parent.name == sample.picture.parent.name for sample in msrc.samples)
    maps = load_photos(real("msrc10/images"), masks=real("msrc10/labelmaps"))
    assert (maps.mask_values, sum(s.mask is not None for s in maps.samples)) == ("index", 324)
    boxes = load_photos(
        real("imagenet_tiny20/imagenet/images"), masks=real("imagenet_tiny20/imagenet/boxmasks")
    )
    assert (len(boxes), len(boxes.split("val")), boxes.names[0]) == (560, 240, "dugong")
    assert all(sample.mask.stem == sample.picture.stem for sample in boxes.samples)


# Hugging Face datasets


class Feature:
    """Stands for a column type by its class's name, as the library's own types do."""


class ClassLabel(Feature):
    def __init__(self, names):
        self.names = names


Picture = type("Image", (Feature,), {})
Value = type("Value", (Feature,), {})


class FakeRows:
    """No more than the shape we rely on: `features`, `[i]` and a length."""

    def __init__(self, features, rows):
        self.features, self._rows = features, rows

    def __getitem__(self, key):
        return self._rows[key]

    def __len__(self):
        return len(self._rows)


def test_dataset_by_its_shape(noise):
    features = {"img": Picture(), "mask": Picture(), "label": ClassLabel(["big_dog", "cat"])}
    mask = Image.fromarray(np.eye(8, 12, dtype=np.uint8))
    rows = [{"img": noise(12, 8, n), "mask": mask, "label": n % 2} for n in range(4)]
    photos = load_photos({"train": FakeRows(features, rows[:3]), "validation": FakeRows(features, rows[3:])})
    assert photos.names == ("big dog", "cat")
    assert [(s.label, s.split, s.name) for s in photos.samples] == [
        (0, "train", "train/0/img"),
        (1, "train", "train/1/img"),
        (0, "train", "train/2/img"),
        (1, "val", "val/0/img"),
    ]
    assert photos.mask_values == "binary1"
    assert np.array_equal(np.asarray(open_picture(photos.samples[2].picture)), np.asarray(noise(12, 8, 2)))


def test_dataset_columns(noise):
    features = {"image": Picture(), "fine": ClassLabel(["a", "b"]), "coarse": ClassLabel(["c"])}
    rows = FakeRows(features, [{"image": noise(4, 4), "fine": 1, "coarse": 0}])
    refused(rows, "class label", "fine, coarse")
    assert load_photos(rows, columns={"label": "fine"}).samples[0].label == 1
    refused(rows, "no column 'nope'", columns={"label": "nope"})
    plain = FakeRows({"image": Picture(), "label": Value()}, [{"image": noise(4, 4), "label": "eel"}])
    assert load_photos(plain).names == ("eel",)
    refused(FakeRows({"text": Value(), "label": Value()}, [{"text": "", "label": "eel"}]), "picture", "none")
    unlabelled = FakeRows(features, [{"image": noise(4, 4), "fine": -1, "coarse": 0}])
    refused(unlabelled, "rows/0", "label -1", columns={"label": "fine"})
    refused(FakeRows(features, []), "no rows")
    other = FakeRows({"image": Picture(), "label": ClassLabel(["x"])}, [])
    same = FakeRows({"image": Picture(), "label": ClassLabel(["y"])}, [{"image": noise(4, 4), "label": 0}])
    refused({"train": same, "test": other}, "different classes")
    not_decoded = FakeRows(
        {"image": Picture(), "label": Value()}, [{"image": {"bytes": b""}, "label": "eel"}]
    )
    with pytest.raises(InputError, match="holds dict, no picture"):
        open_picture(load_photos(not_decoded).samples[0].picture)
    for nothing in (None, {"bytes": None, "path": None}):
        rows = FakeRows({"image": Picture(), "label": Value()}, [{"image": nothing, "label": "eel"}])
        _, bad = check_pictures(load_photos(rows), "skip")
        assert [name for name, _ in bad] == ["rows/0/image"]
    mixed = FakeRows({"image": Picture(), "label": Value()}, [{"image": None, "label": x} for x in ("a", 1)])
    refused(mixed, "labels are of the types int, str")


def test_a_real_dataset(noise):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [noise(6, 5, n) for n in range(4)], "label": [0, 1, 1, 0]}
    split = datasets.Dataset.from_dict(rows, features=features)
    photos = load_photos(datasets.DatasetDict({"train": split, "test": split}))
    assert photos.counts() == {"a": 4, "b": 4}
    assert np.array_equal(np.asarray(open_picture(photos.samples[1].picture)), np.asarray(rows["image"][1]))
    assert len(load_photos(split).split(None)) == 4


def test_hub_names_need_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("hf:owner/name", "hf:owner/name", "pip install 'foveate[hf]'")


def test_hub_names_are_loaded_by_the_package(monkeypatch, noise):
    rows = FakeRows({"image": Picture(), "label": ClassLabel(["a"])}, [{"image": noise(4, 4), "label": 0}])

    def load_dataset(name):
        if name != "owner/name":
            raise RuntimeError("not\nthere")
        return {"train": rows}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert load_photos("hf:owner/name").samples[0].split == "train"
    refused("hf:owner/other", "hf:owner/other cannot be loaded (not there)")


def test_mask_files_need_picture_files(noise, tmp_path):
    rows = FakeRows({"image": Picture(), "label": ClassLabel(["a"])}, [{"image": noise(4, 4), "label": 0}])
    refused(rows, "these pictures are no files", masks=tmp_path)


def test_paths_may_begin_at_home(lay, monkeypatch):
    root = lay("cat/1.jpg", "dog/1.jpg")
    monkeypatch.setenv("HOME", str(root.parent))
    assert load_photos("~/photos").names == ("cat", "dog")
    monkeypatch.chdir(root.parent)
    assert all(s.picture.is_absolute() for s in load_photos(Path("photos")).samples)
