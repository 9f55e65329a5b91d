"""A store of masks: what is in it after anything that can happen to a run."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from foveate.data.checks import check_masks
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.foreground import store as store_module
from foveate.foreground.matching import find_masks
from foveate.foreground.records import Places, from_line, is_safe, to_line
from foveate.foreground.store import MaskRecord, MaskStore, png_bytes, read_key, read_manifest, stored_masks
from foveate.foreground.values import read_mask

KEY = {"proposer": "made", "version": 1, "weights": {"hash": "ab"}}


def mask_of(number, size=(12, 9)):
    return np.random.default_rng(number).random(size[::-1]) < 0.4


def record_of(name, mask, **more):
    height, width = mask.shape
    return MaskRecord(name, "0" * 64, width, height, float(mask.mean()), 0.5, **more)


def fill(folder, *names, key=KEY, **more):
    with MaskStore.open(folder, key) as store:
        for number, name in enumerate(names):
            mask = mask_of(number)
            store.put(record_of(name, mask, **more), mask)
    return folder


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def refused(*words):
    class Refused:
        def __enter__(self):
            self.context = pytest.raises(InputError)
            self.caught = self.context.__enter__()

        def __exit__(self, *error):
            answer = self.context.__exit__(*error)
            message = str(self.caught.value)
            assert "\n" not in message
            for word in words:
                assert str(word) in message, message
            return answer

    return Refused()


# What is written


def test_a_tree_of_one_bit_pictures_and_their_records(tmp_path):
    folder = fill(tmp_path / "deep" / "m", "cat/1.jpg", "dog/big/2.JPEG", "3.webp")
    assert sorted(contents(folder)) == [
        "3.png",
        "cat/1.png",
        "dog/big/2.png",
        "manifest.jsonl",
        "proposer.json",
    ]
    with Image.open(folder / "cat" / "1.png") as image:
        assert (image.mode, image.size) == ("1", (12, 9))
        assert np.array_equal(np.asarray(image), mask_of(0))
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["cat/1.jpg", "dog/big/2.JPEG", "3.webp"]
    assert json.loads(lines[1])["file"] == "dog/big/2.png"
    assert json.loads((folder / "proposer.json").read_text())["key"] == KEY
    assert read_key(folder) == KEY


def test_records_come_back_as_they_were_kept(tmp_path):
    mask = mask_of(0)
    meta = {"query": np.int64(3), "box": (1, 2), "iou": np.float32(0.5), "grid": np.zeros(2)}
    given = record_of("a b.jpg", mask, label="cat", prompt="a \u2028 cat\n", refined=True, meta=meta)
    with MaskStore.open(tmp_path, KEY) as store:
        store.put(given, mask)
        kept = store.finished["a b.jpg"]
    (read,) = read_manifest(tmp_path)
    assert read == kept
    assert read.meta == {"query": 3, "box": [1, 2], "iou": 0.5, "grid": [0.0, 0.0]}
    assert (read.label, read.prompt, read.refined, read.area) == ("cat", "a \u2028 cat\n", True, mask.mean())


@given(
    st.builds(
        MaskRecord,
        name=st.text(min_size=1).filter(is_safe),
        sha256=st.text(),
        width=st.integers(1, 9),
        height=st.integers(1, 9),
        area=st.floats(0, 1),
        score=st.floats(0, 1),
        label=st.text(),
        meta=st.dictionaries(st.text(), st.integers(-(2**63) + 1, 2**63 - 1)),
        file=st.just("x.png"),
    )
)
def test_any_record_is_one_line(record):
    line = to_line(record)
    assert line.count(b"\n") == 1
    assert from_line(line, "here") == record


def test_what_json_does_not_know_is_refused(tmp_path):
    with MaskStore.open(tmp_path, KEY) as store:
        with pytest.raises(TypeError, match="cannot be kept"):
            store.put(record_of("a.jpg", mask_of(0), meta={"x": object()}), mask_of(0))
        with pytest.raises(ValueError, match="mask of"):
            store.put(record_of("a.jpg", mask_of(0)), mask_of(0, (5, 5)))
        assert not store.finished
    assert read_manifest(tmp_path) == []


# Names


def test_pictures_of_one_stem_keep_their_own_masks(tmp_path):
    names = ("cat/a.jpg", "cat/a.png", "cat/a.webp", "cat/A.jpg", "cat/a.png.png")
    folder = fill(tmp_path / "m", *names)
    records = read_manifest(folder)
    assert [one.file for one in records] == [
        "cat/a.png",
        "cat/a.png.png",
        "cat/a.webp.png",
        "cat/A.jpg.png",  # A.png would be a.png where case does not count
        "cat/a.png.png.png",
    ]
    pairs = [(tmp_path / "photos" / name, Path(name)) for name in names]
    for number, source in enumerate(find_masks(pairs, folder)):
        assert np.array_equal(np.asarray(read_mask(source)) > 0, mask_of(number)), names[number]


def test_unicode_names(tmp_path):
    names = ("猫/一.jpg", "größe/ü.jpg", "gro\u0308ße/e\u0301.jpg", "🐈/a b'c\"d.jpg", "%/100%.jpg")
    folder = fill(tmp_path, *names)
    assert [one.name for one in read_manifest(folder)] == list(names)
    assert "猫/一.png" in contents(folder)
    assert "猫" in (folder / "manifest.jsonl").read_text(encoding="utf-8")


def test_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"cat/\xff\xfe.jpg")
    folder = fill(tmp_path, name, "cat/2.jpg")
    assert set(MaskStore.open(folder, KEY).finished) == {name, "cat/2.jpg"}
    assert (folder / os.fsdecode(b"cat/\xff\xfe.png")).is_file()


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/etc/a.jpg", "cat/../../a.jpg", "", "cat//a.jpg", "./a.jpg", "a\0.jpg", ".."]
)
def test_names_that_lead_out_of_the_folder(tmp_path, name):
    with MaskStore.open(tmp_path / "m", KEY) as store, refused("leads out"):
        store.put(record_of(name, mask_of(0)), mask_of(0))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["m", "manifest.jsonl", "proposer.json"]


@pytest.mark.parametrize("name", ["C:\\x\\a.jpg", "..\\a.jpg", "a\n.jpg", "a:b.jpg", "x" * 250 + ".jpg"])
def test_odd_names_stay_below_the_folder(tmp_path, name):
    folder = fill(tmp_path / "m", name, "other.jpg")
    (first, _) = read_manifest(folder)
    assert first.name == name
    assert (folder / first.file).parent == folder
    assert not set(first.file) & set("\\:\n")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_files_and_folders_of_one_name(tmp_path):
    names = ("a.jpg", "a.png/b.jpg", "manifest.jsonl/c.jpg", "d.png/e.jpg", "d.jpg", "proposer.json")
    folder = fill(tmp_path, *names)
    files = [one.file for one in read_manifest(folder)]
    assert len({file.casefold() for file in files}) == len(names)
    for number, file in enumerate(files):
        assert (folder / file).read_bytes() == png_bytes(mask_of(number))


@given(st.lists(st.text("aA.é/jpgn\\", min_size=1).filter(is_safe), unique=True, max_size=8))
def test_no_two_names_have_one_place(names):
    places = Places("manifest.jsonl")
    files = [places.take(name) for name in names]
    assert len({file.casefold() for file in files}) == len(files)
    assert all(is_safe(file) and file.endswith(".png") for file in files)
    folders = {file.casefold().rsplit("/", 1)[0] for file in files if "/" in file}
    assert not folders & {file.casefold() for file in files}


def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path):
    fill(tmp_path / "m", "a.jpg")
    manifest = tmp_path / "m" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"a.png"', '"../a.png"'))
    (tmp_path / "a.png").write_bytes(png_bytes(mask_of(0)))
    with refused(manifest, "line 1", "no record"):
        stored_masks(tmp_path / "m")


# Going on


def test_going_on_where_it_was(tmp_path):
    names = [f"cat/{number}.jpg" for number in range(6)]
    whole = contents(fill(tmp_path / "whole", *names))
    fill(tmp_path / "part", *names[:4])
    with MaskStore.open(tmp_path / "part", KEY) as store:
        assert list(store.finished) == names[:4]
        for number in (4, 5):
            store.put(record_of(names[number], mask_of(number)), mask_of(number))
        assert list(store.finished) == names
    assert contents(tmp_path / "part") == whole


@pytest.mark.parametrize("kept", [0, 1, 40, -1])
def test_a_torn_last_line_does_not_count(tmp_path, kept):
    names = ("a.jpg", "b.jpg", "c.jpg")
    whole = contents(fill(tmp_path / "whole", *names))
    folder = fill(tmp_path / "torn", *names)
    manifest = folder / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    (folder / "c.png").write_bytes(b"half")
    assert [one.name for one in read_manifest(folder)] == ["a.jpg", "b.jpg"]
    with MaskStore.open(folder, KEY) as store:
        assert list(store.finished) == ["a.jpg", "b.jpg"]
        store.put(record_of("c.jpg", mask_of(2)), mask_of(2))
    assert contents(folder) == whole


def test_a_damaged_line_is_named(tmp_path):
    folder = fill(tmp_path / "m", "a.jpg", "b.jpg")
    manifest = folder / "manifest.jsonl"
    manifest.write_text("{}\n" + manifest.read_text())
    with refused(manifest, "line 1", "delete that line"):
        MaskStore.open(folder, KEY)
    manifest.write_text("\0\0\n")
    with refused(manifest, "line 1", "delete that line"):
        read_manifest(folder)


def test_one_name_is_one_mask(tmp_path):
    with MaskStore.open(tmp_path, KEY) as store:
        for number in (0, 1):
            store.put(record_of("a.jpg", mask_of(number)), mask_of(number))
        store.put(record_of("a.png", mask_of(2)), mask_of(2))
        assert list(store.finished) == ["a.jpg", "a.png"]
    records = read_manifest(tmp_path)
    assert [(one.name, one.file) for one in records] == [("a.jpg", "a.png"), ("a.png", "a.png.png")]
    assert records[0].area == mask_of(1).mean()
    assert (tmp_path / "a.png").read_bytes() == png_bytes(mask_of(1))


def test_a_deleted_mask_is_made_again(tmp_path):
    folder = fill(tmp_path, "cat/a.jpg", "cat/b.jpg")
    (folder / "cat" / "a.png").unlink()
    assert list(MaskStore.open(folder, KEY).finished) == ["cat/b.jpg"]
    assert [one.name for one in read_manifest(folder)] == ["cat/b.jpg"]


def test_a_deleted_masks_place_can_go_to_another(tmp_path):
    folder = fill(tmp_path, "a.jpg")
    (folder / "a.png").unlink()
    fill(folder, "a.webp")
    assert [(one.name, one.file) for one in read_manifest(folder)] == [("a.webp", "a.png")]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ({**KEY, "version": 2}, ["version was 1, now 2"]),
        ({**KEY, "weights": {"hash": "cd"}}, ["weights.hash was 'ab', now 'cd'"]),
        ({**KEY, "prompt": "the {}"}, ["prompt was None, now 'the {}'"]),
    ],
)
def test_masks_made_otherwise_are_not_mixed(tmp_path, key, words):
    fill(tmp_path, "a.jpg")
    before = contents(tmp_path)
    with refused(tmp_path, "--out", "delete it", *words):
        MaskStore.open(tmp_path, key)
    assert contents(tmp_path) == before


def test_keys_are_compared_as_they_are_written(tmp_path):
    MaskStore.open(tmp_path, {"sizes": (1, 2), "path": Path("x"), "n": np.int64(1)}).close()
    MaskStore.open(tmp_path, {"sizes": [1, 2], "path": "x", "n": 1}).close()


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with refused("photos", "not empty", "--out"):
        MaskStore.open(tmp_path / "photos", KEY)
    with refused("a.jpg is a file"):
        MaskStore.open(tmp_path / "photos" / "a.jpg", KEY)
    assert sorted(contents(tmp_path)) == ["photos/a.jpg"]


def test_heads_that_cannot_be_read(tmp_path):
    folder = fill(tmp_path, "a.jpg")
    head = folder / "proposer.json"
    for content, words in {
        "{": "damaged",
        "[]": "does not say",
        '{"format": "foveate-masks", "version": 9, "key": {}}': "newer foveate",
    }.items():
        head.write_text(content)
        for door in (lambda: MaskStore.open(folder, KEY), lambda: stored_masks(folder)):
            with refused(head, words):
                door()
    head.unlink()
    with refused(folder, "not empty"):
        MaskStore.open(folder, KEY)


def test_a_full_disk_keeps_all_before(tmp_path, monkeypatch):
    with MaskStore.open(tmp_path, KEY) as store:
        store.put(record_of("a.jpg", mask_of(0)), mask_of(0))
        real, calls = os.write, []

        def half(file, content):
            calls.append(len(content))
            if len(calls) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(file, content[:20])

        with monkeypatch.context() as patch:
            patch.setattr(store_module.os, "write", half)
            with pytest.raises(OSError, match="No space") as caught:
                store.put(record_of("b.jpg", mask_of(1)), mask_of(1))
        assert caught.value.filename == str(tmp_path / "manifest.jsonl")
        assert list(store.finished) == ["a.jpg"]
        store.put(record_of("c.jpg", mask_of(2)), mask_of(2))
    assert [one.name for one in read_manifest(tmp_path)] == ["a.jpg", "c.jpg"]


def test_a_mask_that_cannot_be_written_has_no_record(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with MaskStore.open(tmp_path, KEY) as store:
        monkeypatch.setattr(store_module, "write_atomically", full)
        with pytest.raises(OSError, match=r"b\.png"):
            store.put(record_of("b.jpg", mask_of(0)), mask_of(0))
    assert read_manifest(tmp_path) == []


WRITER = """
import sys
import numpy as np
from pathlib import Path
from foveate.foreground.store import MaskRecord, MaskStore

