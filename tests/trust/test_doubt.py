"""Temperatures and sets of names, against scipy, and against figures worked out by hand."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from foveate.errors import InputError
from foveate.trust.doubt import fit_temperature, prediction_sets
from foveate.trust.promises import least_probability, pictures_needed


def drawn(number: int, seed: int, sharp: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of which softmax(logits / sharp) is the truth's own distribution."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(number, 4, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    return sharp * logits, labels


def test_the_temperature_is_where_scipy_finds_the_least_loss():
    logits, labels = drawn(300, 0)
    target = torch.full_like(logits, 1 / 302 / 3)
    target[torch.arange(300), labels] = 301 / 302

    def loss(power: float) -> float:
        return -(target * (logits / math.exp(power)).log_softmax(dim=1)).sum(dim=1).mean().item()

    expected = math.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x)
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(3.0, rel=0.15)  # how it was drawn


def test_temperatures_at_the_edge():
    sure = 10.0 * torch.eye(3)
    right, wrong = torch.arange(3), torch.tensor([1, 2, 0])
    # Platt's targets: 4/5 of a right answer. e^(10/T) / (e^(10/T) + 2) = 4/5 where 10/T = ln 8.
    assert fit_temperature(sure, right) == pytest.approx(10 / math.log(8), rel=1e-6)
    assert fit_temperature(sure, wrong) == pytest.approx(100.0)
    assert 0 < fit_temperature(torch.zeros(5, 1), torch.zeros(5, dtype=torch.long)) < math.inf


def test_the_least_probability_by_hand():
    truths = (torch.arange(1, 20) / 20).tolist()  # 0.05, 0.10, ... 0.95
    # Of 19 + 1 pictures, 0.1 * 20 = 2 may be left out: the second smallest is the least that stays in.
    assert least_probability(truths, 0.1) == pytest.approx(0.10)
    assert least_probability(truths[::-1], 0.05) == pytest.approx(0.05)


@pytest.mark.parametrize(("risk", "needed"), [(0.5, 1), (0.2, 4), (0.1, 9), (0.05, 19), (0.01, 99)])
def test_how_many_pictures_a_risk_needs(risk: float, needed: int):
    assert pictures_needed(risk) == needed
    least_probability([0.5] * needed, risk)
    with pytest.raises(InputError, match=rf"needs {needed} pictures, and {needed - 1} were held back"):
        least_probability([0.5] * (needed - 1), risk)


@pytest.mark.parametrize("risk", [0.0, 1.0, -0.1, math.nan, math.inf])
def test_what_is_no_risk(risk: float):
    with pytest.raises(InputError, match="give a number above 0 and below 1"):
        pictures_needed(risk)


def test_a_set_is_never_empty():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.34, 0.33, 0.33], [0.1, 0.0, 0.9]])
    assert prediction_sets(p, 0.3).tolist() == [
        [True, True, False],
        [True, True, True],
        [False, False, True],
    ]
    assert prediction_sets(p, 0.95).sum(dim=1).tolist() == [1, 1, 1]


def test_sets_hold_the_truth_as_often_as_they_promise():
    held, coverage = 40, []
    for seed in range(300):
        logits, labels = drawn(held + 200, seed)
        p = (logits / 3).softmax(dim=1)
        truths = p[:held].gather(1, labels[:held, None])[:, 0]
        sets = prediction_sets(p[held:], least_probability(truths.tolist(), 0.1))
        coverage.append(sets.gather(1, labels[held:, None]).double().mean().item())
    # Exact for such draws: 1 - 4/41 = 90.2 % on average, a little more where a set would be empty.
    assert 0.895 < sum(coverage) / len(coverage) < 0.92
