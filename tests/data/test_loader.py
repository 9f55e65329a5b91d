"""Batches: the same bits whatever the number of threads, aligned masks, and up-front checks."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from foveate.data.loader import PictureSet, check_masks, check_pictures
from foveate.data.samples import LazyPicture, MemoryPicture, Photos, Sample
from foveate.data.sources import load_photos
from foveate.data.transforms import eval_view, to_tensor, train_view
from foveate.errors import InputError
from foveate.foreground.opening import BadPicture
from foveate.foreground.pictures import open_picture
from foveate.seeds import stream

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


@pytest.fixture
def masked(noise):
    """Seven pictures of three classes; the third picture has no mask, the others a square in the middle."""
    samples = []
    for number in range(7):
        inside = np.zeros((20, 30), dtype=np.uint8)
        inside[5 : 5 + number + 3, 8:20] = 255
        mask = None if number == 2 else MemoryPicture(Image.fromarray(inside), f"mask {number}")
        picture = MemoryPicture(noise(30, 20, number), f"picture {number}")
        samples.append(Sample(picture, number % 3, mask, "train"))
    return Photos(("a", "b", "c"), tuple(samples))


def equal(one, other):
    fields = ("images", "labels", "masks", "areas")
    return all(
        (getattr(one, f) is None and getattr(other, f) is None)
        or torch.equal(getattr(one, f), getattr(other, f))
        for f in fields
    )


def everything(photo_set, epoch, workers=2, batch_size=3, **options):
    return list(photo_set.batches(epoch, batch_size, workers=workers, **options))


@pytest.mark.parametrize("augment", ["rrc-flip", "squash", "none"])
def test_workers_change_nothing(masked, augment):
    photo_set = PictureSet(masked, 16, MEAN, STD, augment=augment, seed=5)
    plain = everything(photo_set, 3, workers=0, shuffle=True)
    for workers in (1, 2, 5):
        threaded = everything(photo_set, 3, workers=workers, shuffle=True)
        assert len(threaded) == len(plain)
        assert all(equal(one, other) for one, other in zip(plain, threaded, strict=True))


def test_a_view_depends_on_seed_epoch_and_index_alone(masked):
    photo_set = PictureSet(masked, 16, MEAN, STD, augment="rrc-flip", seed=5)
    expected = train_view(stream(5, "view", 2, 4), (30, 20), 16)
    picture = masked.samples[4].picture.load()
    item = photo_set.item(4, 2)
    assert torch.equal(item.image, to_tensor(expected.apply(picture)[0], MEAN, STD))
    in_batches = torch.cat([batch.images for batch in everything(photo_set, 2)])
    assert torch.equal(in_batches[4], item.image)
    assert not torch.equal(photo_set.item(4, 3).image, item.image)
    other_seed = PictureSet(masked, 16, MEAN, STD, augment="rrc-flip", seed=6)
    assert not torch.equal(other_seed.item(4, 2).image, item.image)


def test_no_epoch_is_the_view_for_predictions(masked):
    photo_set = PictureSet(masked, 16, MEAN, STD, augment="rrc-flip")
    plain = PictureSet(masked, 16, MEAN, STD)
    assert all(equal(a, b) for a, b in zip(everything(photo_set, None), everything(plain, 9), strict=True))
    picture = masked.samples[0].picture.load()
    expected = to_tensor(eval_view((30, 20), 16).apply(picture)[0], MEAN, STD)
    assert torch.equal(photo_set.item(0).image, expected)
    with pytest.raises(ValueError, match="epoch"):
        everything(photo_set, None, shuffle=True)


def test_order(masked):
    photo_set = PictureSet(masked, 8, seed=1)
    order = photo_set.order(4, shuffle=True)
    assert sorted(order) == list(range(7))
    assert order == torch.randperm(7, generator=stream(1, "order", 4)).tolist()
    labels = torch.cat([batch.labels for batch in everything(photo_set, 4, shuffle=True)])
    assert labels.tolist() == [index % 3 for index in order]
    assert photo_set.order(5, shuffle=True) != order


@given(st.integers(1, 9), st.booleans())
def test_steps_and_the_last_batch(batch_size, drop_last):
    pictures = [Sample(MemoryPicture(Image.new("RGB", (4, 4)), str(n)), 0) for n in range(7)]
    photo_set = PictureSet(Photos(("a",), tuple(pictures)), 4)
    batches = everything(photo_set, None, workers=0, batch_size=batch_size, drop_last=drop_last)
    sizes = [len(batch.labels) for batch in batches]
    assert len(sizes) == photo_set.steps(batch_size, drop_last)
    whole = drop_last and batch_size <= 7  # a set smaller than one batch is never left out
    assert sum(sizes) == (7 // batch_size * batch_size if whole else 7)
    assert len(photo_set) == 7


def test_masks_follow_their_pictures(noise):
    """Pictures painted from their masks stay so through every view, and areas are those of whole pictures."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(5):
        inside = np.zeros((40, 60), dtype=bool)
        left, top = rng.integers(0, 30, 2)
        inside[top : top + 10 + number, left : left + 25] = True
        mask = Image.fromarray(np.where(inside, 255, 0).astype(np.uint8))
        picture = MemoryPicture(Image.merge("RGB", [mask] * 3), str(number))
        samples.append(Sample(picture, 0, MemoryPicture(mask, f"m{number}")))
    photos = Photos(("a",), tuple(samples))
    photo_set = PictureSet(photos, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), augment="rrc-flip")
    for epoch in range(4):
        for batch in everything(photo_set, epoch):
            assert set(batch.masks.unique().tolist()) <= {0.0, 1.0}
            apart = (batch.images[:, :1] > 0.5) != (batch.masks > 0.5)
            assert apart.float().mean() < 0.03, "only bicubic edges may differ"
    areas = everything(photo_set, 0, batch_size=5)[0].areas
    assert torch.allclose(areas, torch.tensor([25 * (10 + n) / 2400 for n in range(5)]))


