"""Scenes as a labelled set: homes, masks, and the same scenes whichever set they are in."""

import numpy as np
import pytest

from foveate.data.loader import PictureSet
from foveate.data.samples import Photos
from foveate.world.photos import ScenePicture, scene_photos
from foveate.world.scenes import PLACES, Scene, render

NAMES = ("red star", "blue ring", "green heart")


def scenes(photos: Photos) -> list[Scene]:
    return [sample.picture.scene for sample in photos.samples]


def test_a_picture_and_its_mask_are_of_one_scene():
    scene = Scene("star", "red", place="grass", seed=4)
    pictures, masks = render([scene], 48)
    seen = np.asarray(ScenePicture(scene, size=48).load())
    mask = np.asarray(ScenePicture(scene, "mask", 48).load())
    assert (seen == pictures[0]).all()
    assert mask.dtype == np.uint8
    assert (mask == masks[0] * 255).all()
    assert ScenePicture(scene).load().size == (64, 64)


def test_a_set_has_so_many_of_each_with_the_right_name():
    photos = scene_photos(NAMES, 4, 1, split="train")
    assert photos.names == NAMES
    assert photos.counts() == dict.fromkeys(NAMES, 4)
    for sample in photos.samples:
        assert sample.picture.scene.name == NAMES[sample.label]
        assert sample.mask.scene == sample.picture.scene
        assert (sample.picture.layer, sample.mask.layer, sample.split) == ("picture", "mask", "train")
    assert len(set(scenes(photos))) == 12


def test_at_home_every_class_is_in_its_own_place():
    home = {"red star": "grass", "blue ring": "water", "green heart": "night"}
    assert all(scene.place == home[scene.name] for scene in scenes(scene_photos(NAMES, 5, 1, home=home)))


def test_without_a_home_they_are_everywhere():
    drawn = scenes(scene_photos(NAMES[:1], 150, 1))
    assert {scene.place for scene in drawn} == set(PLACES)
    assert len({scene.texture for scene in drawn}) == 4


def test_only_the_place_differs_between_home_and_anywhere():
    free = scenes(scene_photos(NAMES, 3, 1))
    home = scenes(scene_photos(NAMES, 3, 1, home=dict.fromkeys(NAMES, "snow")))
    for a, b in zip(free, home, strict=True):
        assert (a.shape, a.colour, a.texture, a.radius, a.x) == (b.shape, b.colour, b.texture, b.radius, b.x)


def test_a_scene_does_not_depend_on_the_others_in_the_set():
    many, few = scenes(scene_photos(NAMES, 5, 1)), scenes(scene_photos(NAMES[:2], 3, 1))
    assert few == [*many[:3], *many[5:8]]
    assert scenes(scene_photos(NAMES, 5, 2)) != many


def test_batches_have_the_exact_masks():
    photos = scene_photos(NAMES, 2, 1)
    batch = next(PictureSet(photos, 64).batches(None, 6, workers=0))
    expected = render(scenes(photos))[1]
    assert (batch.masks[:, 0].numpy() == expected).all()
    assert batch.areas.numpy() == pytest.approx(expected.mean((1, 2)))
    assert batch.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_names_in_messages_and_fingerprints_tell_scenes_apart():
    first, again, other = (scene_photos(NAMES, 2, seed) for seed in (1, 1, 2))
    assert first.digest(masks=True) == again.digest(masks=True) != other.digest(masks=True)
    assert (
        first.samples[0].name
        == f"picture of a red star on {scenes(first)[0].place} (scene {scenes(first)[0].seed})"
    )
    assert first.samples[0].mask.name.startswith("mask of a red star")
