"""From one red shape on grey to everything; and words that say exactly what is asked for."""

from collections import Counter

import numpy as np
import pytest

from foveate.world.photos import (
    COLOURFUL,
    EARLY_MENTIONS,
    MENTIONS,
    PLACE_WORDS,
    caption,
    key,
    mention,
    random_scene,
)
from foveate.world.scenes import COLOURS, PLACES, SHAPES, TEXTURES, Scene


def scenes(difficulty: float, number: int = 300, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng, difficulty) for _ in range(number)]


def test_at_first_there_is_one_red_shape_centred_on_grey():
    for scene in scenes(0.0):
        assert (scene.colour, scene.texture, scene.place) == ("red", "plain", "plain")
        assert (scene.x, scene.y, scene.angle) == (0.5, 0.5, 0.0)
        assert 0.36 <= scene.radius <= 0.40
    assert {scene.shape for scene in scenes(0.0)} == set(SHAPES)


def test_colours_join_one_by_one_and_first():
    known = [len({s.colour for s in scenes(d, 400)}) for d in np.linspace(0, COLOURFUL, 8)]
    assert known == list(range(1, len(COLOURS) + 1))
    assert all(s.place == s.texture == "plain" and s.x == 0.5 for s in scenes(COLOURFUL))


def test_half_way_there_is_some_of_everything():
    drawn = scenes(0.55)  # the middle between COLOURFUL and 0.9
    for attribute in ("texture", "place"):
        plain = np.mean([getattr(s, attribute) == "plain" for s in drawn])
        assert 0.4 < plain < 0.75, attribute
    assert 0.27 < min(s.radius for s in drawn) < 0.30


@pytest.mark.parametrize("difficulty", [0.9, 1.0])
def test_in_the_end_everything_is_reached(difficulty: float):
    drawn = scenes(difficulty, 1500)
    assert {s.shape for s in drawn} == set(SHAPES)
    assert {s.colour for s in drawn} == set(COLOURS)
    assert {s.texture for s in drawn} == set(TEXTURES)
    assert {s.place for s in drawn} == set(PLACES)  # never on plain grey
    assert 0.20 <= min(s.radius for s in drawn) < 0.21
    assert 0.39 < max(s.radius for s in drawn) <= 0.40
    assert min(s.angle for s in drawn) < -0.33
    assert max(s.angle for s in drawn) > 0.33
    assert min(s.x for s in drawn) < 0.22
    assert max(s.y for s in drawn) > 0.78
    assert len({s.seed for s in drawn}) == len(drawn)


def test_objects_stay_in_the_picture():
    for scene in scenes(1.0, 1500):
        for centre in (scene.x, scene.y):
            assert 0.9 * scene.radius - 1e-9 <= centre <= 1 - 0.9 * scene.radius + 1e-9


def test_equal_streams_give_equal_scenes():
    assert scenes(0.7, 20, seed=3) == scenes(0.7, 20, seed=3)
    assert scenes(0.7, 20, seed=3) != scenes(0.7, 20, seed=4)


def mentions(difficulty: float, number: int = 2000) -> Counter[tuple[str, ...]]:
    rng = np.random.default_rng(0)
    return Counter(mention(rng, difficulty) for _ in range(number))


def test_what_captions_mention_grows_with_the_scenes():
    assert set(mentions(0.0)) == {("shape",)}
    assert set(mentions(0.1)) == {kind for kind, _ in EARLY_MENTIONS}
    assert not any("place" in kind or "texture" in kind for kind in mentions(COLOURFUL - 1e-6))
    late = mentions(1.0)
    for kind, share in MENTIONS:
        assert late[kind] / 2000 == pytest.approx(share, abs=0.035), kind
    assert sum(share for _, share in MENTIONS) == pytest.approx(1)


def captions(number: int = 60, **values: str) -> set[str]:
    rng = np.random.default_rng(0)
    return {caption(values, rng) for _ in range(number)}


def test_captions_in_words():
    assert "a photo of a red striped star on grass." in captions(
        shape="star", colour="red", texture="striped", place="grass"
    )
    assert "there is an orange circle" in captions(shape="circle", colour="orange")
    assert "a picture of an arrow at night" in captions(shape="arrow", place="night")
    assert "a photo of something on water." in captions(place="water")
    assert "an image of a blue shape" in captions(colour="blue")
    assert "a photo of a red star." in captions(shape="star", colour="red", texture="plain")
    assert "a photo of a star on grey." in captions(shape="star", place="plain")


@pytest.mark.parametrize("values", [{"shape": "ring"}, {"colour": "orange"}, {"place": "sand"}])
def test_captions_are_clean_sentences(values: dict[str, str]):
    found = captions(**values)
    assert len(found) > 5
    for text in found:
        assert text == " ".join(text.split())
        assert text.count(".") == text.endswith(".")
        assert not text.startswith((".", " "))
        assert " a o" not in f" {text}"  # "a orange"
        assert " a something" not in f" {text}"


def test_equal_keys_are_equal_captions_and_others_are_not():
    first = Scene("star", "red", "striped", "grass", seed=1)
    second = Scene("star", "red", "plain", "night", radius=0.2, seed=2)
    assert key(first, ("shape", "colour")) == key(second, ("shape", "colour")) == ("star", "red")
    assert key(first, ("shape", "place")) != key(second, ("shape", "place"))


def test_every_place_has_its_words():
    assert set(PLACE_WORDS) == set(PLACES)
    assert PLACE_WORDS["night"] == "at night"
    assert len(set(PLACE_WORDS.values())) == len(PLACES)
