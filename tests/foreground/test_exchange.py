"""Objects on other grounds: what is pasted, what is painted over, and whose ground is taken."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.data.loader import PictureSet
from foveate.data.samples import MemoryPicture, Photos, Sample
from foveate.foreground.views import exchange, paint_over

SIDE = 40
BOX = (12, 12, 28, 28)


def plain(colour, size=(SIDE, SIDE)):
    return Image.new("RGB", size, colour)


def box_mask(box=BOX, size=(SIDE, SIDE)):
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def scene(ground, thing, size=(SIDE, SIDE)):
    picture = plain(ground, size)
    picture.paste(thing, BOX)
    return picture


def pixel(picture, x, y):
    return np.asarray(picture)[y, x].tolist()


def test_an_object_keeps_its_place_on_the_other_ground():
    pasted = exchange(scene("white", "red"), box_mask(), scene("blue", "yellow"), box_mask())
    assert pixel(pasted, 20, 20) == [255, 0, 0]
    assert pixel(pasted, 2, 2) == [0, 0, 255]
    colours = np.asarray(pasted).reshape(-1, 3).astype(int)
    assert not ((colours[:, 1] > 128) & (colours[:, 2] < 128)).any(), "nothing of the yellow object is left"


def test_the_edge_is_softened():
    pasted = np.asarray(exchange(plain("white", (200, 200)), box_mask(size=(200, 200)), plain("black"), None))
    across = pasted[20, 4:20, 0]
    assert ((across > 20) & (across < 235)).any()


@pytest.mark.parametrize("size", [(7, 5), (90, 20), (400, 300)])
def test_a_ground_of_another_size_covers_the_picture(size):
    pasted = exchange(scene("white", "red"), box_mask(), plain("blue", size), None)
    assert pasted.size == (SIDE, SIDE)
    assert all(pixel(pasted, x, y) == [0, 0, 255] for x in (0, SIDE - 1) for y in (0, SIDE - 1))


def test_what_is_painted_over_takes_the_colours_around_it():
    steps = np.linspace(0, 255, SIDE).round().astype(np.uint8)
    ramp = Image.fromarray(np.repeat(np.tile(steps, (SIDE, 1))[..., None], 3, axis=2))
    holed = ramp.copy()
    holed.paste("red", BOX)
    painted = np.asarray(paint_over(holed, box_mask())).astype(int)
    assert abs(painted - np.asarray(ramp).astype(int)).max() < 60
    assert (abs(painted[:, :, 0] - painted[:, :, 1]) <= 8).all(), "no red is left"


@pytest.mark.parametrize("flat", [None, (9, 8, 7)])
def test_a_mask_that_leaves_nothing_changes_nothing(flat):
    picture, whole = scene("white", "red"), Image.new("L", (SIDE, SIDE), 255)
    assert np.array_equal(np.asarray(paint_over(picture, whole, flat)), np.asarray(picture))


def test_one_colour_fills_the_hole_and_nothing_else():
    painted = np.asarray(paint_over(scene("white", "red"), box_mask(), (9, 8, 7)))
    x0, y0, x1, y1 = BOX
    assert (painted[y0:y1, x0:x1] == (9, 8, 7)).all()
    outside = np.ones((SIDE, SIDE), bool)
    outside[y0 - 6 : y1 + 6, x0 - 6 : x1 + 6] = False  # the hole is wider than the mask
    assert (painted[outside] == 255).all()


# --- in a set ---

GROUNDS = ("blue", "lime", "white")


@pytest.fixture
def photos():
    """Two red objects of each of three classes, each class on a ground of its own."""
    samples = [
        Sample(
            MemoryPicture(scene(GROUNDS[label], "red"), f"picture {label} {number}"),
            label,
            MemoryPicture(box_mask(), f"mask {label} {number}"),
        )
        for label in range(3)
        for number in range(2)
    ]
    return Photos(("a", "b", "c"), tuple(samples), "binary255")


def pictures(photos, **settings):
    return PictureSet(photos, SIDE, (0.0,) * 3, (1.0,) * 3, **({"seed": 1} | settings))


def corner(image):
    return tuple(image[:, 1, 1].round().int().tolist())


def test_exchanged_views_stand_on_grounds_of_other_classes(photos):
    own = {0: (0, 0, 1), 1: (0, 1, 0), 2: (1, 1, 1)}
    seen = [pictures(photos).item(index, epoch, exchanged=True) for index in range(6) for epoch in range(8)]
    for item in seen:
        assert corner(item.image) == own[item.label]
        assert corner(item.exchanged) in set(own.values()) - {own[item.label]}
        assert item.exchanged[:, 20, 20].tolist() == [1, 0, 0]
    assert len({corner(item.exchanged) for item in seen if item.label == 0}) == 2


def test_grounds_filled_with_the_mean_colour(photos):
    small = MemoryPicture(box_mask((18, 18, 22, 22)), "small")
    first = photos.with_samples((replace(photos.samples[0], mask=small), *photos.samples[1:]))
    filled, painted = (
        PictureSet(first, SIDE, (0.2, 0.4, 0.6), (1.0,) * 3, seed=1, grounds=grounds)
        for grounds in ("mean", "inpaint")
    )
    for epoch in range(4):
        seen, other = (one.item(0, epoch, exchanged=True) for one in (filled, painted))
        assert seen.exchanged[:, 14, 14].abs().max() < 0.003, "the lender's object is of the mean colour"
        assert other.exchanged[:, 14, 14].abs().max() > 0.1
        assert torch.equal(seen.exchanged[:, 1, 1], other.exchanged[:, 1, 1]), "the same lender"
        assert torch.equal(seen.image, other.image)
    assert filled.exchange_key() != painted.exchange_key()
    assert "flat" not in painted.exchange_key(), "features kept by earlier runs are still found"


def test_a_share_of_views_is_exchanged_and_depends_on_seed_epoch_and_index_alone(photos):
    some = pictures(photos, exchange=0.5)
    views = [some.item(index, epoch) for epoch in range(10) for index in range(6)]
    swapped = [
        corner(one.image) != corner(two.image) for one, two in zip(views, plain_views(photos), strict=True)
    ]
    assert 10 < sum(swapped) < 50
    again = pictures(photos, exchange=0.5)
    for epoch, index in ((7, 3), (0, 5), (7, 3)):
        assert torch.equal(again.item(index, epoch).image, views[6 * epoch + index].image)
    assert torch.equal(some.item(0).image, pictures(photos).item(0).image), "predictions see the picture"


def plain_views(photos):
    return [pictures(photos).item(index, epoch) for epoch in range(10) for index in range(6)]


def test_crop_and_flip_are_those_of_the_picture_as_it_is(photos):
    cropped = pictures(photos, augment="rrc-flip")
    item = cropped.item(0, 3, exchanged=True)
    assert torch.equal(item.image, pictures(photos, augment="rrc-flip").item(0, 3).image)
    inside = item.mask[0].bool()
    assert (item.image - item.exchanged).abs().amax(0)[~inside].mean() > 0.3


def test_a_picture_without_a_mask_lends_its_ground_and_stays_as_it_is(photos):
    bare = tuple(replace(one, mask=None) if one.label else one for one in photos.samples)
    some = pictures(photos.with_samples(bare))
    item = some.item(2, 1, exchanged=True)
    assert torch.equal(item.exchanged, item.image)
    assert corner(some.item(0, 1, exchanged=True).exchanged) in {(0, 1, 0), (1, 1, 1)}


def test_a_picture_that_is_all_object_lends_no_ground(photos):
    full = MemoryPicture(Image.new("L", (SIDE, SIDE), 255), "full")
    crowded = tuple(replace(one, mask=full) if one.label == 1 else one for one in photos.samples)
    some = pictures(photos.with_samples(crowded))
    found = {corner(some.item(0, epoch, exchanged=True).exchanged) for epoch in range(12)}
    assert found == {(1, 1, 1)}


def test_an_empty_mask_and_a_lonely_picture_stay_as_they_are(photos):
    empty = MemoryPicture(Image.new("L", (SIDE, SIDE)), "empty")
    first = replace(photos.samples[0], mask=empty)
    for samples in ((first, *photos.samples[1:]), photos.samples[:1]):
        item = pictures(photos.with_samples(samples)).item(0, 1, exchanged=True)
        assert torch.equal(item.exchanged, item.image)


def test_one_class_alone_exchanges_among_its_pictures(photos):
    alone = photos.with_samples((replace(photos.samples[0], label=0), replace(photos.samples[2], label=0)))
    assert corner(pictures(alone).item(0, 1, exchanged=True).exchanged) == (0, 1, 0)
