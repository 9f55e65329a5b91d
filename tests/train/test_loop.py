"""The loop: what it minimises, logs, clips, counts and refuses."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from foveate.errors import InputError
from foveate.methods.registry import build
from foveate.train.journal import Journal, Step
from foveate.train.loop import Diverged, fit
from foveate.train.recipe import Recipe

PLAIN = Recipe(epochs=4, lr=0.05, warmup_epochs=0, momentum=0.0, weight_decay=0.0)


def steps_of(toy, batches, recipe: Recipe = PLAIN, **more) -> list[Step]:
    seen: list[Step] = []
    fit(toy, batches, recipe, on_step=seen.append, **more)
    return seen


def test_the_loss_drops(toy, batches):
    seen = steps_of(toy, batches)
    assert seen[-1].loss < 0.5 * seen[0].loss


def test_one_step_is_the_gradient_of_the_sum(toy, batches):
    target = next(iter(batches(0))).images.mean()
    first, second = toy.first.detach().clone(), toy.second.detach().clone()
    seen = steps_of(toy, lambda epoch: [next(iter(batches(epoch)))], Recipe(**{**vars(PLAIN), "epochs": 1}))
    torch.testing.assert_close(toy.first.detach(), first - 0.05 * 2 * (first - target))
    torch.testing.assert_close(toy.second.detach(), second - 0.05 * (second - 2 * target))
    expected = torch.cat([2 * (first - target), second - 2 * target]).norm()
    assert seen[0].grad_norm == pytest.approx(expected.item(), rel=1e-5)


def test_steps_are_counted_and_named(toy, batches):
    seen = steps_of(toy, batches)
    assert [(s.epoch, s.step) for s in seen] == [(i // 3, i) for i in range(12)]
    assert all(set(s.losses) == {"pull", "size"} for s in seen)
    assert [s.lr for s in seen[::3]] == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)]
    )
    assert seen[0].loss == pytest.approx(sum(seen[0].losses.values()))


def test_the_journal_has_every_term_of_every_step(toy, batches, tmp_path: Path):
    path = tmp_path / "log.jsonl"
    seen = steps_of(toy, batches, journal=Journal(path, "toy"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == len(seen) == 12
    for line, step in zip(lines, seen, strict=True):
        assert line == {
            "stage": "toy",
            "epoch": step.epoch,
            "step": step.step,
            "lr": step.lr,
            "loss": step.loss,
            "loss.pull": step.losses["pull"],
            "loss.size": step.losses["size"],
            "grad_norm": step.grad_norm,
        }


def test_training_mode_is_on_inside_and_off_behind(toy, batches):
    modes = []
    fit(toy, batches, PLAIN, on_step=lambda _: modes.append(toy.training))
    assert all(modes)
    assert not toy.training


def test_clipping_bounds_the_step_and_reports_the_norm_before(toy, batches):
    recipe = Recipe(**{**vars(PLAIN), "clip_grad": 0.5, "lr": 1.0, "epochs": 1})
    before = torch.cat([toy.first, toy.second]).detach().clone()
    seen = steps_of(toy, lambda epoch: [next(iter(batches(epoch)))], recipe)
    moved = torch.cat([toy.first, toy.second]).detach() - before
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-4)
    assert seen[0].grad_norm > 5


def test_small_gradients_are_not_enlarged_by_clipping(toy, batches):
    free = steps_of(toy, batches)
    with torch.no_grad():
        toy.first.copy_(torch.tensor([3.0, -2.0]))
        toy.second.copy_(torch.tensor([1.0, 4.0]))
    clipped = steps_of(toy, batches, Recipe(**{**vars(PLAIN), "clip_grad": 1e6}))
    assert free == clipped


def test_frozen_tensors_stay_and_are_not_decayed(toy, batches):
    toy.second.requires_grad_(False)
    steps_of(toy, batches, Recipe(**{**vars(PLAIN), "weight_decay": 0.5}))
    assert toy.second.tolist() == [1.0, 4.0]


def test_a_method_with_nothing_to_learn_asks_for_no_batch(tiny_clip):
    def never(_epoch: int):
        raise AssertionError("no batch is needed")

    fit(build("zeroshot", tiny_clip), never, Recipe())


def spoiled(toy, at: int, change: Callable) -> None:
    toy.spoil = lambda step, losses: change(losses) if step == at else losses


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_named(toy, batches, value: float):
    spoiled(toy, 4, lambda losses: losses | {"size": losses["size"] * 0 + value})
    with pytest.raises(Diverged, match=rf"step 4: the loss term 'size' is {value}.*smaller lr \(now 0.05\)"):
        fit(toy, batches, PLAIN)


def test_a_loss_that_is_no_number_changes_nothing(toy, batches):
    spoiled(toy, 0, lambda losses: losses | {"size": losses["size"] * math.nan})
    with pytest.raises(Diverged):
        fit(toy, batches, PLAIN)
    assert toy.first.tolist() == [3.0, -2.0]


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("name", ["first", "second"])
def test_a_gradient_that_is_no_number_is_named(toy, batches, name: str, clip: float | None):
    tensor = getattr(toy, name)
    # sqrt has an infinite slope at 0, and 0 · inf is no number; the value stays finite.
    spoiled(toy, 2, lambda losses: losses | {"extra": (0 * tensor).abs().sqrt().sum()})
    recipe = Recipe(**{**vars(PLAIN), "clip_grad": clip})
    with pytest.raises(Diverged, match=f"step 2: the gradient of {name} is not finite"):
        fit(toy, batches, recipe)


def test_an_explosion_is_named_with_advice(toy, batches):
    spoiled(toy, 5, lambda losses: losses | {"pull": losses["pull"] * 0 + 1e6})
    said = r"step 5: the loss has exploded to 1e\+06, mostly 'pull'; it began at .*smaller lr.*clip_grad=1"
    with pytest.raises(Diverged, match=said):
        fit(toy, batches, PLAIN)


def test_what_counts_as_an_explosion_is_a_setting(toy, batches):
    spoiled(toy, 5, lambda losses: losses | {"pull": losses["pull"] * 0 + 1e6})
    fit(toy, batches, Recipe(**{**vars(PLAIN), "explode_at": 1e9}))


def test_a_rate_far_too_high_is_found_out(toy, batches):
    with pytest.raises(Diverged):
        fit(toy, batches, Recipe(**{**vars(PLAIN), "lr": 50.0, "epochs": 20}))


@pytest.mark.parametrize("left", [{}, {"constant": torch.tensor(1.0)}])
def test_losses_that_train_nothing_are_refused(toy, batches, left: dict[str, torch.Tensor]):
    spoiled(toy, 0, lambda _: left)
    with pytest.raises(InputError, match="no loss term that trains anything"):
        fit(toy, batches, PLAIN)


def test_divergence_is_the_users_to_mend():
    assert issubclass(Diverged, InputError)


def test_an_explosion_in_the_very_last_step_is_found_out(toy, batches):
    steps = PLAIN.epochs * len(list(batches(0)))
    spoiled(toy, steps, lambda losses: losses | {"pull": losses["pull"] * math.nan})
    with pytest.raises(Diverged, match=rf"step {steps}: the loss term 'pull' is nan"):
        fit(toy, batches, PLAIN)
