"""The same picture again: cropped, mirrored, made smaller, compressed; and what only looks alike."""

import io

import pytest
import skimage.data
import torch
from PIL import Image, ImageOps
from torch import Tensor

from foveate.check.pictures import NEAREST, first_of, measure, twins

PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")


def photo(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB").resize((320, 240))


def compressed(picture: Image.Image) -> Image.Image:
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=30)
    return Image.open(packed)


def cut(left: float, top: float, right: float, bottom: float, picture: Image.Image) -> Image.Image:
    width, height = picture.size
    box = left * width, top * height, (1 - right) * width, (1 - bottom) * height
    return picture.crop(tuple(round(one) for one in box))


COPIES = {
    "half the size": lambda one: one.resize((160, 120)),
    "another shape": lambda one: one.resize((224, 224)),
    "compressed": compressed,
    "mirrored": ImageOps.mirror,
    "cut all around": lambda one: cut(0.025, 0.025, 0.025, 0.025, one),
    "cut at the left": lambda one: cut(0.05, 0, 0, 0, one),
    "cut at the top": lambda one: cut(0, 0.08, 0, 0, one),
    "mirrored, cut, compressed": lambda one: compressed(cut(0.04, 0.01, 0.01, 0.04, ImageOps.mirror(one))),
}


def found(pictures: list[Image.Image], features: Tensor) -> list[tuple[int, int]]:
    thumbnails = torch.stack([measure(one).thumbnail for one in pictures])
    return [(low, high) for low, high, _ in twins(thumbnails, features)]


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("first", ["whole", "copy"])
def test_a_copy_is_found(kind: str, first: str):
    whole = [photo(name) for name in PHOTOS]
    copies = [COPIES[kind](one) for one in whole]
    features = torch.eye(4).repeat(2, 1) + 0.3  # a copy looks the same to the tower, another photo does not
    both = whole + copies if first == "whole" else copies + whole
    assert found(both, features) == [(place, place + 4) for place in range(4)]


def test_pixels_that_agree_everywhere_need_no_features():
    pictures = [photo("coffee"), photo("coffee").resize((200, 150))]
    assert found(pictures, torch.eye(2)) == [(0, 1)]


def test_another_thing_before_the_same_wall_is_no_copy():
    wall = photo("rocket")
    pictures = [wall.copy(), wall.copy()]
    pictures[0].paste(photo("coffee").resize((70, 70)), (40, 120))
    pictures[1].paste(photo("chelsea").resize((70, 70)), (40, 120))
    assert found(pictures, torch.eye(2)) == []
    assert found([photo("coffee"), photo("chelsea")], torch.ones(2, 2)) == []  # features alone are not enough


def test_many_copies_are_one_group_though_few_are_compared():
    pictures = [cut(0.002 * i, 0, 0, 0, photo("coffee")) for i in range(4 * NEAREST)]
    pairs = found(pictures, torch.ones(len(pictures), 3))
    assert len(pairs) <= NEAREST * len(pictures)
    assert first_of([(*pair, 1.0) for pair in pairs], len(pictures)) == [0] * len(pictures)


def test_pictures_of_one_colour_are_not_compared():
    plain = [Image.new("RGB", (50, 50), colour) for colour in ("white", "white", "red")]
    assert found([*plain, photo("coffee")], torch.eye(4)) == []
