"""Temperatures and sets of names, against scipy, and against figures worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression

from foveate.errors import InputError
from foveate.evaluate.answers import calibrated
from foveate.evaluate.judgement import ece
from foveate.prediction import Calibration
from foveate.trust.promises import least_probability, pictures_needed, prediction_sets
from foveate.trust.trust import fit_groups, fit_temperature


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
    assert prediction_sets(p.numpy(), 0.3).tolist() == [
        [True, True, False],
        [True, True, True],
        [False, False, True],
    ]
    assert prediction_sets(p.numpy(), 0.95).sum(axis=1).tolist() == [1, 1, 1]


def test_sets_hold_the_truth_as_often_as_they_promise():
    held, coverage = 40, []
    for seed in range(300):
        logits, labels = drawn(held + 200, seed)
        p = (logits / 3).softmax(dim=1)
        truths = p[:held].gather(1, labels[:held, None])[:, 0]
        sets = prediction_sets(p[held:].numpy(), least_probability(truths.tolist(), 0.1))
        coverage.append(torch.from_numpy(sets).gather(1, labels[held:, None]).double().mean().item())
    # Exact for such draws: 1 - 4/41 = 90.2 % on average, a little more where a set would be empty.
    assert 0.895 < sum(coverage) / len(coverage) < 0.92


# --- how often such answers were right ---


def test_groups_are_the_isotonic_regression_of_equal_groups():
    generator = torch.Generator().manual_seed(3)
    p = (3 * torch.randn(97, 5, generator=generator)).softmax(dim=1)
    labels = torch.multinomial(p.sqrt(), 1, generator=generator)[:, 0]  # less right than it says
    sure, right = fit_groups(p, labels)
    top, answers = p.double().max(dim=1)
    parts = np.array_split(top.argsort(stable=True).numpy(), 4)
    means = [float(top[part].mean()) for part in parts]
    hits = [float((answers[part] == labels[part]).sum()) for part in parts]
    shares = [(hit + mean) / (len(part) + 1) for hit, mean, part in zip(hits, means, parts, strict=True)]
    fitted = IsotonicRegression().fit(means, shares, sample_weight=[len(part) + 1 for part in parts])
    assert sure == pytest.approx(means)
    assert right == pytest.approx(fitted.predict(means))


def test_few_pictures_have_no_groups():
    assert fit_groups(torch.full((39, 3), 1 / 3), torch.zeros(39, dtype=torch.long)) == ((), ())
    p = torch.full((3, 4), 0.25).numpy()
    assert Calibration().as_right(p) is p


@given(
    st.lists(st.lists(st.floats(-8, 8), min_size=4, max_size=4), min_size=1, max_size=6),
    st.lists(st.floats(0.01, 1), min_size=2, max_size=4),
)
def test_probabilities_stay_probabilities_and_names_in_their_order(
    rows: list[list[float]], right: list[float]
):
    p = torch.tensor(rows, dtype=torch.float64).softmax(dim=1).numpy()
    sure = tuple(np.linspace(0.3, 0.95, len(right)).tolist())
    calibration = Calibration(1.0, sure, tuple(sorted(right)))
    found = calibration.as_right(p)
    assert found == pytest.approx(np.clip(found, 0, 1))
    assert found.sum(axis=1) == pytest.approx(np.ones(len(p)))
    wanted = np.clip(np.interp(p.max(axis=1), sure, sorted(right)), 0.25, 1)
    assert found.max(axis=1) == pytest.approx(wanted, abs=1e-9)
    for before, after in zip(p, found, strict=True):
        more = before[:, None] > before[None]
        assert (after[:, None] - after[None] >= -1e-12)[more].all()


def test_answers_are_as_likely_as_they_are_right():
    """The likeliest name is right in 6 of 10 pictures however sure the softmax is: no temperature says so."""
    generator = torch.Generator().manual_seed(0)
    logits = 6 * torch.rand(4000, 5, generator=generator)
    right = torch.rand(4000, generator=generator) < 0.6
    second = logits.argsort(dim=1)[:, -2]
    labels = torch.where(right, logits.argmax(dim=1), second)
    held, rest = slice(0, 400), slice(400, None)
    temperature = fit_temperature(logits[held], labels[held])
    p = (logits / temperature).softmax(dim=1)
    calibration = Calibration(temperature, *fit_groups(p[held], labels[held]))
    found = calibrated(logits[rest], calibration)
    assert ece(p[rest].max(dim=1).values, right[rest]) > 8
    assert ece(found.max(dim=1).values, right[rest]) < 5
    assert torch.equal(found.argmax(dim=1), logits[rest].argmax(dim=1))
