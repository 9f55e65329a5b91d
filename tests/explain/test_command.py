"""`foveate explain` from end to end, on drawn scenes with the embedded CLIP."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.classifier import Classifier
from foveate.data.sources import load_photos
from foveate.foreground.pictures import open_picture
from foveate.world.photos import scene_photos

Call = Callable[..., object]
NAMES = ["red star", "blue ring", "green heart", "yellow cross"]
MASKED = ["shift", "energy", "lift", "pointing", "overlap"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos/` and `masks/` of four classes, six scenes each, and models tuned on the first two."""
    top = tmp_path_factory.mktemp("world")
    for number, sample in enumerate(scene_photos(NAMES, 6, 1).samples):
        for kind, source in (("photos", sample.picture), ("masks", sample.mask)):
            file = top / kind / NAMES[sample.label] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            open_picture(source).save(file)
    for method in ("coop", "fvgpt+coop", "zeroshot"):
        classifier = Classifier(method, "tiny")
        settings = {"shots": 2, "classes": "base", "out": top / method, "recipe": {"epochs": 1}}
        classifier.fit(top / "photos", masks=top / "masks", **settings)
    return top


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))


def photo(world: Path, name: str = "red star", place: int = 0) -> Path:
    return sorted((world / "photos" / name).iterdir())[place]


# --- photos ---


