"""The demo's scenes, table, picture and page, on a scale that tests can bear."""

import json
from pathlib import Path

import pytest
from PIL import Image

import foveate.demo
from foveate.classifier import Classifier
from foveate.demo import moved_answers, run_demo, scene_pairs, summary, test_scenes, training_scenes
from foveate.world.species import BASE, BY_NAME, NEW

test_scenes.__test__ = False


def test_nine_of_ten_training_scenes_stand_at_home_and_test_scenes_where_they_are_asked_to():
    home = [BY_NAME[BASE[s.label]].home == s.picture.scene.place for s in training_scenes(1).samples]
    assert 0.85 < sum(home) / len(home) < 0.97
    assert training_scenes(2).digest() != training_scenes(1).digest()
    for half, names in (("base", BASE), ("new", NEW)):
        photos = test_scenes(half, "home", 1)
        assert photos.names == names
        assert all(BY_NAME[names[s.label]].home == s.picture.scene.place for s in photos.samples)


def test_pairs_differ_in_their_place_alone():
    pairs = scene_pairs(1, each=1)
    for home, away, (here, there) in zip(pairs.home.samples, pairs.away.samples, pairs.places, strict=True):
        one, other = vars(home.picture.scene), vars(away.picture.scene)
        assert {name for name in one if one[name] != other[name]} == {"place"}
        assert (one["place"], other["place"]) == (here, there)
        assert BY_NAME[BASE[home.label]].home == here


def test_zero_shot_answers_follow_the_place():
    classifier = Classifier("zeroshot", foveate.demo.CLIP)
    classifier.ask_about(BASE)
    home, away = (
        classifier.evaluate(test_scenes("base", condition, 1), "new").accuracy
        for condition in ("home", "any")
    )
    assert home > away + 10
    assert away > 40  # chance is 5 %


def test_the_demo_measures_three_methods_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in (("SHOTS", 2), ("TESTS", 2), ("RECIPE", {"epochs": 1, "augment": "none"})):
        monkeypatch.setattr(foveate.demo, name, value)
    found = run_demo(tmp_path, [1])
    head, *rows = summary(found)
    assert head == ["method", "base home", "new home", "HM home", "base any", "new any", "HM any"]
    assert [row[0] for row in rows] == ["zeroshot", "coop", "fvgpt+coop"]
    kept = json.loads((tmp_path / "result.json").read_text())
    assert kept["seeds"]["1"]["coop"]["base any"] == found[1]["coop"]["base any"]
    with Image.open(tmp_path / "gaze.png") as picture:
        assert picture.width > 8 * 168
    page = (tmp_path / "index.html").read_text()
    assert "CoOp wrong, FVG-PT right" in page
    assert "Answers that change when nothing but the place does, of 100 scenes" in page
    assert "http" not in page
    assert (tmp_path / "seed-1" / "model.safetensors").is_file()
    tuned = Classifier.from_pretrained(tmp_path / "seed-1")
    assert 0 < moved_answers(tuned, scene_pairs(1, each=1)) < 100
