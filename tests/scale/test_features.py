"""Features in shards: the numbers, what is done anew and what is not, and what a person is told."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from foveate.clip.weights import load_clip
from foveate.data import feature_maker
from foveate.data.feature_maker import FeatureJob
from foveate.data.feature_shards import FeatureShards
from foveate.data.feature_store import shard_path
from foveate.data.features import make_features
from foveate.data.loader import PictureSet
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.foreground.views import foreground_view

Call = Callable[..., object]
Files = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def data(shapes: Callable[..., Path]) -> Path:
    """Three classes with four pictures each."""
    return shapes(pictures=4)


@pytest.fixture
def job(clip_folder: Path) -> FeatureJob:
    return FeatureJob(clip=str(clip_folder), shard=5, batch_size=2)


def _changed(job: FeatureJob, **changes: object) -> FeatureJob:
    return FeatureJob(**{**job.__dict__, **changes})


def _opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of each shard that is made from now on."""
    made: list[int] = []
    write = feature_maker.write_shard

    def recorded(path: Path, *rest: object) -> None:
        made.append(int(path.stem.removeprefix("shard-")))
        write(path, *rest)

    monkeypatch.setattr(feature_maker, "write_shard", recorded)
    return made


# --- the numbers ---


def test_a_feature_is_what_the_image_tower_says_of_the_centred_view(
    foveate: Call, data: Path, tmp_path: Path, clip_folder: Path
):
    out = tmp_path / "features"
    said = foveate("features", data / "photos", "--clip", clip_folder, "--out", out, "--shard", 5)
    assert (said.code, said.err) == (0, "")
    assert said.out == f"features of 12 pictures in 3 shards: {out}\n"
    clip, photos = load_clip(clip_folder), load_photos(data / "photos")
    pictures = PictureSet(photos, 32)
    kept = FeatureShards.open(out)
    assert len(kept) == len(kept.names) == 12
    assert kept.classes == photos.names
    assert kept.labels.tolist() == [sample.label for sample in photos.samples]
    for row, name in enumerate(kept.names):
        seen = clip.vision(pictures.item(row).image[None])[0]
        torch.testing.assert_close(kept.get(name), seen, atol=1e-5, rtol=1e-5)
        assert kept.row(name) == row
        assert torch.equal(kept.tensor()[row], kept.get(name))
        assert (data / "photos" / name).is_file()
    assert torch.equal(torch.cat(list(kept.shards())), kept.tensor())
    assert kept.key["weights"] == clip.fingerprint()


def test_a_foreground_feature_is_that_of_the_view_times_its_mask(data: Path, tmp_path: Path, job: FeatureJob):
    (data / "masks/red disc/2.png").unlink()
    photos = load_photos(data / "photos", masks=data / "masks")
    made = make_features(photos, tmp_path / "f", _changed(job, masks=True))
    kept, clip = FeatureShards.open(tmp_path / "f"), load_clip(job.clip)
    assert (made.pictures, kept.parts) == (12, ("image", "foreground"))
    for row, sample in enumerate(photos.samples):
        found = kept.tensor("foreground")[row]
        if sample.mask is None:  # there is no foreground, which no number can be mistaken for
            assert found.isnan().all()
            assert kept.areas[row].isnan()
            continue
        batch = next(PictureSet(photos.with_samples([sample]), 32).batches(None, 1))
        seen = clip.vision(foreground_view(batch.images, batch.masks))[0]
        torch.testing.assert_close(found, seen, atol=1e-5, rtol=1e-5)
        assert kept.areas[row] == batch.areas[0]


def test_half_precision_halves_the_file_and_rounds_the_numbers(data: Path, tmp_path: Path, job: FeatureJob):
    photos = load_photos(data / "photos")
    for kept in ("float32", "float16"):
        make_features(photos, tmp_path / kept, _changed(job, dtype=kept))
    whole, half = (FeatureShards.open(tmp_path / kept).tensor() for kept in ("float32", "float16"))
    assert half.dtype == torch.float16
    assert torch.equal(half, whole.half())


def test_a_folder_without_classes_and_a_list_have_features_too(
    foveate: Call, data: Path, tmp_path: Path, clip_folder: Path
):
    flat = data / "photos" / "red disc"
    assert foveate("features", flat, "--clip", clip_folder, "--out", tmp_path / "flat").code == 0
    kept = FeatureShards.open(tmp_path / "flat")
    assert kept.names == ("0.png", "1.png", "2.png", "3.png")
    rows = "".join(f"red disc/{n}.png,red disc\n" for n in (3, 1))
    (data / "photos" / "list.csv").write_text("image,label\n" + rows)
    listed = data / "photos" / "list.csv"
    assert foveate("features", listed, "--clip", clip_folder, "--out", tmp_path / "listed").code == 0
    assert torch.allclose(FeatureShards.open(tmp_path / "listed").tensor(), kept.tensor()[[3, 1]], atol=1e-5)


