"""`foveate data`: what is printed, and the exit code."""

import json
import pickle
import shutil

import pytest


def lines(text: str) -> dict[str, list[str]]:
    return {line.split("\t")[0]: line.split("\t") for line in text.splitlines()}


def test_half_a_root_is_told_set_by_set(foveate, small):
    root = small("food-101")
    said = foveate("data", "check", root)
    assert said.code == 0
    rows = lines(said.out)
    assert rows["Food101"][1:8] == ["other split", "CoOp", "2", "12", "2", "2", ""]
    assert rows["SUN397"] == ["SUN397", "https://vision.princeton.edu/projects/2010/SUN/"]  # where to have it
    assert said.out.count("not there") == 14
    assert "note: Food101: officially 101 classes, 50,500 train pictures, 20,200 val pictures" in said.err
    assert said.err.endswith("note: 14 not there, 1 other split\n")
    assert "SUN397: expected" not in said.err


def test_a_set_that_was_asked_for_must_be_there(foveate, small):
    root = small("food-101")
    assert foveate("data", "check", root, "food101").code == 0
    said = foveate("data", "check", root, "food101", "sun397")
    assert said.code == 1
    assert "SUN397: expected sun397/SUN397 or" in said.err
    assert foveate("data", "check", root / "food-101").code == 1  # none at all


def test_absent_pictures_make_a_fault(foveate, small):
    root = small("food-101")
    (root / "food-101" / "images" / "cat" / "2.png").unlink()
    said = foveate("data", "check", root)
    assert said.code == 1
    assert lines(said.out)["Food101"][1] == "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"
    assert "1 of 16 pictures are not there, cat/2.png" in said.err


def test_all_of_it_as_json(foveate, small):
    said = foveate("data", "check", small("food-101"), "--json", "Food101")
    (found,) = json.loads(said.out)
    assert (found["key"], found["state"], found["counts"]["train"]) == ("food101", "other split", 12)
    assert found["usable"] is True


def test_masks_that_were_given_must_be_some(foveate, small, tmp_path, write_masks):
    root = small("food-101")
    write_masks(tmp_path / "masks", ["other.png"])
    said = foveate("data", "check", root, "food101", "--masks", tmp_path / "masks")
    assert said.code == 1
    assert "no mask in it matches a picture" in said.err
    said = foveate("data", "check", root, "--masks", tmp_path / "nowhere")
    assert (said.code, said.err.count("\n")) == (2, 1)


def test_a_list_that_cannot_be_read_is_not_answered_with_the_address_of_pictures(foveate, small):
    root = small("food-101")
    (root / "food-101" / "split_zhou_Food101.json").write_text("[")
    said = foveate("data", "check", root, "food101")
    assert (said.code, "to be had" in said.out) == (1, False)
    assert "split_zhou_Food101.json: not valid JSON" in said.err


def test_drawn_sets_are_checked_where_there_are_any(foveate, drawn):
    said = foveate("data", "check", drawn)
    assert said.code == 0
    assert lines(said.out)["world-4"][1:9] == ["whole", "drawn", "8", "144", "16", "80", "", "144/144"]


def test_worlds_are_drawn_once(foveate, drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "root")
    said = foveate("data", "world", tmp_path / "root", "world-4", "world-5")
    rows = lines(said.out)
    assert (rows["world-4"][1], rows["world-5"][1]) == ("there before", "drawn")
    said = foveate("data", "world", tmp_path / "root", "dtd")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "DTD cannot be drawn, it is photographs" in said.err


def test_a_draw_is_written_and_one_of_others_is_imported(foveate, small, tmp_path, monkeypatch):
    root = small("food-101")
    said = foveate("data", "draw", root, "food101", "--shots", 2, "--out", tmp_path / "draws")
    path = tmp_path / "draws" / "food101" / "shot_2-seed_1.json"
    assert said.code == 0
    drawn = json.loads(path.read_text())
    row = lines(said.out)["food101"]
    assert row[1:] == ["4", "2", drawn["hash"][:12], str(path)]

    names = drawn["names"]
    items = {
        split: [
            {"_impath": f"/x/{p}", "_label": label, "_classname": names[label]} for p, label in drawn[split]
        ]
        for split in ("train", "val")
    }
    (tmp_path / "shot_2-seed_1.pkl").write_bytes(pickle.dumps(items))
    said = foveate(
        "data",
        "import",
        root,
        "food101",
        "--file",
        tmp_path / "shot_2-seed_1.pkl",
        "--out",
        tmp_path / "others",
    )
    assert said.code == 0
    assert "shot_2-seed_1.pkl: the same as foveate draws for 2 shots, seed 1" in said.err
    assert json.loads((tmp_path / "others/food101/shot_2-seed_1.json").read_text())["hash"] == drawn["hash"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("draw", "{root}", "food11", "--out", "x"), "did you mean 'food101'?"),
        (("shrink", "{root}"), "foveate data has no 'shrink'; there are check, world, paste, draw, import"),
        (("check",), "missing: ROOT"),
        (("check", "{root}/nowhere"), "no such folder; give the folder that the data sets are in"),
        (
            ("import", "{root}", "food101", "dtd", "--file", "a.pkl", "--out", "x"),
            "a draw is of one data set",
        ),
        (("import", "{root}", "food101", "--file", "a.pkl", "--out", "x"), "give --shots and --seed"),
    ],
)
def test_mistakes_are_one_line(foveate, small, words, message):
    root = small("food-101")
    said = foveate("data", *(word.format(root=root) for word in words))
    assert said.code == 2
    assert message in said.err
    assert said.err.count("\n") == 1


def test_help_names_the_five(foveate):
    said = foveate("data", "--help")
    assert said.code == 0
    assert all(f"\n  {name} " in said.out for name in ("check", "world", "paste", "draw", "import"))
    assert "Usage: foveate data draw ROOT SETS ... --out OUT" in foveate("data", "draw", "--help").out
