"""The demo's task and table, on a scale that tests can bear."""

import json
from pathlib import Path

import pytest
from PIL import Image

import foveate.demo
from foveate.demo import Task, make_task, run_demo
from foveate.world.photos import ScenePicture


def places(task: Task, name: str, split: str) -> set[str]:
    photos = getattr(task, split)
    scenes = [s.picture.scene for s in photos.samples if isinstance(s.picture, ScenePicture)]
    return {scene.place for scene in scenes if scene.name == name}


def test_in_training_each_class_is_at_home_and_in_the_test_anywhere():
    task = make_task(1)
    assert len(task.base) == 12
    assert len(task.test.names) == 24
    for name in task.base:
        assert places(task, name, "train") == {task.home[name]}
        assert len(places(task, name, "test")) > 4
    assert make_task(1).train.digest() == task.train.digest()
    assert make_task(2).base != task.base


def test_the_demo_measures_three_methods_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = make_task(1, classes=10, shots=2, tests=8)
    monkeypatch.setattr(foveate.demo, "make_task", lambda seed: small)
    monkeypatch.setattr(foveate.demo, "RECIPE", {"epochs": 1})
    with pytest.warns(UserWarning, match="fewer than 16 pictures"):
        rows = run_demo(tmp_path, [1])
    assert [row.method for row in rows] == ["zeroshot", "coop", "fvgpt+coop"]
    assert rows[0].base > 60  # chance is 20 %
    kept = json.loads((tmp_path / "result.json").read_text())
    assert [row["hm"] for row in kept["mean"]] == [row.hm for row in rows]
    with Image.open(tmp_path / "gaze.png") as picture:
        assert picture.width > 5 * 192
    assert (tmp_path / "seed-1" / "model.safetensors").is_file()
