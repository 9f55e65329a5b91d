"""Averages of learned tensors over epochs: their weights, the average itself, and a resume in the middle."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from foveate.clip.model import Clip
from foveate.data.samples import MemoryPicture, Photos, Sample
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.registry import build
from foveate.train import loop
from foveate.train.journal import Step
from foveate.train.loop import GaussianAverage, fit
from foveate.train.recipe import Recipe, average_weight, recipe_for
from foveate.train.run import run_stages
from foveate.types import Batch

pytestmark = pytest.mark.usefixtures("few_sentences")

NAMES = ["cat", "dog", "phone"]
RECIPE = Recipe(epochs=4, lr=0.02, warmup_epochs=0, average_mean=3.0, average_std=1.5)
Batches = Callable[[int], Iterator[Batch]]


class KilledError(Exception):
    """Stands for the power going out."""


# --- weights ---


def weights(epochs: int, mean: float | None, std: float = 1.0) -> list[float]:
    recipe = Recipe(epochs=epochs, average_mean=None if mean is None else float(mean), average_std=float(std))
    return [average_weight(recipe, epoch) for epoch in range(epochs)]


def test_the_protocols_ten_epochs_leave_hardly_more_than_the_last():
    assert weights(10, 15)[-2:] == pytest.approx([0.00407, 0.9959], rel=1e-3)
    assert sum(weights(10, 15)[:-2]) < 1e-5


def test_the_authors_twenty_epochs_are_a_real_average():
    found = weights(20, 15)
    assert found[12:17] == pytest.approx([0.054, 0.242, 0.399, 0.242, 0.054], abs=5e-4)  # epochs 13 to 17
    assert found[11] == found[17] < 0.005


def test_the_cross_data_set_setting_is_nearly_even():
    assert weights(5, 6, 10) == pytest.approx([0.186, 0.195, 0.202, 0.207, 0.210], abs=5e-4)


@pytest.mark.parametrize("mean", [-1e3, 0.0, 1.0, 3.5, 7.0, 1e3, 1e6])
@pytest.mark.parametrize("std", [1e-2, 1.0, 50.0])
def test_weights_sum_to_one_wherever_the_mean_is(mean: float, std: float):
    found = weights(7, mean, std)
    assert sum(found) == pytest.approx(1)
    assert min(found) >= 0


def test_the_limits_are_one_epoch_and_the_plain_mean():
    assert weights(5, 2, 1e-3) == [0, 1, 0, 0, 0]
    assert weights(5, 2, 1e9) == pytest.approx([0.2] * 5)
    assert weights(5, None) == [0, 0, 0, 0, 1]
    assert weights(1, 15) == [1]


def test_promptsrc_averages_as_its_protocol_does():
    recipe = recipe_for("promptsrc")
    assert average_weight(recipe, 9) == pytest.approx(0.9959, rel=1e-4)
    assert average_weight(recipe_for("fvgpt+promptsrc"), 9) == average_weight(recipe, 9)


# --- the average ---


def values(method: Method) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in method.trainable().items()}


def after_each_epoch(method: Method, batches: Batches, recipe: Recipe) -> list[dict[str, Tensor]]:
    """Fit, and return the tensors as they were behind the last step of each epoch."""
    ends: dict[int, dict[str, Tensor]] = {}

    def keep(step: Step) -> None:
        ends[step.epoch] = values(method)

    fit(method, batches, recipe, on_step=keep)
    return [ends[epoch] for epoch in range(recipe.epochs)]


def test_a_fit_ends_with_the_weighted_sum_of_its_epochs(toy, batches: Batches):
    ends = after_each_epoch(toy, batches, RECIPE)
    for name, tensor in values(toy).items():
        expected = sum(
            weight * end[name].double() for weight, end in zip(weights(4, 3, 1.5), ends, strict=True)
        )
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6)
        assert (tensor - ends[-1][name]).abs().max() > 1e-3


def test_averaging_does_not_change_the_way_there(toy, batches: Batches):
    start = values(toy)
    with_average = after_each_epoch(toy, batches, RECIPE)
    toy.load_learned(start)
    without = after_each_epoch(toy, batches, replace(RECIPE, average_mean=None))
    for one, other in zip(with_average, without, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(tensor, without[-1][name]) for name, tensor in values(toy).items())


def test_frozen_tensors_are_not_touched(toy, batches: Batches):
    toy.second.requires_grad_(False)
    before, weight = toy.second.clone(), toy.clip.text.proj.clone()
    fit(toy, batches, RECIPE)
    assert torch.equal(toy.second, before)
    assert torch.equal(toy.clip.text.proj, weight)


def test_sums_are_as_precise_as_the_tensors(toy):
    with torch.no_grad():
        toy.first.fill_(1 + 2**-20)  # lost in half precision
    average = GaussianAverage(RECIPE, toy.trainable())
    for epoch in range(4):
        average.add(epoch)
    assert average.tensors["first"].dtype == torch.float32
    torch.testing.assert_close(toy.first.detach(), torch.full((2,), 1 + 2**-20), rtol=1e-7, atol=0)


def test_without_a_mean_nothing_is_kept(toy):
    assert GaussianAverage(replace(RECIPE, average_mean=None), toy.trainable()).tensors == {}


# --- a resume ---


def start_anew(clip: Clip, name: str) -> Method:
    method = build(name, clip, seed=3)
    method.set_classes(NAMES)
    return method


@pytest.mark.parametrize("name", ["coop", "promptsrc"])
def test_a_resumed_run_ends_as_one_that_was_not_stopped(
    name: str, tiny_clip: Clip, batches: Batches, tmp_path: Path
):
    whole = start_anew(tiny_clip, name)
    fit(whole, batches, RECIPE)
    for epoch in range(RECIPE.epochs):

        def dying(at: int, epoch: int = epoch) -> Iterator[Batch]:
            yield next(batches(at))
            if at == epoch:
                raise KilledError
            yield from list(batches(at))[1:]

        state = tmp_path / f"{epoch}.safetensors"
        with pytest.raises(KilledError):
            fit(start_anew(tiny_clip, name), dying, RECIPE, state=state)
        resumed = start_anew(tiny_clip, name)
        fit(resumed, batches, RECIPE, state=state)
        for key, tensor in values(whole).items():
            assert torch.equal(values(resumed)[key], tensor), (epoch, key)


def test_a_finished_run_started_again_keeps_its_average(tiny_clip: Clip, batches: Batches, tmp_path: Path):
    state = tmp_path / "state.safetensors"
    once, again = start_anew(tiny_clip, "coop"), start_anew(tiny_clip, "coop")
    fit(once, batches, RECIPE, state=state)
    fit(again, batches, RECIPE, state=state)
    assert torch.equal(again.learned()["ctx"], once.learned()["ctx"])


@pytest.mark.parametrize(("first", "then"), [(None, 3.0), (3.0, None)])
def test_the_state_of_a_run_with_another_kind_of_end_is_refused(
    first: float | None, then: float | None, tiny_clip: Clip, batches: Batches, tmp_path: Path
):
    state = tmp_path / "state.safetensors"
    fit(start_anew(tiny_clip, "coop"), batches, replace(RECIPE, average_mean=first), state=state)
    with pytest.raises(InputError, match="state of another run"):
        fit(start_anew(tiny_clip, "coop"), batches, replace(RECIPE, average_mean=then), state=state)


# --- stages ---


def test_a_plugins_own_stage_does_not_average(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch):
    kept: list[set[str]] = []

    class Watched(GaussianAverage):
        def __init__(self, *args):
            super().__init__(*args)
            kept.append(set(self.tensors))

    monkeypatch.setattr(loop, "GaussianAverage", Watched)
    grey = np.full((32, 32), 128, np.uint8)
    picture, mask = (
        MemoryPicture(Image.fromarray(grey).convert("RGB"), "p"),
        MemoryPicture(Image.fromarray(grey), "m"),
    )
    photos = Photos(tuple(NAMES[:2]), tuple(Sample(picture, row, mask) for row in (0, 1)), "binary255")
    run_stages("fvgpt+coop", tiny_clip, photos, replace(RECIPE, epochs=1, batch_size=2))
    assert kept == [{"ctx"}, set()]