def test_missing_masks_and_no_masks(masked):
    batch = everything(PictureSet(masked, 16), None, batch_size=7)[0]
    assert batch.masks.shape == (7, 1, 16, 16)
    assert batch.masks[2].sum() == 0
    assert batch.areas[2] == 0
    assert batch.areas[0] == pytest.approx(3 * 12 / 600)
    bare = everything(PictureSet(masked, 16, masks=False), None, batch_size=7)[0]
    assert bare.masks is None
    assert bare.areas is None
    assert torch.equal(bare.images, batch.images)
    without = masked.with_samples([replace(sample, mask=None) for sample in masked.samples])
    assert everything(PictureSet(without, 16), None)[0].masks is None


def test_inverted_masks(masked):
    plain = everything(PictureSet(masked, 16), None, batch_size=7)[0]
    turned = everything(PictureSet(replace(masked, invert_masks=True), 16), None, batch_size=7)[0]
    has = torch.tensor([n != 2 for n in range(7)])
    assert torch.equal(turned.masks[has], 1 - plain.masks[has])
    assert torch.allclose(turned.areas[has], 1 - plain.areas[has])
    assert turned.areas[2] == 0


def test_a_transform_of_ones_own(masked):
    seen = []

    def grey(picture, mask):
        seen.append((picture.size, mask and mask.size))
        return Image.new("RGB", picture.size, (255, 255, 255)), mask

    photo_set = PictureSet(masked, 8, (0.0,) * 3, (1.0,) * 3, augment="squash", transform=grey)
    assert everything(photo_set, 0, workers=0)[0].images.min() == 1
    assert seen[2] == ((30, 20), None)
    assert everything(photo_set, None)[0].images.min() < 1, "predictions are made on the picture as it is"


def test_reading_ahead_is_bounded_and_stops(noise):
    opened = []
    lock = threading.Lock()

    class Counting(LazyPicture):
        @property
        def name(self):
            return "counting"

        def load(self):
            with lock:
                opened.append(1)
            return noise(6, 6)

    photo_set = PictureSet(Photos(("a",), tuple(Sample(Counting(), 0) for _ in range(200))), 4)
    before = threading.active_count()
    batches = photo_set.batches(None, 4, workers=2)
    next(batches)
    batches.close()
    assert len(opened) <= 4 + 2 * 2 + 4
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(5)
    assert threading.active_count() <= before


def test_bad_pictures_name_themselves(lay):
    root = lay("cat/1.jpg", "cat/2.jpg", "dog/3.jpg")
    (root / "cat" / "2.jpg").write_bytes(b"")
    (root / "dog" / "3.jpg").write_text("text")
    photos = load_photos(root)
    with pytest.raises(BadPicture, match=r"2\.jpg: is empty"):
        everything(PictureSet(photos, 8), None)
    with pytest.raises(BadPicture, match=r"2\.jpg: is empty .*1 more of 3 pictures"):
        check_pictures(photos)
    ticks = []
    kept, bad = check_pictures(photos, "skip", ticks.append)
    assert [s.picture.name for s in kept.samples] == ["1.jpg"]
    assert (Path(bad[0][0]).name, bad[0][1]) == ("2.jpg", "is empty (0 bytes)")
    assert sum(ticks) == len(photos)
    assert check_pictures(kept) == (kept, [])


# Masks, checked