store = MaskStore.open(Path(sys.argv[1]), {"proposer": "killed"})
print("open", flush=True)
for number in range(int(sys.argv[2])):
    name = f"cat/{number // 2}.{'jpg' if number % 2 else 'png'}"
    if name not in store.finished:
        mask = np.random.default_rng(number).random((60, 80)) < 0.5
        store.put(MaskRecord(name, "0" * 64, 80, 60, float(mask.mean()), 0.5), mask)
store.close()
"""


def written(folder, number):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(number)], stdout=subprocess.PIPE, text=True
    )


def test_killed_in_the_middle(tmp_path):
    """Each time killed with nothing to say about it, and gone on with: the same bytes as in one go."""
    number = 80
    with written(tmp_path / "whole", number) as process:
        process.communicate()
    folder = tmp_path / "killed"
    seen = []
    for stop in (1, 30):
        with written(folder, number) as process:
            process.stdout.readline()
            while process.poll() is None and len(list(folder.glob("cat/*.png"))) < stop:
                time.sleep(0.0005)
            process.send_signal(signal.SIGKILL)
        records = read_manifest(folder)
        seen.append(len(records))
        for record in records:
            with Image.open(folder / record.file) as image:
                assert np.asarray(image).mean() == record.area
    assert seen == sorted(seen)
    assert 0 < seen[-1] < number, "it was killed before its end"
    with written(folder, number) as process:
        process.communicate()
    whole, after = contents(tmp_path / "whole"), contents(folder)
    left_over = [name for name in after if "/." in name]  # a temporary file of each kill at most
    assert len(left_over) <= 2
    assert {name: content for name, content in after.items() if name not in left_over} == whole


def test_many_records_open_without_a_look_at_their_masks(tmp_path, monkeypatch):
    MaskStore.open(tmp_path, KEY).close()
    (tmp_path / "cat").mkdir()
    records = [record_of(f"cat/{n}.jpg", mask_of(0), file=f"cat/{n}.png") for n in range(10_000)]
    (tmp_path / "manifest.jsonl").write_bytes(b"".join(map(to_line, records)))
    for record in records:
        (tmp_path / record.file).touch()  # nothing in them: whoever looked would fail
    work = Counter()

    def counted(name):
        real = getattr(os, name)

        def count(*args, **options):
            work[name] += 1
            return real(*args, **options)

        monkeypatch.setattr(os, name, count)

    for name in ("stat", "scandir"):
        counted(name)
    with MaskStore.open(tmp_path, KEY) as store:
        assert len(store.finished) == 10_000
    assert work["scandir"] == 1
    assert work["stat"] < 20


# Reading


def lay_photos(root, *names, size=(12, 9)):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


NAMES = ("cat/a.jpg", "cat/a.png", "cat/deep/c.jpg", "dog/d.jpg")


def test_photos_take_a_stores_masks(tmp_path):
    photos = lay_photos(tmp_path / "photos", *NAMES)
    folder = fill(tmp_path / "m", *NAMES)
    for source, masks in ((photos, folder), (photos, str(folder))):
        read = load_photos(source, masks=masks)
        found = {s.picture.relative_to(photos).as_posix(): s.mask for s in read.samples}
        assert read.mask_values == "binary255"
        for number, name in enumerate(NAMES):
            assert np.array_equal(np.asarray(read_mask(found[name])) > 0, mask_of(number)), name


def test_a_store_among_the_photos_is_found(tmp_path):
    names = NAMES[1:]
    photos = lay_photos(tmp_path / "photos", *names)
    fill(photos / "masks", *names)
    read = load_photos(photos)
    assert read.names == ("cat", "dog")
    assert all(sample.mask is not None for sample in read.samples)


def test_a_part_of_the_photos(tmp_path):
    """Masks made of a whole folder serve one split of it, and the other way round."""
    names = ("train/cat/a.jpg", "train/dog/b.jpg", "test/cat/a.jpg", "test/dog/b.jpg")
    photos = lay_photos(tmp_path / "photos", *names)
    whole = fill(tmp_path / "whole", *names)
    train = load_photos(photos / "train", masks=whole)
    assert [s.mask.name for s in train.samples] == ["train/cat/a.png", "train/dog/b.png"]
    part = fill(tmp_path / "part", "cat/x.jpg", "dog/y.jpg")
    lay_photos(photos, "train/cat/x.jpg", "train/dog/y.jpg")
    found = [s.mask and s.mask.name for s in load_photos(photos, masks=part).samples]
    assert sorted(filter(None, found)) == ["cat/x.png", "dog/y.png"]


def test_a_mask_drawn_by_hand_counts(tmp_path):
    photos = lay_photos(tmp_path / "photos", *NAMES)
    folder = fill(tmp_path / "m", *NAMES[:3])
    own = np.eye(9, 12, dtype=np.uint8) * 255
    (folder / "dog").mkdir()
    Image.fromarray(own).save(folder / "dog" / "d.png")
    Image.fromarray(own).save(folder / "cat" / "a.png")  # mended
    read = load_photos(photos, masks=folder)
    found = {s.picture.relative_to(photos).as_posix(): np.asarray(read_mask(s.mask)) for s in read.samples}
    assert np.array_equal(found["dog/d.jpg"], own)
    assert np.array_equal(found["cat/a.jpg"], own)
    assert np.array_equal(found["cat/a.png"] > 0, mask_of(1))


def test_a_fallback_is_no_fault_but_a_full_mask_is(tmp_path):
    photos = lay_photos(tmp_path / "photos", "cat/a.jpg", "cat/b.jpg", "dog/c.jpg", "dog/d.jpg")
    full = np.ones((9, 12), bool)
    centre = np.zeros((9, 12), bool)
    centre[3:6, 4:8] = True
    with MaskStore.open(tmp_path / "m", KEY) as store:
        for name in ("cat/a.jpg", "dog/c.jpg"):
            store.put(record_of(name, centre), centre)
        store.put(record_of("cat/b.jpg", full, fallback=True), full)
        store.put(record_of("dog/d.jpg", full), full)
    _, report = check_masks(load_photos(photos, masks=tmp_path / "m"), "skip")
    assert [(fault.fault, Path(fault.name).name) for fault in report.faults] == [("full", "d.jpg")]


def test_a_mask_that_is_damaged_is_named(tmp_path):
    photos = lay_photos(tmp_path / "photos", *NAMES)
    folder = fill(tmp_path / "m", *NAMES)
    (folder / "dog" / "d.png").write_bytes(png_bytes(mask_of(3))[:50])
    with refused("d.png", "unreadable"):
        check_masks(load_photos(photos, masks=folder))


def test_real_masks_go_through_bit_for_bit(tmp_path):
    root = (Path(__file__).parents[2] / ".." / "shared" / "data" / "msrc10").resolve()
    if not root.exists():
        pytest.skip(f"no real masks: {root} is not there")
    pictures = sorted((root / "images").rglob("*.jpg"))[::9]
    truth = {}
    with MaskStore.open(tmp_path / "m", KEY) as store:
        for path in pictures:
            name = path.relative_to(root / "images").as_posix()
            with Image.open((root / "masks" / name).with_suffix(".png")) as image:
                truth[name] = np.asarray(image)
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            height, width = truth[name].shape
            store.put(MaskRecord(name, sha256, width, height, float(truth[name].mean()), 1.0), truth[name])
    photos = load_photos(root / "images", masks=tmp_path / "m")
    found = {s.picture.relative_to(root / "images").as_posix(): s.mask for s in photos.samples if s.mask}
    assert found.keys() == truth.keys()
    for name, mask in found.items():
        assert np.array_equal(np.asarray(read_mask(mask, photos.mask_values)) > 0, truth[name])
