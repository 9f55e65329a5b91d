"""Draws as files: equal to the field's lists, safe to read, and refused where they are of another set."""

import hashlib
import json
import pickle
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from foveate.data.samples import Photos, Sample
from foveate.datasets.catalogue import find
from foveate.datasets.draws import (
    import_draw,
    make_draw,
    read_draw,
    read_foreign,
    shots_and_seed,
    take_draw,
    write_draw,
)
from foveate.datasets.opening import open_set
from foveate.datasets.splits import official_split
from foveate.errors import InputError

# Appendix A of the specification: 16 shots, seed 1; 100 items of each train label and 30 of each val label.
GOLDEN = [17, 72, 97, 8, 32, 15, 63, 57, 60, 83, 48, 26, 12, 62, 3, 49]
GOLDEN += [55, 77, 97, 98, 0, 89, 57, 34, 92, 29, 75, 13, 40, 3, 2, 83]
GOLDEN_VAL = [17, 0, 28, 12, 21, 6, 13, 23]


@pytest.fixture
def photos() -> Photos:
    rows = [(label, "train", n) for label in (0, 1) for n in range(100)]
    rows += [(label, "val", n) for label in (0, 1) for n in range(30)]
    samples = [Sample(Path(f"/data/x/{'ab'[label]}/{s}_{n}.jpg"), label, None, s) for label, s, n in rows]
    return Photos(("ant", "house cat"), tuple(samples))


def official(key: str, folder: str = "") -> Photos:
    split = official_split(find(key))
    assert split is not None
    samples = [Sample(Path("/data", folder) / row.path, row.label, None, row.split) for row in split.rows]
    return Photos(split.names, tuple(samples))


def test_a_draw_is_the_golden_one(photos):
    draw = make_draw(photos, "dtd", 16, 1)
    assert [path for path, _ in draw.train] == [
        f"{'ab'[i // 16]}/train_{n}.jpg" for i, n in enumerate(GOLDEN)
    ]
    assert [path for path, _ in draw.val] == [f"{'ab'[i // 4]}/val_{n}.jpg" for i, n in enumerate(GOLDEN_VAL)]
    assert [label for _, label in draw.train] == [0] * 16 + [1] * 16


def test_caltech_is_coops_own_list(real):
    """The list beside these pictures is what CoOp's code wrote for 16 shots and seed 1."""
    written = json.loads((real("caltech101/caltech-101") / "split_zhou_Caltech101.json").read_text())
    draw = make_draw(official("caltech101"), "caltech101", 16, 1)
    assert draw.train == tuple((path, label) for path, label, _ in written["train"])
    assert draw.val == tuple((path, label) for path, label, _ in written["val"])


# SHA-256 of the lists of 16 shots that https://github.com/linzhiqiu/cross_modal_adaptation publishes
# (commit ac9077ee, `indices/`), made by CoOp's procedure: folder, file and label of train and of val.
PUBLISHED = {
    ("caltech101", 2): "a80d719f32e58827",
    ("dtd", 3): "b21374554bb511bd",
    ("eurosat", 1): "34602cf3dc31537d",
    ("oxford_flowers", 2): "8418c4abd8235b77",
    ("oxford_pets", 3): "e276970441f405b7",
    ("stanford_cars", 1): "58cfe3fd675ff037",
    ("ucf101", 2): "a61ac485c60326a4",
}
FOLDERS = {"oxford_flowers": "jpg", "oxford_pets": "images"}
"""Where pictures have no folder for their class."""


@pytest.mark.parametrize(("key", "seed"), PUBLISHED)
def test_draws_are_the_published_ones(key, seed):
    draw = make_draw(official(key, FOLDERS.get(key, "")), key, 16, seed)
    lists = json.dumps([draw.train, draw.val]).encode()
    assert hashlib.sha256(lists).hexdigest()[:16] == PUBLISHED[key, seed]


def test_a_draw_comes_back_from_its_file(photos, tmp_path):
    draw = make_draw(photos, "dtd", 16, 1)
    write_draw(tmp_path / "draw.json", draw)
    assert read_draw(tmp_path / "draw.json") == draw
    assert make_draw(photos, "dtd", 16, 2).hash != draw.hash
    moved = photos.with_samples(
        [replace(one, picture=Path("/elsewhere", *one.picture.parts[2:])) for one in photos.samples]
    )
    assert make_draw(moved, "dtd", 16, 1).hash == draw.hash
    taken = take_draw(moved, read_draw(tmp_path / "draw.json"))
    assert [one.picture.stem for one in taken.train.samples] == [f"train_{n}" for n in GOLDEN]
    assert [one.picture.parts[1] for one in taken.train.samples] == ["elsewhere"] * 32
    assert (len(taken.val), len(taken.rest), taken.short) == (8, 168, {})


