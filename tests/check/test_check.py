"""Photos with everything wrong that can be: what is found, what is written, and what is not cried over."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from foveate.check.checking import as_csv, check_photos
from foveate.check.labels import bad_names
from foveate.check.pictures import measure
from foveate.clip.weights import load_clip
from foveate.data.samples import Photos, Sample
from foveate.data.sources import load_photos
from foveate.world.photos import scene_photos

NAMES = ["red star", "blue ring", "green cross"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve drawn scenes of each class, in folders."""
    found = scene_photos(NAMES, 12, 5)
    for number, sample in enumerate(found.samples):
        file = tmp_path / "photos" / found.names[sample.label] / f"{number % 12:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        sample.picture.load().save(file)
    return tmp_path / "photos"


def test_photos_in_order_have_nothing_wrong(photos: Path):
    checked = check_photos(load_photos(photos), load_clip("tiny"))
    assert checked.counts() == {}
    assert len(checked.cleaned()) == 36


def test_what_is_planted_is_found(
    photos: Path, foveate: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    star = Image.open(photos / "red star/00.png")
    (photos / "blue ring/11.png").write_bytes((photos / "green cross/11.png").read_bytes())
    (photos / "green cross/11.png").unlink()  # a wrong label
    star.resize((48, 48)).save(photos / "red star/small.png")
    star.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "red star/mirror.jpg", quality=60)
    Image.open(photos / "red star/01.png").save(photos / "green cross/two.png")
    Image.open(photos / "red star/02.png").filter(ImageFilter.GaussianBlur(6)).save(
        photos / "red star/02.png"
    )
    white = np.full((64, 64, 3), 255, np.uint8)
    white[20:40, 20:40] = np.asarray(star.convert("RGB"))[20:40, 20:40]
    Image.fromarray(white).save(photos / "red star/03.png")
    Image.open(photos / "red star/04.png").resize((16, 16)).save(photos / "red star/04.png")
    (photos / "red star/05.png").write_bytes(b"no picture")
    said = foveate("check", "photos", "--json", "--write", "cleaned.csv")
    assert said.code == 0, said.err
    found = json.loads(said.out.replace(f"{tmp_path}/", ""))
    kinds = {kind: [one for one in found["findings"] if one["kind"] == kind] for kind in found["counts"]}
    assert [one["pictures"] for one in kinds["unreadable"]] == [["photos/red star/05.png"]]
    assert [one["pictures"] for one in kinds["two labels"]] == [
        ["photos/green cross/two.png", "photos/red star/01.png"]
    ]
    assert ["photos/red star/00.png", "photos/red star/mirror.jpg", "photos/red star/small.png"] in [
        one["pictures"] for one in kinds["twin"]
    ]
    wrong = {one["pictures"][0]: one["told"] for one in kinds["label"]}
    assert wrong["photos/blue ring/11.png"] == "looks like green cross"
    assert "photos/red star/02.png" in [one["pictures"][0] for one in kinds["blurred"]]
    assert "photos/red star/03.png" in [one["pictures"][0] for one in kinds["exposure"]]
    assert [one["pictures"] for one in kinds["tiny"]] == [["photos/red star/04.png"]]
    kept = {str(sample.picture.relative_to(tmp_path)) for sample in load_photos("cleaned.csv").samples}
    gone = {"photos/red star/05.png", "photos/green cross/two.png", "photos/red star/01.png"}
    gone |= {"photos/red star/mirror.jpg", "photos/red star/small.png", *wrong}
    assert len(kept) == found["pictures"] - len(gone)
    assert not kept & gone
    table = foveate("check", "photos")
    assert table.out.splitlines()[0] == "what\tclass\twhy\tpictures"
    assert "1 × pictures that cannot be read" in table.err


