"""Training on parts of the shots: what was trained already serves what stands on it."""

from dataclasses import replace

import pytest
import torch

from foveate.auto.trials import folds
from foveate.classifier import Classifier
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
    before = one.ask(one.train(coop, part.train), part.test)
    found = one.ask(one.train(plugged, part.train), part.test)
    assert trained == ["coop", "fvgpt"]
    assert torch.equal(one.ask(one.train(coop, part.train), part.test), before)
    assert torch.equal(other.ask(other.train(plugged, part.train), part.test), found)
    assert trained == ["coop", "fvgpt", "coop", "fvgpt"]


def test_what_is_solved_is_not_kept(tiny_clip: Clip):
    """It may hold all features of all shots, and takes no time."""
    photos = scene_photos(["red star", "blue ring"], 2, 1)
    trainer = PartTrainer(tiny_clip, Chosen(photos, photos.with_samples([]), shots=2), FeatureStore())
    config = RunConfig(method="tip_adapter")
    first, again = (trainer.train(config, [0, 2]) for _ in range(2))
    assert first is not again
    assert torch.equal(trainer.ask(first, [1, 3]), trainer.ask(again, [1, 3]))


@pytest.mark.parametrize("method", ["mmrl", "vpt"])
def test_a_fold_of_a_tuned_tower_is_a_training_on_its_shots_alone(tiny_clip: Clip, method: str):
    photos = scene_photos(["red star", "blue ring"], 4, 1)
    few, others = (
        photos.with_samples([photos.samples[row] for row in some]) for some in ([0, 1, 4, 5], [2, 6])
    )
    whole = photos.with_samples([*few.samples, *others.samples])
    recipe = {"epochs": 2, "batch_size": 2, "warmup_epochs": 0, "lr": 0.05}
    trainer = PartTrainer(tiny_clip, Chosen(whole, photos.with_samples([]), shots=4), FeatureStore())
    part = trainer.train(RunConfig(method=method, recipe=recipe), range(4))
    alone = Classifier(method, tiny_clip).fit(replace(few, selection="hand"), recipe=recipe, bank="off")
    learned = part.learned()
    assert all(torch.equal(learned[name], tensor) for name, tensor in alone.method.learned().items())
    assert torch.allclose(trainer.ask(part, [4, 5]), alone.evaluate(others, "base").logits, atol=1e-4)