def test_files_that_are_no_draws(photos, tmp_path):
    path = tmp_path / "draw.json"
    with pytest.raises(InputError, match=r"draw.json: is no few-shot draw"):
        read_draw(path)
    write_draw(path, make_draw(photos, "dtd", 16, 1))
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"schema": 2}))
    with pytest.raises(InputError, match="was written by a newer foveate: upgrade"):
        read_draw(path)
    path.write_text(json.dumps(whole | {"train": whole["train"][::-1]}))
    with pytest.raises(InputError, match="it was edited; draw anew"):
        read_draw(path)
    path.write_text(json.dumps(whole | {"train": [["a/train_1.jpg", 7]]}))
    with pytest.raises(InputError, match="a label is none of its classes"):
        read_draw(path)
    path.write_text(json.dumps(whole | {"shots": "16"}))
    with pytest.raises(InputError, match="shots is '16', which it cannot be"):
        read_draw(path)


def test_draws_of_another_set_are_refused(photos):
    draw = make_draw(photos, "dtd", 16, 1)
    turned = Photos(photos.names[::-1], tuple(replace(one, label=1 - one.label) for one in photos.samples))
    with pytest.raises(InputError, match="this set's are in another order; draw anew"):
        take_draw(turned, draw)
    with pytest.raises(InputError, match="this set's are others; draw anew"):
        take_draw(replace(photos, names=("ant", "bee")), draw)
    fewer = photos.with_samples([one for one in photos.samples if one.picture.stem != "train_17"])
    with pytest.raises(InputError, match=r"a/train_17.jpg is no picture of this set"):
        take_draw(fewer, draw)
    resplit = photos.with_samples([replace(one, split="test") for one in photos.samples])
    with pytest.raises(InputError, match=r"a/train_17.jpg was drawn from train and is in test here"):
        take_draw(resplit, draw)


# --- lists of others ---------------------------------------------------------------------------------------


@pytest.fixture
def datum(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class as Dassl has it, where pickles will ask for it."""
    module = ModuleType("dassl_of_tests")

    class Datum:
        def __init__(self, path: str, label: int, name: str):
            self._impath, self._label, self._domain, self._classname = path, label, 0, name

    Datum.__module__, Datum.__qualname__ = module.__name__, "Datum"
    module.Datum = Datum
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return Datum


def foreign(
    datum: type, photos: Photos, draw, above: str = "/home/somebody/DATA/x"
) -> dict[str, list[object]]:
    """The draw as CoOp's code keeps it."""
    return {
        split: [
            datum(f"{above}/{path}", label, photos.names[label].replace(" ", "_")) for path, label in rows
        ]
        for split, rows in (("train", draw.train), ("val", draw.val))
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_of_coops_is_the_draw(photos, datum, tmp_path, protocol, monkeypatch):
    draw = make_draw(photos, "dtd", 16, 1)
    path = tmp_path / "shot_16-seed_1.pkl"
    path.write_bytes(pickle.dumps(foreign(datum, photos, draw), protocol=protocol))
    monkeypatch.delitem(sys.modules, "dassl_of_tests")  # nothing of it is needed to read it
    notes: list[str] = []
    found = import_draw(path, photos, "dtd", 16, 1, notes.append)
    assert (found.train, found.val, found.hash) == (draw.train, draw.val, draw.hash)
    assert len(notes) == 1
    assert "1 of 2 class names are spelled otherwise there, such as 'house_cat' for 'house cat'" in notes[0]
    assert found.origin == "shot_16-seed_1.pkl"


def test_a_pickle_of_imagenets_has_no_val(photos, datum, tmp_path):
    draw = make_draw(photos, "dtd", 16, 1)
    path = tmp_path / "shot_16-seed_1.pkl"
    path.write_bytes(pickle.dumps({"train": foreign(datum, photos, draw)["train"]}))
    assert import_draw(path, photos, "imagenet", 16, 1).val == ()


def test_accents_of_another_unicode_form_are_the_same_class(photos, datum, tmp_path):
    ours, theirs = (
        replace(photos, names=(unicodedata.normalize(form, "café"), "bee")) for form in ("NFC", "NFD")
    )
    draw = make_draw(ours, "dtd", 16, 1)
    path = tmp_path / "shot_16-seed_1.pkl"
    path.write_bytes(pickle.dumps(foreign(datum, theirs, draw)))
    assert import_draw(path, ours, "dtd", 16, 1).train == draw.train
    path.write_bytes(pickle.dumps(foreign(datum, replace(photos, names=("a\u202eb", "bee")), draw)))
    with pytest.raises(InputError, match=r"shot_16-seed_1.pkl: class name .* has an unseen character"):
        import_draw(path, ours, "dtd", 16, 1)


def test_lines_of_2sfs_are_the_draw(photos, datum, tmp_path):
    draw = make_draw(photos, "dtd", 16, 1)
    for split, items in foreign(datum, photos, draw).items():
        lines = [json.dumps(vars(item)) for item in items]
        (tmp_path / f"shot_16-seed_1_{split}.jsonl").write_text("\n".join(lines) + "\n")
    found = import_draw(tmp_path / "shot_16-seed_1_train.jsonl", photos, "dtd", 16, 1)
    assert found.hash == draw.hash
    assert shots_and_seed(tmp_path / "shot_16-seed_1_train.jsonl") == (16, 1)
    assert shots_and_seed(tmp_path / "mine.jsonl") is None


class Evil:
    """Pickles into a call of a function of the system's."""

    def __init__(self, call, *arguments: object):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("place", ["top", "list", "state"])
def test_pickles_with_code_are_refused_and_nothing_of_them_runs(photos, datum, tmp_path, place):
    trace = tmp_path / "ran"
    evil = Evil(Path.touch, trace)
    held = datum("/a/train_1.jpg", 0, "ant")
    held.more = evil
    content = {"top": evil, "list": {"train": [evil]}, "state": {"train": [held]}}[place]
    path = tmp_path / "shot_16-seed_1.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"asks for .*, which no list of pictures needs; it was not run"):
        import_draw(path, photos, "dtd", 16, 1)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # what it would have done
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is damaged, or no pickle \(EOFError\)"),
        (b"\x80\x05garbage", "is damaged, or no pickle"),
        (pickle.dumps([1, 2]), "expected a table with train and val lists"),
        (pickle.dumps({"train": 3}), "train: is no list of pictures"),
        (pickle.dumps({"train": [3]}), r"train\[0\]: has no _impath, _label, _classname"),
        (pickle.dumps({"train": []}), "holds no training pictures"),
    ],
)
def test_pickles_that_are_no_draws(photos, tmp_path, content, message):
    path = tmp_path / "shot_16-seed_1.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        import_draw(path, photos, "dtd", 16, 1)


