"""Any existing set of masks: what it is like, what is refused, and how it comes into a store."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from foveate.data.checks import check_masks
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.foreground import annotations
from foveate.foreground.store import MaskStore, pack, read_manifest
from foveate.foreground.survey import import_masks, report_conventions
from foveate.foreground.values import read_mask

KEY = {"proposer": "files"}
SIZE = (40, 30)
NAMES = ("cat/01.jpg", "cat/02.jpg", "dog/03.jpg", "dog/04.jpg", "eel/05.jpg", "eel/06.jpg")


def truth(number, size=SIZE):
    width, height = size
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2 + number, width // 4 : width // 2 + 2 * number] = True
    return mask


def grey(mask, on=255):
    return Image.fromarray(np.where(mask, on, 0).astype(np.uint8))


def index(mask, number=1):
    """VOC's kind: a label inside, void around."""
    values = np.where(mask, number, 0).astype(np.uint8)
    edge = np.zeros_like(mask)
    edge[1:] |= mask[1:] & ~mask[:-1]
    values[edge] = 255
    return Image.fromarray(values)


def lay(top, names=NAMES, size=SIZE):
    """Write pictures; return them as jobs."""
    jobs = []
    for number, name in enumerate(names):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        jobs.append((name, path, name.split("/")[0]))
    return jobs


def draw(root, paths, writer=grey):
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path is not None:
            writer(truth(number)).save(root / path)
    return root


def bring(tmp_path, jobs, root, **options):
    with MaskStore.open(tmp_path / "store", KEY) as store:
        return import_masks(jobs, root, store, **options)


def kept(folder):
    masks = {}
    for record in read_manifest(folder):
        with Image.open(folder / record.file) as image:
            assert image.mode == "1"
            masks[record.name] = np.asarray(image)
    return masks


def refused(door, *words):
    with pytest.raises(InputError) as caught:
        door()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


# Layouts, and what their papers' masks are like

