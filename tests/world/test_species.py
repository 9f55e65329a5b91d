"""Species: who lives where, and where scenes of them stand."""

from collections import Counter

import numpy as np
import pytest

from foveate.errors import InputError
from foveate.world.photos import scene_photos, species_photos, spoil
from foveate.world.scenes import ALL_PLACES, PLACES, SHOT_PLACES, TEST_PLACES, Scene, render, render_ground
from foveate.world.species import BASE, BY_NAME, HELD_OUT, NEW, RESIDENTS, SIBLINGS, SPECIES, place_for


def scenes_of(photos) -> list[Scene]:
    return [sample.picture.scene for sample in photos.samples]


def test_siblings_have_one_shape_and_other_homes_and_every_place_has_residents_of_other_shapes():
    assert len(SPECIES) == len({one.name for one in SPECIES}) == 40
    for one in SPECIES:
        assert {s.family for s in SIBLINGS[one.name]} == {one.family}
        assert one.home not in {s.home for s in SIBLINGS[one.name]}
        assert one.colour not in {s.colour for s in SIBLINGS[one.name]}
    for place in PLACES:
        families = [one.family for one in RESIDENTS[place]]
        assert len(families) == len(set(families)) == 5


def test_base_and_new_share_families_but_for_two_that_are_new():
    assert len(BASE) == len(NEW) == 20
    assert not set(BASE) & set(NEW)
    base = {BY_NAME[name].family for name in BASE}
    new = {BY_NAME[name].family for name in NEW}
    assert not base & set(HELD_OUT)
    assert set(HELD_OUT) <= new
    assert base < new


@pytest.mark.parametrize("condition", ["home", "any", "sibling", "unseen"])
def test_where_test_scenes_stand(condition):
    photos = species_photos(BASE, 6, 3, condition=condition)
    places = [(BY_NAME[BASE[s.label]], s.picture.scene.place) for s in photos.samples]
    if condition == "home":
        assert all(species.home == place for species, place in places)
    elif condition == "sibling":
        for species, place in places:
            siblings = [one.home for one in SIBLINGS[species.name] if one.name in BASE]
            assert place in siblings
    else:
        assert {place for _, place in places} == set(TEST_PLACES if condition == "unseen" else PLACES)


def test_where_training_scenes_stand():
    photos = species_photos(BASE, 40, 5, at_home=0.5)
    home = [BY_NAME[BASE[s.label]].home == s.picture.scene.place for s in photos.samples]
    assert np.mean(home) == pytest.approx(0.5 + 0.5 / 11, abs=0.05)
    assert {scene.place for scene in scenes_of(photos)} == set(PLACES) | set(SHOT_PLACES)


def test_a_sibling_that_is_no_answer_lends_its_home_only_where_none_is():
    rng = np.random.default_rng(0)
    alone = SPECIES[0]
    homes = {place_for(alone, "sibling", rng, [alone.name]) for _ in range(50)}
    assert homes == {one.home for one in SIBLINGS[alone.name]}


def test_scenes_depend_on_seed_and_label_alone():
    first, again = species_photos(BASE[:2], 3, 1, at_home=1.0), species_photos(BASE[:2], 3, 1, at_home=1.0)
    assert scenes_of(first) == scenes_of(again)
    assert scenes_of(first) != scenes_of(species_photos(BASE[:2], 3, 2, at_home=1.0))


def test_a_ground_is_the_picture_without_its_object():
    scenes = scenes_of(species_photos(NEW, 2, 1, condition="any", others=1))
    pictures, masks = render(scenes)
    grounds = render_ground(scenes)
    for scene, picture, mask, ground in zip(scenes, pictures, masks, grounds, strict=True):
        changed = np.abs(picture.astype(int) - ground).max(-1) > 0
        assert mask.any()
        assert changed[mask].mean() > 0.9
        far = ~mask & ~changed
        assert (far | mask | changed).all()
        if not scene.occluded:  # beyond the object's smooth edge nothing differs
            grown = np.zeros_like(mask)
            for down in range(-2, 3):
                for right in range(-2, 3):
                    grown |= np.roll(mask, (down, right), (0, 1))
            assert not changed[~grown].any()


def test_every_place_can_be_drawn_and_looks_like_none_of_the_others():
    scenes = [Scene("star", "red", place=place, radius=0.05, x=0.1, y=0.1) for place in ALL_PLACES]
    pictures = render(scenes)[0].astype(float)
    flat = pictures.reshape(len(scenes), -1, 3)
    looks = np.concatenate([flat.mean(1), flat.std(1)], axis=1)
    apart = np.abs(looks[:, None] - looks[None]).max(-1) + 1e3 * np.eye(len(scenes))
    assert apart.min() > 4


def test_an_occluder_covers_a_part_that_the_mask_leaves_out():
    scene = Scene("square", "red", place="snow", radius=0.3, seed=4)
    plain, covered = render([scene])[1][0], render([Scene(**{**vars(scene), "occluded": True})])[1][0]
    assert 0.5 * plain.sum() < covered.sum() < plain.sum()
    assert not (covered & ~plain).any()


def test_spoiled_masks():
    masks = render(scenes_of(species_photos(BASE, 5, 1, condition="any")))[1]
    eroded, shifted, wrong = (spoil(masks, kind, 1) for kind in ("eroded", "shifted", "wrong"))
    assert not (eroded & ~masks).any()
    assert 0.2 < eroded.sum() / masks.sum() < 0.8
    overlap = (shifted & masks).sum((1, 2)) / masks.sum((1, 2))
    assert 0.05 < overlap.mean() < 0.7
    changed = (wrong != masks).any((1, 2))
    assert changed.sum() == len(masks) // 5
    assert Counter(map(bytes, wrong)) == Counter(map(bytes, masks))


def test_bad_wishes_are_one_line():
    with pytest.raises(InputError, match="no species 'red star': take some of alba star"):
        species_photos(["red star"], 1, 1, at_home=1.0)
    with pytest.raises(InputError, match="either condition, for tests, or at_home"):
        species_photos(BASE, 1, 1)
    with pytest.raises(InputError, match="either condition"):
        species_photos(BASE, 1, 1, at_home=1.0, condition="home")
    assert len(scene_photos(["red star"], 1, 1)) == 1