def test_other_files_and_other_sets(photos, datum, tmp_path):
    draw = make_draw(photos, "dtd", 16, 1)
    with pytest.raises(InputError, match="no such file"):
        read_foreign(tmp_path / "nowhere.pkl")
    (tmp_path / "draw.txt").write_text("")
    with pytest.raises(InputError, match=r"is neither a .pkl of CoOp's nor a .jsonl of 2SFS's"):
        read_foreign(tmp_path / "draw.txt")
    (tmp_path / "broken.jsonl").write_text('{"_impath": \n')
    with pytest.raises(InputError, match=r"broken.jsonl, line 1: not valid JSON"):
        read_foreign(tmp_path / "broken.jsonl")
    path = tmp_path / "shot_16-seed_1.pkl"
    path.write_bytes(pickle.dumps(foreign(datum, replace(photos, names=("bee", "house cat")), draw)))
    with pytest.raises(
        InputError, match="class 0 is 'bee' there and 'ant' in this set: its classes are others"
    ):
        import_draw(path, photos, "dtd", 16, 1)
    wrong = photos.with_samples([replace(one, label=1 - one.label) for one in photos.samples])
    path.write_bytes(pickle.dumps(foreign(datum, photos, draw)))
    with pytest.raises(InputError, match=r"train_17.jpg is 'ant' there and 'house cat' in this set"):
        import_draw(path, wrong, "dtd", 16, 1)


def test_lists_that_are_no_such_draw_are_refused(photos, datum, tmp_path):
    draw = make_draw(photos, "dtd", 16, 1)
    path = tmp_path / "shot_16-seed_1.pkl"
    path.write_bytes(pickle.dumps(foreign(datum, photos, draw)))
    with pytest.raises(InputError, match="is no draw of 8 shots, it has up to 16 pictures of a class"):
        import_draw(path, photos, "dtd", 8, 1)
    double = foreign(datum, photos, replace(draw, train=(*draw.train[1:], draw.train[-1])))
    path.write_bytes(pickle.dumps(double))
    with pytest.raises(InputError, match=r"b/train_83.jpg is in it twice, so it is no draw"):
        import_draw(path, photos, "dtd", 16, 1)
    lines = tmp_path / "shot_16-seed_1_train.jsonl"
    lines.write_bytes(b'{"_impath": "\xe9"}')
    with pytest.raises(InputError, match=r"_train.jsonl, line 1: not UTF-8 text"):
        import_draw(lines, photos, "dtd", 16, 1)


def test_a_draw_of_real_pictures_is_taken_from_any_layout(real, link, tmp_path):
    home = real("dtd10/dtd")
    draw = make_draw(open_set(link("dtd", home), "dtd"), "dtd", 4, 1)
    write_draw(tmp_path / "draw.json", draw)
    root = link("dtd/dtd/dtd", home) if not (tmp_path / "root" / "dtd").exists() else tmp_path / "root"
    taken = take_draw(open_set(root, "dtd"), read_draw(tmp_path / "draw.json"))
    assert set(taken.train.counts().values()) == {4}
    assert taken.train.samples[0].picture.is_file()
