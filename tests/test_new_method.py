"""The example of a new method keeps what the contract of all methods asks of learned tensors."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from foveate.clip.model import Clip
from foveate.methods.fvgpt import FvgPt

FILE = Path(__file__).parents[1] / "examples" / "new_method.py"
NAMES = ["cat", "dog"]


@pytest.fixture
def example(own_registry: None) -> ModuleType:
    spec = importlib.util.spec_from_file_location("new_method", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_learned_tensor_is_where_the_towers_are(example: ModuleType, tiny_clip: Clip):
    gain = example.Gain(tiny_clip.to("meta"))  # stands for a GPU
    assert gain.gain.device.type == "meta"


def test_it_takes_the_sentence_of_a_data_set(example: ModuleType, tiny_clip: Clip):
    gain = example.Gain(tiny_clip)
    gain.set_classes(NAMES, "a photo of a {}, a type of pet.")
    told = example.Gain(tiny_clip, example.GainConfig("a photo of a {}, a type of pet."))
    told.set_classes(NAMES)
    assert torch.equal(gain.text_features(), told.text_features())


def test_texts_follow_towers_that_change_below_a_plug_in(example: ModuleType, tiny_clip: Clip):
    plugged = FvgPt(example.Gain(tiny_clip))
    plugged.set_classes(NAMES)
    plugged.clip.to(torch.bfloat16)
    plugged.set_classes(NAMES)
    again = FvgPt(example.Gain(tiny_clip))
    again.set_classes(NAMES)
    assert torch.equal(plugged.backbone.text_features(), again.backbone.text_features())
