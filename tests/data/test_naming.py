"""Names and splits as people write them."""

from pathlib import Path

import pytest

from foveate.data.naming import (
    clean_name,
    in_order,
    near_names,
    read_class_names,
    split_names,
    split_of_folder,
    unusual,
)
from foveate.errors import InputError


def test_names_become_readable():
    assert clean_name(" big__dog\t") == "big dog"
    assert clean_name("cafe\u0301") == "caf\xe9"
    assert clean_name("\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645")  # a joiner is a letter's form there


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("caf\udce9", "is no text in UTF-8 (U+DCE9)"),
        ("\ud800", "is no text in UTF-8"),
        ("cat\u200b", "unseen character (U+200B)"),
        ("ca\u200dt", "unseen character (U+200D)"),
        ("\ufeffcat", "unseen character (U+FEFF)"),
        ("\x1b[31mcat", "unseen character (U+001B)"),
        ("a\0b", "unseen character (U+0000)"),
        ("a\u202eb", "unseen character (U+202E)"),
    ],
)
def test_unseen_characters_are_refused(name: str, says: str):
    with pytest.raises(InputError) as caught:
        clean_name(name)
    assert says in str(caught.value)
    assert str(caught.value).isascii()


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("val2017", "val"),
        ("train_2012", "train"),
        ("train2", None),
        ("test 1", None),
        *(("train", "train"), ("Training Set", "train"), ("seg_train", "train"), ("train-images", "train")),
        *(("val", "val"), ("validate", "val"), ("dev", "val"), ("TEST", "test"), ("test_data", "test")),
        *(("bullet train", None), ("trainer", None), ("train_test", None), ("sample", None), ("", None)),
    ],
)
def test_folders_named_after_splits(folder: str, split: str | None):
    assert split_of_folder(folder) == split


def test_numbers_are_in_the_order_of_numbers():
    assert in_order(["10", "9", "-1"]) == ["-1", "9", "10"]
    assert in_order(["1" * 5000, "2" * 4999]) == ["2" * 4999, "1" * 5000]
    assert in_order(["10", "9", "x"]) == ["10", "9", "x"]


def test_names_of_an_option(tmp_path: Path):
    assert split_names(None) == split_names("") == split_names(" , ") == []
    assert split_names("barn owl, heron") == ["barn owl", "heron"]
    assert split_names('"salt, pepper", heron') == ["salt, pepper", "heron"]
    assert split_names("salt, pepper,heron", ["Salt,_pepper"]) == ["salt, pepper", "heron"]
    (tmp_path / "names.txt").write_text("great white shark, white shark\n\ngoldfish\n", "utf-8-sig")
    assert split_names(str(tmp_path / "names.txt")) == ["great white shark, white shark", "goldfish"]


def test_class_names_of_folders_with_spaces(tmp_path: Path):
    file = tmp_path / "classnames.txt"
    file.write_text("red box a box\nred\tthe colour\nother x\nblue\n")
    assert read_class_names(file, ["red", "red box", "blue"]) == {"red": "the colour", "red box": "a box"}


def test_names_that_are_nearly_another():
    found = near_names(["Apples", "greentriangle", "pear"], ["Apple", "green triangle", "peach"])
    assert found == [("Apples", "Apple"), ("greentriangle", "green triangle")]


def test_names_that_are_no_words_are_told_of_once():
    for names in (
        ["0", "1", "8.0"],
        ["n01440764", "n01443537"],
        ["AnnualCrop", "SeaLake"],
        ["001.Albatross"],
        ["class 0", "Label_1"],
    ):
        assert [note.partition(" say")[0].count("CLIP") for note in unusual(names)] == [1]
        assert repr(names[0]) in unusual(names)[0]
        assert "classnames.txt" in unusual(names)[0]
    assert unusual(["cat", "dog", "A300", "iPhone", "707-320", "first class"]) == []