@pytest.mark.parametrize("model", ["coop", "fvgpt+coop", "zeroshot"])
@pytest.mark.parametrize("how", ["hirescam", "gradcam", "rollout"])
def test_a_picture_and_a_line_for_each_photo(
    foveate: Call, world: Path, tmp_path: Path, model: str, how: str
):
    photos = [photo(world), photo(world, "blue ring")]
    said = foveate("explain", world / model, *photos, "--how", how, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert said.err == f"note: written to {tmp_path / 'out'}\n"
    rows = lines(said.out)
    assert list(rows[0]) == ["photo", "label", "probability", "picture"]
    assert [row["photo"] for row in rows] == [str(one) for one in photos]
    told = {p.photo: p for p in Classifier.from_pretrained(world / model).predict([*map(str, photos)])}
    for row in rows:
        assert row["label"] == told[row["photo"]].label
        assert row["probability"] == f"{told[row['photo']].probability:.2f}"
        with Image.open(row["picture"]) as drawn:
            assert drawn.format == "PNG"
            assert drawn.size == (12 + 2 * (256 + 12), 12 + 22 + 256 + 22 + 12)
            left, right = (np.asarray(drawn)[34:290, x : x + 256].astype(int) for x in (12, 280))
        with Image.open(row["photo"]) as seen:  # 64 x 64, enlarged
            small = np.asarray(Image.fromarray(left.astype(np.uint8)).resize((64, 64), Image.Resampling.BOX))
            assert np.abs(small.astype(int) - np.asarray(seen.convert("RGB"))).mean() < 3
        assert right.mean() < left.mean()  # darkened where nobody looks


def test_the_object_is_outlined_and_measured_where_there_are_masks(
    foveate: Call, world: Path, tmp_path: Path
):
    words = ("--masks", world / "masks", "--compare", "--about", "blue ring", "--out", tmp_path)
    said = foveate("explain", world / "fvgpt+coop", photo(world), *words)
    assert said.code == 0, said.err
    rows = lines(said.out)
    assert [row["method"] for row in rows] == ["zeroshot", "coop", "fvgpt+coop"]
    assert {row["asked about"] for row in rows} == {"blue ring"}
    assert all(0 <= float(row["energy"]) <= 1 for row in rows)
    with Image.open(rows[0]["picture"]) as drawn:
        pixels = np.asarray(drawn)
    assert pixels.shape[1] == 12 + 4 * (256 + 12)
    line = (pixels == (0, 229, 255)).all(-1)
    assert line[:, :268].sum() > 50
    assert not line[:, 280:].any()


def test_names_besides_the_trained_ones_can_be_asked_about(foveate: Call, world: Path, tmp_path: Path):
    words = ("--classes", "green heart", "--about", "green heart", "--out", tmp_path)
    said = foveate("explain", world / "fvgpt+coop", photo(world, "green heart"), *words)
    assert said.code == 0, said.err
    assert lines(said.out)[0]["label"] == "green heart"


def test_photos_of_one_name_get_pictures_of_their_own(foveate: Call, world: Path, tmp_path: Path):
    twin = tmp_path / "twin" / photo(world).name
    twin.parent.mkdir()
    shutil.copy(photo(world, "blue ring"), twin)
    said = foveate("explain", world / "coop", photo(world), twin, "--out", tmp_path / "out")
    stem = twin.stem
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{stem}-2.png", f"{stem}.png"]
    assert [Path(row["picture"]).name for row in lines(said.out)] == [f"{stem}.png", f"{stem}-2.png"]


# --- labelled pictures ---


def test_the_table_the_page_and_the_curve(foveate: Call, world: Path, tmp_path: Path):
    pytest.importorskip("matplotlib")
    words = ("--data", world / "photos", "--masks", world / "masks", "--steps", 2, "--curve")
    said = foveate("explain", world / "fvgpt+coop", *words, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    rows = lines(said.out)
    assert list(rows[0]) == ["method", "accuracy", *MASKED, "deletion", "insertion"]
    assert [row["method"] for row in rows] == ["zeroshot", "coop", "fvgpt+coop"]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"table.csv", "table.json", "pictures.csv", "gallery.html", "curve.png"}
    kept = json.loads((tmp_path / "out" / "table.json").read_text())
    assert (kept["split"], kept["branch"], kept["pictures"], kept["steps"]) == ("base", "base", 12, 2)
    with (tmp_path / "out" / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["over"] for row in table] == ["all", "right", "wrong"] * 3
    for row, line in zip(rows, [one for one in table if one["over"] == "all"], strict=True):
        mean = kept["methods"][row["method"]]["all"]
        assert row["energy"] == f"{mean['energy']:.3f}" == f"{float(line['energy']):.3f}"
        measured = Classifier.from_pretrained(world / "fvgpt+coop")
        one = next(c for c in [measured, *measured.simpler()] if c.method_name == row["method"])
        photos = load_photos(world / "photos", masks=world / "masks")
        answers = one.evaluate(photos, "base", shift=True)
        assert float(row["accuracy"]) == pytest.approx(answers.accuracy, abs=0.01)
        assert float(row["shift"]) == pytest.approx(answers.shift, abs=1e-3)
    with (tmp_path / "out" / "pictures.csv").open() as file:
        pictures = list(csv.DictReader(file))
    assert len(pictures) == 3 * 12
    own = [float(row["lift"]) for row in pictures if row["method"] == "coop"]
    assert sum(own) / 12 == pytest.approx(kept["methods"]["coop"]["all"]["lift"])
    page = (tmp_path / "out" / "gallery.html").read_text()
    shown = page.count("<article>")
    assert shown == sum(kept["changed"].values())


def test_without_data_it_takes_what_fit_left_over(foveate: Call, world: Path, tmp_path: Path):
    said = foveate("explain", world / "coop", "--steps", 0, "--out", tmp_path)
    assert said.code == 0, said.err
    kept = json.loads((tmp_path / "table.json").read_text())
    assert kept["pictures"] == 2 * (6 - 2)
    assert list(kept["methods"]) == ["zeroshot", "coop"]
    assert not (tmp_path / "curve.png").exists()


@pytest.mark.parametrize(("split", "branch", "number"), [("new", "new", 12), ("all", "mixed", 24)])
def test_new_classes(foveate: Call, world: Path, tmp_path: Path, split: str, branch: str, number: int):
    words = ("--data", world / "photos", "--split", split, "--steps", 0, "--out", tmp_path)
    assert foveate("explain", world / "fvgpt+coop", *words).code == 0
    kept = json.loads((tmp_path / "table.json").read_text())
    assert (kept["branch"], kept["pictures"]) == (branch, number)
    other = foveate("explain", world / "fvgpt+coop", *words, "--branch", "base")
    assert json.loads((tmp_path / "table.json").read_text())["branch"] == "base"
    assert other.code == 0


def test_without_masks_their_columns_are_left_out_and_that_is_said(
    foveate: Call, world: Path, tmp_path: Path
):
    plain = tmp_path / "plain"
    shutil.copytree(world / "photos", plain)
    said = foveate("explain", world / "coop", "--data", plain, "--steps", 1, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert list(lines(said.out)[0]) == ["method", "accuracy", "deletion", "insertion"]
    assert "no masks: shift, energy, lift, pointing, overlap are left out" in said.err
    refused = foveate("explain", world / "coop", "--data", plain, "--curve", "--out", tmp_path / "other")
    assert (refused.code, refused.out) == (2, "")
    assert "--curve needs masks" in refused.err
    assert not (tmp_path / "other").exists()


def test_some_masks_count_and_are_counted(foveate: Call, world: Path, tmp_path: Path):
    some = tmp_path / "masks"
    shutil.copytree(world / "masks", some)
    next((some / "blue ring").iterdir()).unlink()
    words = ("--data", world / "photos", "--masks", some, "--steps", 0, "--out", tmp_path / "out")
    said = foveate("explain", world / "coop", *words)
    assert said.code == 0, said.err
    assert "over the 11 of 12 pictures with an object in view" in said.err


# --- mistakes ---


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("PHOTO", "--about", "heron"), "class 'heron' is none of those asked about: blue ring, green heart"),
        (("PHOTO", "--about", "label"), "--about label: photos have no label; name a class"),
        (("PHOTO", "--layer", "9"), "layer is 9: the image tower has 6 blocks, give -6 to 5"),
        (("PHOTO", "--curve"), "--curve is for labelled pictures: leave the photos out"),
        (("PHOTO", "--data", "DATA"), "--data is for labelled pictures"),
        (("--classes", "heron"), "--classes is for photos: name some"),
        (("PHOTO", "--only"), "--only leaves no names to choose from"),
        (("--steps", "-1"), "steps is -1"),
        (("--bins", "0"), "--bins is 0"),
        (("--cases", "-1"), "--cases is -1"),
        (("--tau", "0"), "tau is 0.0"),
        (("--how", "lime"), "--how is 'lime': give one of hirescam, gradcam, rollout"),
        (("nowhere.png",), "nowhere.png"),
        (("PHOTO", "--masks", "nowhere"), "nowhere: no such folder of masks"),
        (("--data", "nowhere"), "nowhere: no such file or folder"),
        (("--out", "FILE"), "is a file: give a folder to write to with --out"),
        (("--out", "FILE/below"), "is a file: give a folder to write to with --out"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    foveate: Call, world: Path, tmp_path: Path, words: tuple[str, ...], says: str
):
    file = tmp_path / "file"
    file.touch()
    known = {"PHOTO": photo(world), "DATA": world / "photos", "FILE": file, "FILE/below": file / "below"}
    given = [known.get(word, word) for word in words]
    out = [] if "--out" in words else ["--out", tmp_path / "out"]
    said = foveate("explain", world / "fvgpt+coop", *given, *out)
    assert (said.code, said.out) == (2, "")
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_none(foveate: Call, world: Path, tmp_path: Path):
    said = foveate("explain", world / "photos", photo(world), "--out", tmp_path / "out")
    assert (said.code, said.err.count("\n")) == (2, 1)


def test_bad_photos_can_be_left_out(foveate: Call, world: Path, tmp_path: Path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    words = (world / "coop", photo(world), bad, "--out", tmp_path / "out")
    assert foveate("explain", *words).code == 2
    said = foveate("explain", *words, "--on-bad", "skip")
    assert said.code == 0
    assert len(lines(said.out)) == 1
    assert "left out 1 of 2 pictures" in said.err