LAYOUTS = {
    "a mirror": (
        "photos",
        [Path(n).with_suffix(".png") for n in NAMES],
        grey,
        "binary255",
        "as the pictures",
    ),
    "FVG-PT": (
        "caltech-101/101_ObjectCategories",
        [f"mask/caltech-101/101_ObjectCategories/{n}" for n in NAMES],
        lambda m: grey(m).convert("RGB"),
        "binary255",
        "with 2 folders above",
    ),
    "FVG-PT, as its text says": (
        "caltech-101/101_ObjectCategories",
        [f"mask/101_ObjectCategories/{n}" for n in NAMES],
        lambda m: grey(m).convert("RGB"),
        "binary255",
        "with 1 folders above",
    ),
    "DAPT": (
        "food/images/train",
        [f"mask/{Path(n).with_suffix('.png')}" for n in NAMES],
        lambda m: grey(m, 1),
        "binary1",
        "as the pictures",
    ),
    "DAPT, flat": ("pets", [f"mask/{Path(n).stem}.png" for n in NAMES], index, "index_void255", "flat"),
    "appended": ("photos", [f"{n}.png" for n in NAMES], grey, "binary255", "01.jpg.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_comes_in_as_the_same_masks(tmp_path, layout):
    inner, paths, writer, values, words = LAYOUTS[layout]
    jobs = lay(tmp_path / "data" / inner)
    root = draw(tmp_path / "given", paths, writer)
    (root / "mask" if "mask" in str(paths[0]) else root).joinpath("other.png").write_bytes(
        (root / paths[0]).read_bytes()
    )
    found = bring(tmp_path, jobs, root)
    assert words in found.rule
    assert (found.total, found.found, found.usable, found.values) == (6, 6, 6, values)
    assert [Path(one).name for one in found.unused] == ["other.png"]
    assert not found.report.inverted
    masks = kept(tmp_path / "store")
    for number, name in enumerate(NAMES):
        drawn = truth(number)
        if writer is index:  # its edge is void
            drawn = np.asarray(index(drawn)) == 1
        assert np.array_equal(masks[name], drawn), name
    records = read_manifest(tmp_path / "store")
    assert [one.label for one in records] == [name.split("/")[0] for name in NAMES]
    assert {(one.score, one.fallback, one.refined) for one in records} == {(1.0, False, False)}
    assert records[0].meta == {"from": Path(paths[0]).as_posix()}
    assert records[0].area == masks[NAMES[0]].mean()


def test_pictures_at_several_depths_in_one_mirror(tmp_path):
    names = ("cat/01.jpg", "cat/deep/02.jpg", "03.jpg")
    jobs = lay(tmp_path / "photos", names)
    root = draw(tmp_path / "given", [Path(name).with_suffix(".png") for name in names])
    assert report_conventions(jobs, root).found == 3


def test_the_report_in_words(tmp_path):
    jobs = lay(tmp_path / "photos")
    paths = [Path(name).with_suffix(".png") for name in NAMES]
    root = draw(tmp_path / "given", paths)
    (root / paths[1]).unlink()
    grey(truth(0) & False).save(root / paths[2])
    grey(truth(0) | True).save(root / paths[3])
    (root / paths[4]).write_bytes(b"no picture")
    found = report_conventions(jobs, root)
    assert found.lines()[1:3] == ["pictures with a mask: 5 of 6", "masks of no picture: 0"]
    assert "0, " in found.lines()[3]
    assert "255; read as binary255" in found.lines()[3]
    assert found.lines()[4] == "unusable: 1 unreadable, 1 empty, 1 full"
    assert sum(found.histogram.values()) == pytest.approx(1)
    assert {span for span, share in found.histogram.items() if share} == {"0", "255"}


# What is refused


def mirror(tmp_path, writer=grey, names=NAMES):
    jobs = lay(tmp_path / "photos", names)
    return jobs, draw(tmp_path / "given", [Path(name).with_suffix(".png") for name in names], writer)


@pytest.mark.parametrize(
    ("writer", "read_as", "look"),
    [(grey, "index_void255", "binary255"), (lambda m: grey(m, 1), "binary255", "binary1")],
)
def test_one_papers_masks_read_by_the_others_rule(tmp_path, writer, read_as, look):
    """0 and 255 read as DAPT reads, where 255 is void; 0 and 1 read as FVG-PT reads, from 128 on."""
    jobs, root = mirror(tmp_path, writer)
    assert report_conventions(jobs, root, values=read_as).report.count("empty") == 6
    refused(
        lambda: bring(tmp_path, jobs, root, values=read_as),
        root,
        f"6 of 6 masks are empty when read as {read_as}",
        f"pass --mask-values {look}",
    )
    assert read_manifest(tmp_path / "store") == []
    assert bring(tmp_path, jobs, root).usable == 6


def test_more_than_half_empty(tmp_path):
    jobs, root = mirror(tmp_path)
    for name in NAMES[:4]:
        grey(truth(0) & False).save((root / name).with_suffix(".png"))
    refused(lambda: bring(tmp_path, jobs, root), "4 of 6 masks are empty", "--invert-masks")
    grey(truth(0)).save((root / NAMES[0]).with_suffix(".png"))
    assert bring(tmp_path, jobs, root).usable == 3


def test_inverted_masks(tmp_path):
    jobs, root = mirror(tmp_path, lambda mask: grey(~mask))
    refused(lambda: bring(tmp_path, jobs, root), "cover the border", "--invert-masks", 'on_bad="skip"')
    assert bring(tmp_path, jobs, root, invert=True).usable == 6
    assert np.array_equal(kept(tmp_path / "store")[NAMES[2]], truth(2))
    with MaskStore.open(tmp_path / "believed", KEY) as store:
        import_masks(jobs, root, store, on_bad="skip")
    assert np.array_equal(kept(tmp_path / "believed")[NAMES[2]], ~truth(2))


def test_no_mask_fits(tmp_path):
    jobs, _ = mirror(tmp_path)
    draw(tmp_path / "others", ["x/1.png"])
    refused(lambda: bring(tmp_path, jobs, tmp_path / "others"), "no mask in it matches any of 6 pictures")
    refused(lambda: bring(tmp_path, jobs, tmp_path / "nothing"), "no such folder of masks")


def test_most_masks_of_another_shape(tmp_path):
    jobs, root = mirror(tmp_path)
    for name in NAMES[:4]:
        grey(truth(0, (30, 30))).save((root / name).with_suffix(".png"))
    refused(lambda: bring(tmp_path, jobs, root), "4 of 6 masks cannot be used", "30x30", "another shape")


# What comes in


def test_pictures_without_a_usable_mask_get_all_of_it(tmp_path):
    jobs, root = mirror(tmp_path)
    paths = [(root / name).with_suffix(".png") for name in NAMES]
    paths[0].unlink()
    grey(truth(0) & False).save(paths[1])
    grey(truth(0, (30, 30))).save(paths[2])
    found = bring(tmp_path, jobs, root)
    assert (found.usable, found.found, found.total) == (3, 5, 6)
    records = read_manifest(tmp_path / "store")
    assert [one.meta.get("why") for one in records] == ["missing", "empty", "mismatched", None, None, None]
    for record in records[:3]:
        assert (record.score, record.fallback, record.area) == (0.0, True, 1.0)
        assert kept(tmp_path / "store")[record.name].all()
    photos = load_photos(tmp_path / "photos", masks=tmp_path / "store")
    assert not check_masks(photos)[1].faults, "a run can learn from it as it is"


def test_masks_come_to_the_pictures_size_and_stand_upright(tmp_path):
    jobs, root = mirror(tmp_path)
    large = grey(truth(0)).resize((80, 60), Image.Resampling.NEAREST)
    large.save((root / NAMES[0]).with_suffix(".png"))
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    stored.save(jobs[1][1], exif=exif)
    bring(tmp_path, jobs, root)
    masks = kept(tmp_path / "store")
    assert np.array_equal(masks[NAMES[0]], truth(0))
    assert np.array_equal(masks[NAMES[1]], truth(1))


def test_going_on_and_pictures_that_changed(tmp_path):
    jobs, root = mirror(tmp_path)
    seen = []
    with MaskStore.open(tmp_path / "store", KEY) as store:
        import_masks(jobs, root, store, on_count=lambda done, total: seen.append((done, total)))
        assert seen == [(number, 6) for number in range(1, 7)]
        before = (tmp_path / "store" / "manifest.jsonl").read_bytes()
        import_masks(jobs, root, store)
        assert (tmp_path / "store" / "manifest.jsonl").read_bytes() == before
        lay(tmp_path / "photos", NAMES[1:2])
        import_masks(jobs, root, store)
    lines = (tmp_path / "store" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == [*NAMES, NAMES[1]]


def test_pictures_that_cannot_be_read(tmp_path):
    jobs, root = mirror(tmp_path)
    jobs[2][1].write_bytes(b"")
    refused(lambda: bring(tmp_path, jobs, root), "03.jpg", "is empty (0 bytes)")
    found = bring(tmp_path, jobs, root, on_bad="skip")
    assert [(Path(name).name, why) for name, why in found.skipped] == [("03.jpg", "is empty (0 bytes)")]
    assert sorted(kept(tmp_path / "store")) == sorted(set(NAMES) - {NAMES[2]})


def test_packed_masks_come_in_too(tmp_path):
    jobs, root = mirror(tmp_path)
    (root / NAMES[5]).with_suffix(".png").unlink()
    bring(tmp_path, jobs, root)
    pack(tmp_path / "store", tmp_path / "packed")
    with MaskStore.open(tmp_path / "second", KEY) as store:
        found = import_masks(jobs, tmp_path / "packed", store)
    assert found.rule.startswith("as foveate's own list")
    first, second = kept(tmp_path / "store"), kept(tmp_path / "second")
    assert all(np.array_equal(first[name], second[name]) for name in NAMES)
    assert [one.fallback for one in read_manifest(tmp_path / "second")] == [False] * 5 + [True]


def test_real_masks_and_label_maps(tmp_path):
    root = (Path(__file__).parents[2] / ".." / "shared" / "data" / "msrc10").resolve()
    if not root.exists():
        pytest.skip(f"no real masks: {root} is not there")
    pictures = sorted((root / "images").rglob("*.jpg"))[::9]
    jobs = [(p.relative_to(root / "images").as_posix(), p, p.parent.name) for p in pictures]
    found = bring(tmp_path, jobs, root / "masks")
    assert (found.found, found.usable, found.values) == (len(jobs), len(jobs), "binary255")
    assert len(found.unused) == 324 - len(jobs)
    for name, mask in kept(tmp_path / "store").items():
        with Image.open((root / "masks" / name).with_suffix(".png")) as image:
            assert np.array_equal(mask, np.asarray(image))
    maps = report_conventions(jobs, root / "labelmaps")
    assert maps.values == "index", "23 labels and no void of 255"
    assert maps.found == len(jobs)


# COCO


def coco(tmp_path, segmentation, names=NAMES, size=SIZE):
    """A COCO file with one annotation a picture, made from its mask."""
    images = [{"id": n, "file_name": name, "height": 30, "width": 40} for n, name in enumerate(names)]
    notes = [{"image_id": n, "segmentation": segmentation(truth(n))} for n in range(len(names))]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": notes}))
    return path


def compressed(mask):
    api = pytest.importorskip("pycocotools.mask")
    runs = api.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": runs["size"], "counts": runs["counts"].decode()}


def uncompressed(mask):
    return {"size": list(mask.shape), "counts": annotations.encode(mask)}


def polygon(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return [[int(value) for value in (left, top, right, top, right, bottom, left, bottom)]]


@pytest.mark.parametrize("kind", [compressed, uncompressed, polygon])
def test_coco_files(tmp_path, kind):
    pytest.importorskip("pycocotools")
    jobs = lay(tmp_path / "photos")
    path = coco(tmp_path, kind)
    found = bring(tmp_path, jobs, path)
    assert (found.usable, found.values) == (6, "binary255")
    photos = load_photos(tmp_path / "photos", masks=path)
    for number, (name, sample) in enumerate(zip(NAMES, photos.samples, strict=True)):
        assert np.array_equal(kept(tmp_path / "store")[name], truth(number))
        assert np.array_equal(np.asarray(read_mask(sample.mask)) > 0, truth(number))


def test_coco_annotations_of_one_picture_are_one_mask(tmp_path):
    pytest.importorskip("pycocotools")
    path = tmp_path / "a.json"
    other = np.zeros((30, 40), bool)
    other[0:3, 0:5] = True
    notes = [{"image_id": "x", "segmentation": kind} for kind in (uncompressed(other), polygon(truth(0)))]
    images = [{"id": "x", "file_name": "01.jpg", "height": 30, "width": 40}, {"id": 2, "file_name": "02.jpg"}]
    path.write_text(json.dumps({"images": images, "annotations": notes}))
    photos = load_photos(lay(tmp_path / "photos")[0][1].parents[1], masks=path)
    masks = [sample.mask for sample in photos.samples]
    assert [mask is not None for mask in masks] == [True] + [False] * 5
    assert np.array_equal(np.asarray(masks[0].load()), truth(0) | other)


def test_polygons_need_an_extra(tmp_path, monkeypatch):
    lay(tmp_path / "photos")
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setattr("foveate.foreground.proposers.registry.find_spec", lambda name: None)
    refused(
        lambda: load_photos(tmp_path / "photos", masks=coco(tmp_path, polygon)),
        "instances.json",
        "pip install 'foveate[masks]'",
    )
    assert load_photos(tmp_path / "photos", masks=coco(tmp_path, uncompressed)).samples[0].mask


BROKEN = {
    "too few": {"size": [30, 40], "counts": [100]},
    "negative": {"size": [30, 40], "counts": [1201, -1]},
    "words": {"size": [30, 40], "counts": ["many"]},
    "letters": {"size": [30, 40], "counts": "\x7f\x7f"},
    "endless": {"size": [30, 40], "counts": "o" * 40},
    "cut off": {"size": [30, 40], "counts": "o"},
    "vast": {"size": [10**6, 10**6], "counts": [10**12]},
    "no size": {"counts": [1200]},
    "a line": [[0, 0, 5, 5]],
    "odd": [[0, 0, 5, 5, 6, 6, 7]],
    "words in a polygon": [["a", "b", 1, 2, 3, 4]],
    "not a number": [[0, 0, float("nan"), 5, 6, 6]],
    "far away": [[0, 0, 1e300, 5, 6, 6]],
    "nothing": None,
    "no polygons": [],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_annotations_are_named(tmp_path, kind):
    pytest.importorskip("pycocotools")
    lay(tmp_path / "photos")
    path = coco(tmp_path, lambda mask: BROKEN[kind])
    says = "not valid JSON (NaN" if kind == "not a number" else "the mask of cat/01.jpg is damaged"
    refused(lambda: load_photos(tmp_path / "photos", masks=path), path, says)


def test_files_that_are_no_coco(tmp_path):
    lay(tmp_path / "photos")
    path = tmp_path / "a.json"
    for content in ("", "{", "[]", "{}", '{"images": [{}], "annotations": []}', '{"images": 3}'):
        path.write_text(content)
        refused(lambda: load_photos(tmp_path / "photos", masks=path), path, "no COCO file")
    path.write_text('{"images": [], "annotations": [{"image_id": 1, "segmentation": []}]}')
    refused(lambda: load_photos(tmp_path / "photos", masks=path), path, "no COCO file")
    twice = [{"id": n, "file_name": "cat/01.jpg"} for n in (1, 2)]
    notes = [{"image_id": n, "segmentation": uncompressed(truth(0))} for n in (1, 2)]
    path.write_text(json.dumps({"images": twice, "annotations": notes}))
    refused(lambda: load_photos(tmp_path / "photos", masks=path), path, "file_name twice")
    (tmp_path / "masks.zip").touch()
    refused(lambda: load_photos(tmp_path / "photos", masks=tmp_path / "masks.zip"), "masks.zip", "no masks")


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_run_lengths_there_and_back(mask):
    height, width = mask.shape
    assert np.array_equal(annotations.decode(annotations.encode(mask), height, width), mask)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_are_cocos(height, width, seed, share):
    api = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(seed).random((height, width)) < share
    theirs = api.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(annotations.decode(theirs["counts"], height, width), mask)
    ours = {"size": [height, width], "counts": annotations.encode(mask)}
    assert api.frPyObjects(ours, height, width)["counts"] == theirs["counts"]


@given(st.text(max_size=30) | st.lists(st.integers(-5, 50), max_size=9), st.integers(1, 9), st.integers(1, 9))
def test_any_nonsense_is_refused_or_a_mask(counts, height, width):
    try:
        mask = annotations.decode(counts, height, width)
    except ValueError:
        return
    assert mask.shape == (height, width)
