"""The schedule against the field's printed rates, the optimisers, and settings that make no sense."""

import math

import pytest
import torch
from torch import nn

from foveate.errors import InputError
from foveate.train.optimiser import AdamW, FirstOrder, make_optimiser
from foveate.train.recipe import Recipe, learning_rate, recipe_for

# What Dassl's scheduler gives (spec 1.6), to the digits printed there.
PRINTED = {
    (
        0.0035,
        10,
        1,
    ): "1e-5 .0035 .00341435 .00316578 .00277862 .00229078 .00175 .00120922 .000721376 .00033422",
    (
        0.0025,
        10,
        1,
    ): "1e-5 .0025 .00243882 .00226127 .00198473 .00163627 .00125 .000863729 .000515268 .000238729",
    (0.001, 5, 0): ".001 .000904508 .000654508 .000345492 9.54915e-5",
}


@pytest.mark.parametrize(("lr", "epochs", "warmup"), PRINTED)
def test_rates_are_the_fields(lr: float, epochs: int, warmup: int):
    recipe = Recipe(lr=lr, epochs=epochs, warmup_epochs=warmup)
    rates = [learning_rate(recipe, epoch) for epoch in range(epochs)]
    printed = [float(rate) for rate in PRINTED[lr, epochs, warmup].split()]
    assert rates == pytest.approx(printed, rel=2e-6)


def test_rates_are_those_of_torchs_cosine_behind_the_warmup():
    recipe = Recipe(lr=0.3, epochs=7, warmup_epochs=2, warmup_lr=0.01)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs)
    expected = [0.01, 0.01]
    for _ in range(5):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        cosine.step()
    assert [learning_rate(recipe, epoch) for epoch in range(7)] == pytest.approx(expected)


def test_the_defaults_are_the_protocols():
    recipe = recipe_for("fvgpt+coop")
    assert (recipe.epochs, recipe.batch_size, recipe.optimiser, recipe.lr) == (10, 4, "sgd", 0.0035)
    assert (recipe.weight_decay, recipe.momentum) == (5e-4, 0.9)
    assert (recipe.warmup_epochs, recipe.warmup_lr) == (1, 1e-5)
    assert recipe_for("coop") == recipe


def test_changes_change_and_none_leaves_alone():
    recipe = recipe_for("coop", {"epochs": 3, "lr": None, "optimiser": "adamw"})
    assert (recipe.epochs, recipe.lr, recipe.optimiser) == (3, 0.0035, "adamw")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"crop_scale": 0.0}, "crop_scale is 0.0"),
        ({"crop_scale": 1.5}, "crop_scale is 1.5"),
        ({"clip_grad": 0.0}, "clip_grad is 0.0"),
        ({"weight_decay": -1e-3}, "weight_decay is -0.001"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1"),
        ({"optimiser": "adam"}, "optimiser is 'adam': give one of sgd, adamw"),
        ({"augment": "rrc"}, "augment is 'rrc': give one of rrc-flip, squash, none"),
        ({"epoch": 5}, "no setting 'epoch'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, object], said: str):
    with pytest.raises(InputError, match=said):
        recipe_for("coop", change)


def test_limits_of_settings_are_allowed():
    recipe_for("coop", {"crop_scale": 1.0, "warmup_epochs": 0, "weight_decay": 0.0, "momentum": 0.0})


def one_tensor() -> dict[str, nn.Parameter]:
    return {"x": nn.Parameter(torch.tensor([1.0, -2.0]))}


def step(optimiser: FirstOrder, x: nn.Parameter) -> None:
    optimiser.zero_grad()
    (x * torch.tensor([0.5, 1.0])).sum().backward()
    optimiser.step()


def test_sgd_has_momentum_and_decay():
    learned = one_tensor()
    x = learned["x"]
    optimiser = make_optimiser(Recipe(lr=0.1, momentum=0.9, weight_decay=0.2), learned)
    expected, speed = x.detach().clone(), torch.zeros(2)
    for _ in range(3):
        step(optimiser, x)
        speed = 0.9 * speed + torch.tensor([0.5, 1.0]) + 0.2 * expected
        expected = expected - 0.1 * speed
    torch.testing.assert_close(x.detach(), expected)


def test_adamw_decays_apart_from_its_step():
    learned = one_tensor()
    x = learned["x"]
    optimiser = make_optimiser(Recipe(optimiser="adamw", lr=0.1, weight_decay=0.2), learned)
    assert isinstance(optimiser, AdamW)
    assert optimiser.betas == (0.9, 0.999)
    step(optimiser, x)
    # The first step of Adam is lr · sign(gradient), whatever its size.
    expected = torch.tensor([1.0, -2.0]) * (1 - 0.1 * 0.2) - 0.1
    torch.testing.assert_close(x.detach(), expected, rtol=1e-5, atol=1e-5)