def test_two_processes_write_the_same_bytes(
    foveate: Call, data: Path, tmp_path: Path, clip_folder: Path, files: Files, one_thread: None
):
    words = ("--masks", data / "masks", "--clip", clip_folder, "--shard", 4, "--batch-size", 3)
    for out, more in (("one", ()), ("two", ("--workers", 2))):
        said = foveate("features", data / "photos", *words, "--out", tmp_path / out, *more)
        assert said.code == 0, said.err
    assert files(tmp_path / "one") == files(tmp_path / "two")


# --- going on ---


def test_finished_shards_are_not_made_again(
    data: Path, tmp_path: Path, job: FeatureJob, files: Files, monkeypatch: pytest.MonkeyPatch
):
    photos, out = load_photos(data / "photos"), tmp_path / "f"
    make_features(photos, out, job)
    before, made = files(out), _opened(monkeypatch)
    shard_path(out, 1).unlink()
    with pytest.raises(InputError, match="not finished, 2 of 3 shards are there"):
        FeatureShards.open(out)
    counts: list[tuple[int, int]] = []
    assert make_features(photos, out, job, on_count=lambda *count: counts.append(count)).reused == 2
    assert made == [1]
    assert counts == [(5, 12), (7, 12), (12, 12)]
    assert files(out) == before


def test_a_damaged_shard_is_noticed_and_made_anew(
    data: Path, tmp_path: Path, job: FeatureJob, files: Files, monkeypatch: pytest.MonkeyPatch
):
    photos, out = load_photos(data / "photos"), tmp_path / "f"
    make_features(photos, out, job)
    before, made = files(out), _opened(monkeypatch)
    content = bytearray(before["shard-00002.safetensors"])
    content[-1] ^= 1
    shard_path(out, 2).write_bytes(content)
    with pytest.raises(InputError, match=r"shard-00002.safetensors is damaged .*checksum.*makes it anew"):
        FeatureShards.open(out).tensor()
    assert FeatureShards.open(out).get(FeatureShards.open(out).names[0]).shape == (32,)
    with pytest.warns(UserWarning, match="set aside as shard-00002.safetensors.damaged"):
        make_features(photos, out, job)
    assert made == [2]
    (out / "shard-00002.safetensors.damaged").unlink()
    assert files(out) == before
    shard_path(out, 0).write_bytes(before["shard-00000.safetensors"][:100])
    with pytest.warns(UserWarning, match="set aside"):
        make_features(photos, out, job)
    assert files(out)["shard-00000.safetensors"] == before["shard-00000.safetensors"]


def test_a_picture_that_was_replaced_costs_its_own_shard(
    data: Path, tmp_path: Path, job: FeatureJob, monkeypatch: pytest.MonkeyPatch
):
    photos, out = load_photos(data / "photos"), tmp_path / "f"
    make_features(photos, out, job)
    made = _opened(monkeypatch)
    picture = photos.samples[7].picture
    assert isinstance(picture, Path)
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(picture)
    make_features(photos, out, job)
    assert made == [1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "float16"}, "dtype was 'float32', now 'float16'"),
        ({"masks": True}, "masks was None, now "),
        ({"shard": 4}, "shard was 5, now 4"),
    ],
)
def test_features_of_two_kinds_do_not_share_a_folder(
    data: Path, tmp_path: Path, job: FeatureJob, files: Files, changes: dict[str, object], says: str
):
    photos = load_photos(data / "photos", masks=data / "masks")
    make_features(photos, tmp_path / "f", job)
    before = files(tmp_path / "f")
    with pytest.raises(InputError, match=f"holds features made otherwise .{says}.*choose another --out"):
        make_features(photos, tmp_path / "f", _changed(job, **changes))
    with pytest.raises(InputError, match="pictures was '12 "):
        make_features(photos.with_samples(photos.samples[:11]), tmp_path / "f", job)
    assert files(tmp_path / "f") == before


def test_a_killed_command_goes_on_and_ends_with_the_same_bytes(
    foveate: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path, files: Files
):
    photos = shapes(pictures=40) / "photos"
    words = ["features", str(photos), "--clip", str(clip_folder), "--shard", "1", "--batch-size", "1"]
    out = tmp_path / "killed"
    with subprocess.Popen([sys.executable, "-m", "foveate", *words, "--out", str(out)]) as running:
        while not shard_path(out, 5).is_file() and running.poll() is None:
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGKILL)
    there = len(list(out.glob("shard-*")))
    assert 5 < there < 120
    said = foveate(*words, "--out", out)
    assert said.code == 0, said.err
    assert f"120 shards, {there} of them made before" in said.out
    assert foveate(*words, "--out", tmp_path / "whole").code == 0
    assert files(out) == files(tmp_path / "whole")