def test_a_group_that_leaks_is_named_with_what_it_fakes(
    photos: Path, foveate: Callable[..., object], monkeypatch: pytest.MonkeyPatch
):
    lines = ["image,label,split,day"]
    for number, file in enumerate(sorted(photos.rglob("*.png"))):
        day, split = f"day {number % 4}", "test" if number % 3 == 0 else "train"
        lines.append(f"{file.relative_to(photos)},{file.parent.name},{split},{day}")
    (photos / "list.csv").write_text("\n".join(lines))
    monkeypatch.chdir(photos.parent)
    said = foveate("check", "photos/list.csv", "--group", "day", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["leak"]["groups"] == 4
    assert found["leak"]["faked"] == pytest.approx(found["leak"]["among_own"] - found["leak"]["without_own"])
    leaks = [one for one in found["findings"] if one["kind"] == "leak"]
    assert {one["label"] for one in leaks} == {"day 0", "day 1", "day 2", "day 3"}
    for group, told in (("hour", "no column 'hour'"), ("label", "a group cannot be held back")):
        said = foveate("check", photos / "list.csv", "--group", group)
        assert (said.code, told in said.err) == (2, True), said.err
    (photos / "list.csv").write_text("\n".join([lines[0], *(line[:-1] + "0" for line in lines[1:])]))
    said = foveate("check", photos / "list.csv", "--group", "day")
    assert (said.code, "all pictures are of one group" in said.err) == (2, True)


def test_names_that_clip_reads_badly():
    names = [
        "7",
        "n01440764",
        "001.Albatross",
        "AnnualCrop",
        "AT&amp;T",
        "iPhone 12",
        "iPhone12",
        "tree frog",
    ]
    found = {one.name: one.reason for one in bad_names(names, load_clip("tiny").tokenizer)}
    assert found["AnnualCrop"].endswith("write 'annual crop'")
    assert found["001.Albatross"].endswith("write 'Albatross'")
    assert found["AT&amp;T"].endswith("write 'AT&T'")
    assert "the same as 'iPhone 12'" in found["iPhone12"]
    assert "no letters" in found["7"]
    assert "WordNet" in found["n01440764"]
    assert "tree frog" not in found
    assert "iPhone 12" not in found


def test_sharpness_is_the_variance_of_the_laplacian():
    grey = np.zeros((8, 8), np.uint8)
    grey[4, 4] = 100
    # Of 36 inner pixels one is -400 and its four neighbours are 100: mean 0, mean square (160000 + 40000)/36.
    look = measure(Image.fromarray(grey).convert("RGB"))
    assert look.sharpness == pytest.approx(200_000 / 36)
    assert (look.width, look.height, look.bright) == (8, 8, 0.0)
    assert look.dark == pytest.approx(63 / 64)


def test_a_class_of_one_picture_is_told_of(photos: Path, foveate: Callable[..., object]):
    for file in sorted((photos / "red star").glob("*.png"))[1:]:
        file.unlink()
    said = foveate("check", photos, "--json")
    few = [one for one in json.loads(said.out)["findings"] if one["kind"] == "few"]
    assert [(one["label"], one["told"].split(";")[0]) for one in few] == [("red star", "1 picture")]


def test_a_written_list_has_no_formula_and_is_read_again(tmp_path: Path):
    (tmp_path / "=cat").mkdir()
    drawn = scene_photos(["red star", "blue ring"], 1, 0).samples
    for name, sample in zip(("=1+1.png", "-a.png"), drawn, strict=True):
        sample.picture.load().save(tmp_path / "=cat" / name)
    files = [Sample(tmp_path / "=cat" / name, row) for row, name in enumerate(("=1+1.png", "-a.png"))]
    photos = Photos(("=cmd", "b"), tuple(files))
    (tmp_path / "=cat" / "list.csv").write_text(as_csv(photos, tmp_path / "=cat"))
    assert "'=1+1.png,'=cmd," in (tmp_path / "=cat" / "list.csv").read_text()
    again = load_photos(tmp_path / "=cat" / "list.csv")
    assert set(again.names) == {"=cmd", "b"}
    assert sorted(sample.picture.name for sample in again.samples) == ["-a.png", "=1+1.png"]


def taken(file: Path, time: str, camera: str = "X100", fraction: str = "0", serial: str = "7") -> None:
    """Make a picture one of a camera's, in place of its PNG."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Fujifilm", camera
    exif.get_ifd(0x8769).update({0x9003: f"2024:05:01 {time}", 0x9291: fraction, 0xA431: serial})
    Image.open(file).save(file.with_suffix(".jpg"), quality=95, exif=exif)
    file.unlink()


def test_bursts_are_groups(photos: Path, foveate: Callable[..., object]):
    """Of one camera, by its serial number too, and at most three seconds after one another."""
    stars = [photos / f"red star/{number:02}.png" for number in range(12)]
    taken(stars[0], "10:00:00", fraction="900")
    taken(stars[1], "10:00:03", fraction="800")  # 2.9 s
    taken(stars[2], "10:00:06")
    taken(stars[3], "10:00:09", fraction="500")  # 3.5 s
    taken(stars[4], "10:00:01", serial="8")
    taken(stars[5], "10:00:01", camera="X200")
    taken(stars[6], "99:00:00")
    taken(photos / "blue ring/00.png", "10:00:07")
    found = json.loads(foveate("check", photos, "--json").out)
    (burst,) = [one for one in found["findings"] if one["kind"] == "burst"]
    assert burst["label"] == "Fujifilm X100 7, 2024-05-01 10:00:00"
    names = [f"{Path(one).parent.name}/{Path(one).stem}" for one in burst["pictures"]]
    assert sorted(names) == ["blue ring/00", "red star/00", "red star/01", "red star/02", "red star/03"]
    assert found["leak"]["groups"] == 36 - 4
    for row, file in enumerate(sorted(photos.glob("*/*"))):
        split = photos / ("test" if row % 2 else "train") / file.parent.name
        split.mkdir(parents=True, exist_ok=True)
        file.rename(split / file.name)
    for folder in ("red star", "blue ring", "green cross"):
        (photos / folder).rmdir()
    for options in ((), ("--group", "burst")):
        found = json.loads(foveate("check", photos, *options, "--json").out)
        leaks = [one for one in found["findings"] if one["kind"] in ("leak", "burst")]
        assert [(one["kind"], one["label"]) for one in leaks] == [("leak", burst["label"])]


def test_no_burst_is_one_line(photos: Path, foveate: Callable[..., object]):
    said = foveate("check", photos, "--group", "burst")
    assert (said.code, "no two pictures are of one burst" in said.err) == (2, True), said.err
