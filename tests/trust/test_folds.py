"""Training on parts of the shots: what was trained already serves what stands on it."""

import pytest
import torch

from foveate.auto.parts import folds
from foveate.clip.model import Clip
from foveate.data.feature_store import FeatureStore
from foveate.methods.base import Method
from foveate.train.config import RunConfig
from foveate.train.shots import Chosen
from foveate.trust import folds as folds_module
from foveate.trust.folds import PartTrainer
from foveate.world.photos import scene_photos


def test_a_plug_in_finds_its_backbone_trained(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch):
    trained: list[str] = []
    fit = folds_module.fit

    def counted(method: Method, *rest: object, **named: object) -> None:
        trained.append(method.name)
        fit(method, *rest, **named)

    monkeypatch.setattr(folds_module, "fit", counted)
    photos = scene_photos(["red star", "blue ring"], 3, 1)
    chosen = Chosen(photos, photos.with_samples([]), shots=3)
    coop, plugged = (RunConfig(method=name, recipe={"epochs": 2}) for name in ("coop", "fvgpt+coop"))
    one, other = (PartTrainer(tiny_clip, chosen, FeatureStore()) for _ in range(2))
    part = folds(one.labels)[0]
    before = one.ask(one.train(coop, part.learned), part.asked)
    found = one.ask(one.train(plugged, part.learned), part.asked)
    assert trained == ["coop", "fvgpt"]
    assert torch.equal(one.ask(one.train(coop, part.learned), part.asked), before)
    assert torch.equal(other.ask(other.train(plugged, part.learned), part.asked), found)
    assert trained == ["coop", "fvgpt", "coop", "fvgpt"]


def test_what_is_solved_is_not_kept(tiny_clip: Clip):
    """It may hold all features of all shots, and takes no time."""
    photos = scene_photos(["red star", "blue ring"], 2, 1)
    trainer = PartTrainer(tiny_clip, Chosen(photos, photos.with_samples([]), shots=2), FeatureStore())
    config = RunConfig(method="tip_adapter")
    first, again = (trainer.train(config, [0, 2]) for _ in range(2))
    assert first is not again
    assert torch.equal(trainer.ask(first, [1, 3]), trainer.ask(again, [1, 3]))
