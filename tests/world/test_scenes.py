"""Scenes: the same pixels for ever, exact masks, and nothing of one scene in another."""

import math
from dataclasses import replace

import numpy as np
import pytest

from foveate.world.scenes import COLOURS, NAMES, PLACES, SHAPES, TEXTURES, Scene, render

# Every 14th pixel from the fourth on, and the size of the mask. A machine with another sine may differ by a
# level here and there; another drawing differs by many.
GOLDEN: dict[Scene, tuple[str, int]] = {
    Scene("star", "red", "striped", "grass", 0.3, 0.45, 0.55, 0.2, 7): (
        "4f70374f7539446a303f622e4567333661314a713741692e6487415c8042486f32da1c206a0c14406c31315a2751773c"
        "65803b335626315e2736662f5a7f3b3a542b416c30426832436c33",
        476,
    ),
    Scene("ring", "cyan", "plain", "night", 0.36, 0.5, 0.5, 0.0, 11): (
        "0f0d2611153012162c15142b110d2b14102e2bdbe029dee026dce408092115143128e2dd1518302adbe412122b1d1e3c"
        "29d9e42cdde527dbe4151333171731e7e2dc100d2c0f142d191436",
        1160,
    ),
    Scene("moon", "pink", "dotted", "brick", 0.25, 0.6, 0.4, -0.3, 13): (
        "824c34964d3b954a418e4d4080432fac9f92a59e93723862a6a693a99b98844333995643f177c4904c3a8e4a40a89f99"
        "a5a196aba698a3a297a9a2978443338640369c553f76382f8c4f3c",
        390,
    ),
    Scene("circle", "green"): (
        "847f7e7d7f7f827f7e83827b7e7b7f807d8480837e179a31807d817d7c7b7f8083179d2e139f32189a317f7c817d8178"
        "837e831797317a818381817f837e7d7d7b807e807f7f827f7a7f7e",
        936,
    ),
}


@pytest.mark.parametrize("scene", GOLDEN, ids=lambda scene: scene.name)
def test_a_scene_looks_as_it_always_did(scene: Scene):
    pictures, masks = render([scene])
    seen = pictures[0, 4::14, 4::14].astype(int).ravel()
    pixels, size = GOLDEN[scene]
    assert np.abs(seen - np.frombuffer(bytes.fromhex(pixels), np.uint8)).max() <= 1
    assert abs(int(masks.sum()) - size) <= 2


def test_a_scene_is_the_same_alone_and_in_company():
    scenes = list(GOLDEN)
    together = render(scenes)
    for i, scene in enumerate(scenes):
        alone = render([scene])
        assert (together[0][i] == alone[0][0]).all()
        assert (together[1][i] == alone[1][0]).all()
    backwards = render(scenes[::-1])
    assert (backwards[0][::-1] == together[0]).all()


def test_no_scenes():
    pictures, masks = render([], 16)
    assert (pictures.shape, masks.shape) == ((0, 16, 16, 3), (0, 16, 16))


# In squares of the radius, by integration of each shape's inequality. (Heart and moon have none so short.)
AREAS = {
    "circle": 0.8 * math.pi,
    "square": 1.48**2,
    "triangle": 1.7 * 1.7 / 1.9,
    "ring": math.pi * (0.94**2 - 0.46**2),
    "cross": 2 * 0.54 * 1.8 - 0.54**2,
    "diamond": 2 * 0.95**2 * 0.62,
    "arrow": 0.95**2 / 1.1 + 0.48 * 0.95,
    "hourglass": 4 * (0.08 * 0.85 + 0.85**3 / 2),
    "clover": math.pi * (0.64**2 + 0.3**2 / 2),
    "star": 5 * 0.42 * math.sin(math.pi / 5),
}


@pytest.mark.parametrize("shape", AREAS)
@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_masks_have_the_shapes_area(shape: str, angle: float):
    size, radius = 256, 0.35
    mask = render([Scene(shape, "red", radius=radius, x=0.45, y=0.55, angle=angle)], size)[1]
    assert mask.sum() == pytest.approx(AREAS[shape] * (radius * size) ** 2, rel=0.025)  # edge pixels round up


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_move_and_grow_with_the_object(shape: str):
    there = render([Scene(shape, "red", radius=0.2, x=0.375, y=0.5)])[1][0]
    moved = render([Scene(shape, "red", radius=0.2, x=0.5, y=0.25)])[1][0]
    assert there.any()
    assert (np.roll(there, (-16, 8), (0, 1)) == moved).all()
    small, large = (render([Scene(shape, "red", radius=r)], 256)[1].sum() for r in (0.2, 0.4))
    assert large / small == pytest.approx(4, rel=0.05)


def test_up_is_up():
    heart = render([Scene("triangle", "red")])[1][0]
    assert heart[:32].sum() < heart[32:].sum()  # its point is at the top
    arrow = render([Scene("arrow", "red")])[1][0]
    assert arrow[:, 32:].sum() > arrow[:, :32].sum()  # it points to the right
    turned = render([Scene("arrow", "red", angle=math.pi / 2)])[1][0]
    assert turned[:32].sum() > turned[32:].sum()  # and turns against the clock


@pytest.mark.parametrize("place", PLACES)
def test_the_mask_is_where_the_object_hides_the_place(place: str):
    scene = Scene("star", "purple", "checked", place, 0.3, 0.4, 0.6, 0.1, seed=5)
    pictures, masks = render([scene, replace(scene, x=9.0)])  # the same place with the object far outside
    assert not masks[1].any()
    mask, changed = masks[0], (pictures[0] != pictures[1]).any(-1)
    assert changed[mask].mean() > 0.99
    grown = mask.copy()
    for axis in (0, 1):
        for way in (-1, 1):
            grown |= np.roll(mask, way, axis)
    assert not changed[~grown].any()  # beyond the object's soft edge not a single level differs


@pytest.mark.parametrize("colour", COLOURS)
def test_objects_have_their_colour(colour: str):
    picture, mask = render([Scene("square", colour, seed=3)])
    seen = picture[0][mask[0]].mean(0)
    nearest = min(COLOURS, key=lambda c: np.linalg.norm(seen - np.array(COLOURS[c])))
    assert nearest == colour


def test_textures_darken_parts_of_the_object_only():
    pictures, masks = render([Scene("square", "yellow", texture, radius=0.4) for texture in TEXTURES])
    assert (masks == masks[0]).all()
    for i, texture in enumerate(TEXTURES):
        dark = (pictures[i][masks[0]].mean(-1) < 130).mean()
        assert (dark == 0) if texture == "plain" else (0.15 < dark < 0.6), texture
        assert (pictures[i][~masks[0]] == pictures[0][~masks[0]]).mean() > 0.95


def test_places_differ_and_their_seed_matters():
    grounds = render([Scene("star", "red", place=p, x=9.0, seed=s) for p in PLACES for s in (1, 2)])[0]
    means = grounds.astype(float).reshape(len(PLACES), 2, -1, 3).mean(2)
    for i in range(len(PLACES)):
        assert (grounds[2 * i] != grounds[2 * i + 1]).any()
        for j in range(i):
            assert np.abs(means[i, 0] - means[j, 0]).max() > 12, (i, j)


def test_any_size_shows_the_same_scene():
    scene = Scene("heart", "blue", place="stone", x=0.4, y=0.6)
    for size in (32, 128):
        share = render([scene], size)[1].mean()
        assert share == pytest.approx(render([scene])[1].mean(), rel=0.05)


def test_ninety_six_names():
    assert len(set(NAMES)) == len(NAMES) == 96
    assert Scene("star", "red").name in NAMES