def two_masks(lay, change):
    """Twenty pictures 12 x 8 with an eye mask each, after `change(folder of masks)`."""
    names = [f"{kind}/{number}" for kind in ("cat", "dog") for number in range(10)]
    root = lay(*(f"photos/{n}.png" for n in names), *(f"masks/{n}.png" for n in names))
    change(root / "masks")
    return load_photos(root)


def paint(path, value, size=(12, 8)):
    Image.new("L", size, value).save(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: (m / "cat/3.png").unlink(), ["1 missing of 20", "cat/3.png has no mask"]),
        (lambda m: paint(m / "dog/1.png", 0), ["1 empty of 20", "dog/1.png", "no foreground"]),
        (lambda m: paint(m / "dog/1.png", 255), ["1 full of 20", "dog/1.png", "everywhere"]),
        (lambda m: paint(m / "dog/1.png", 255, (8, 12)), ["1 mismatched", "8x12", "12x8", "rotated? (EXIF)"]),
        (lambda m: paint(m / "dog/1.png", 255, (12, 12)), ["1 mismatched", "12x12", "another shape"]),
        (lambda m: (m / "dog/9.png").write_bytes(b"no"), ["1 unreadable", "dog/9.png"]),
    ],
)
def test_masks_are_strict_by_default(lay, change, words):
    photos = two_masks(lay, change)
    with pytest.raises(InputError) as caught:
        check_masks(photos)
    message = str(caught.value)
    assert "\n" not in message
    for word in [*words, 'on_bad="skip"']:
        assert word in message
    kept, report = check_masks(photos, "skip")
    assert len(kept) == 20
    assert sum(sample.mask is not None for sample in kept.samples) == 19
    assert len(report.faults) == 1
    assert everything(PictureSet(kept, 8), None, batch_size=20)[0].areas.count_nonzero() == 19


def test_good_masks(lay):
    photos = two_masks(lay, lambda m: None)
    kept, report = check_masks(photos)
    assert kept == photos
    assert report.faults == ()
    assert report.share == pytest.approx(8 / 96)
    assert not report.inverted


def test_mostly_empty_masks_are_always_refused(lay):
    def empty_most(folder):
        for path in sorted(folder.rglob("*.png"))[:11]:
            paint(path, 0)

    photos = two_masks(lay, empty_most)
    for on_bad in ("error", "skip"):
        with pytest.raises(InputError, match="11 of 20 masks are empty"):
            check_masks(photos, on_bad)


def test_inverted_masks_are_noticed(lay):
    def invert(folder):
        for path in folder.rglob("*.png"):
            picture = Image.new("L", (12, 8), 255)
            picture.paste(0, (3, 2, 9, 6))
            picture.save(path)

    photos = two_masks(lay, invert)
    with pytest.raises(InputError, match="--invert-masks"):
        check_masks(photos)
    assert check_masks(photos, "skip")[1].inverted
    kept, report = check_masks(replace(photos, invert_masks=True))
    assert report.share == pytest.approx(24 / 96)
    assert len(kept) == 20


def test_no_masks_at_all(lay):
    photos = load_photos(lay("cat/1.png", "dog/2.png"))
    for on_bad in ("error", "skip"):
        with pytest.raises(InputError, match="none of 2 pictures has a usable mask"):
            check_masks(photos, on_bad)


def test_masks_of_pictures_that_exif_turns(lay, noise):
    """A mask on the stored pixels is turned along; one on the upright picture stays."""
    root = lay("cat/stored.png", "cat/upright.png", "masks/cat/stored.png", "masks/cat/upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, shown standing
    inside = np.zeros((8, 12), dtype=np.uint8)
    inside[:, :4] = 255
    for name in ("stored", "upright"):
        noise(12, 8).save(root / f"cat/{name}.png", exif=exif)
    Image.fromarray(inside).save(root / "masks/cat/stored.png")
    Image.fromarray(inside).transpose(Image.Transpose.ROTATE_270).save(root / "masks/cat/upright.png")
    photos, report = check_masks(load_photos(root))
    assert report.faults == ()
    assert open_picture(photos.samples[0].picture).size == (8, 12)
    batch = everything(PictureSet(photos, 8), None)[0]
    assert torch.equal(batch.masks[0], batch.masks[1])
    assert batch.masks[0, 0, 0].min() == 1, "the stored left is the upright top"


def test_real_masks(real):
    msrc = load_photos(real("msrc10"))
    kept, report = check_masks(msrc)
    assert (report.total, len(kept), report.inverted) == (324, 324, False)
    assert report.share == pytest.approx(0.3085, abs=1e-3)
    boxes = load_photos(
        real("imagenet_tiny20/imagenet/images"), masks=real("imagenet_tiny20/imagenet/boxmasks")
    )
    with pytest.raises(InputError, match="19 full of 560"):
        check_masks(boxes)
    assert check_pictures(msrc.split("val"))[1] == []