# --- what a person is told ---


def test_a_bad_picture_stops_the_work_or_is_left_out(
    foveate: Call, data: Path, tmp_path: Path, clip_folder: Path
):
    bad = data / "photos/green disc/1.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:60])
    words = ("features", data / "photos", "--clip", clip_folder, "--shard", 4, "--out", tmp_path / "f")
    said = foveate(*words)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert f"{bad}: " in said.err
    assert "--on-bad skip (4 of 12 pictures are done, and the same command goes on)" in said.err
    said = foveate(*words, "--on-bad", "skip")
    assert said.code == 0
    assert "features of 11 pictures in 3 shards" in said.out
    assert "green disc/1.png: " in said.err
    assert "left out 1 of 12 pictures" in said.err
    kept = FeatureShards.open(tmp_path / "f")
    assert [name for name, _ in kept.left_out] == ["green disc/1.png"]
    assert "green disc/1.png" not in kept.names
    assert len(kept.tensor()) == len(kept.labels) == len(kept) == 11
    with pytest.raises(InputError, match=r"no features of 'green disc/1\.png'"):
        kept.get("green disc/1.png")
    bad.write_bytes(good)
    assert "features of 12 pictures" in foveate(*words).out


def test_a_mask_that_cannot_be_read_is_a_bad_picture(data: Path, tmp_path: Path, job: FeatureJob):
    photos = load_photos(data / "photos", masks=data / "masks", mask_values="binary255")
    (data / "masks/red disc/0.png").write_bytes(b"none")
    with pytest.raises(InputError, match=r"red disc/0\.png: "):
        make_features(photos, tmp_path / "f", _changed(job, masks=True))
    made = make_features(photos, tmp_path / "f", _changed(job, masks=True, on_bad="skip"))
    assert made.pictures == 11
    assert made.left_out[0][0].endswith("photos/red disc/0.png")


def test_nothing_but_bad_pictures_is_an_error(foveate: Call, tmp_path: Path, clip_folder: Path):
    for number in range(3):
        (tmp_path / "p/cat").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"p/cat/{number}.jpg").write_bytes(b"no picture")
    words = ("--clip", clip_folder, "--on-bad", "skip", "--out", tmp_path / "f")
    said = foveate("features", tmp_path / "p", *words)
    assert said.code == 2
    assert "none of 3 pictures can be read, first cat/0.jpg: " in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--shard", 0), "--shard is 0: give 1 or more"),
        (("--batch-size", -1), "--batch-size is -1: give 1 or more"),
        (("--workers", 0), "--workers is 0: give 1 or more"),
        (("--ray-address", "a:1"), "--ray-address is for Ray: give --ray too"),
        (("--device", "cuda:99"), "device cuda:99"),
        (("--masks", "nowhere"), "nowhere: no such folder of masks"),
        (("--dtype", "int8"), "--dtype is 'int8': give one of float32, float16"),
    ],
)
def test_settings_that_cannot_be(
    foveate: Call, data: Path, tmp_path: Path, clip_folder: Path, words: tuple[object, ...], says: str
):
    said = foveate("features", data / "photos", "--clip", clip_folder, "--out", tmp_path / "f", *words)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert says in said.err
    assert not (tmp_path / "f").exists()


def test_a_folder_of_something_else_is_left_alone(data: Path, tmp_path: Path, job: FeatureJob):
    photos = load_photos(data / "photos")
    with pytest.raises(InputError, match="is not empty and holds no features: choose another --out"):
        make_features(photos, data, job)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        make_features(photos, tmp_path / "file", job)
    with pytest.raises(InputError, match=r"has no index\.json"):
        FeatureShards.open(data)
    for content in ("{", "[]", '{"format": "foveate-features", "version": 1}'):
        (tmp_path / "index.json").write_text(content)
        with pytest.raises(InputError, match=r"index\.json is"):
            FeatureShards.open(tmp_path)


def test_a_part_that_was_not_made_is_refused(data: Path, tmp_path: Path, job: FeatureJob):
    make_features(load_photos(data / "photos"), tmp_path / "f", job)
    kept = FeatureShards.open(tmp_path / "f")
    for ask in (lambda: kept.tensor("foreground"), lambda: kept.areas, lambda: list(kept.shards("x"))):
        with pytest.raises(InputError, match=r"only image: make them with --masks"):
            ask()


def test_a_shard_is_plain_safetensors(data: Path, tmp_path: Path, job: FeatureJob):
    make_features(load_photos(data / "photos"), tmp_path / "f", job)
    with safe_open(shard_path(tmp_path / "f", 2), "np") as file:
        assert file.get_tensor("image").shape == (2, 32)
        assert file.get_tensor("labels").tolist() == [2, 2]
