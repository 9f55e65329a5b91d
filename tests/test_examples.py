"""The examples run as they are, and the new method keeps the promises of docs/adding-a-method.md."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

from foveate.clip.model import Clip
from foveate.methods.dapt import Dapt
from foveate.methods.fvgpt import FvgPt
from foveate.methods.zeroshot import ZeroShot

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ["cat", "dog", "old photo"]


@pytest.fixture
def new_method(own_registry: None) -> ModuleType:
    spec = importlib.util.spec_from_file_location("new_method", EXAMPLES / "new_method.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(example: str) -> list[str]:
    """Run an example as a person does, and return the lines it prints."""
    # Small matrices: more threads only wait for one another.
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "error", str(EXAMPLES / example)]
    done = subprocess.run(words, env=one_thread, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_own_photos():
    *answers, loaded = run("own_photos.py")
    assert [line.split(":")[0] for line in answers] == ["heart.png", "star.png"]
    assert loaded.endswith("the answers are the same")


def test_new_method():
    assert [line.split(":")[0] for line in run("new_method.py")] == ["gain", "fvgpt+gain", "dapt+gain"]


def test_the_new_method_starts_as_zero_shot_clip(new_method: ModuleType, tiny_clip: Clip):
    gain, zeroshot = new_method.Gain(tiny_clip), ZeroShot(tiny_clip)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for method in (gain, zeroshot):
            method.set_classes(NAMES)
        expected = zeroshot.logits(zeroshot.features(images))
        torch.testing.assert_close(gain.logits(gain.features(images)), expected)


def test_a_plug_in_takes_the_new_method(new_method: ModuleType, tiny_clip: Clip):
    gain = new_method.Gain(tiny_clip)
    plugged = FvgPt(gain)
    assert set(gain.learned()) == {"gain"}
    assert "gain" not in plugged.trainable()
    together = Dapt(new_method.Gain(tiny_clip))
    assert set(together.trainable()) == {"host.gain"}
    assert "host.gain" in plugged.learned()


def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Its cells run in order, and find what was planted."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cells = json.loads((EXAMPLES / "good_enough.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {}
    for place, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {place}", "exec"), names)
    said = capsys.readouterr().out
    assert "odd.png" in said
    assert "copy.png" in said
    assert "Chosen: " in said
    assert "none of these, novelty" in said
    assert any(tmp_path.iterdir())
