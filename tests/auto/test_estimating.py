"""Estimates: the best of several is no longer flattered, curves by hand, and intervals that hold."""

import math

import pytest
import torch
from scipy.stats import beta

from foveate.auto.choosing import (
    LEVEL,
    Curve,
    best_beside,
    honest,
    pick,
    resample,
    scores,
)
from foveate.auto.trials import draws, folds
from foveate.trust.trust import fit_temperature


def test_scores_by_hand():
    labels = torch.tensor([0, 1, 1])
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    likely = (logits / fit_temperature(logits, labels)).softmax(dim=1)[torch.arange(3), labels]
    (found,) = scores([logits], labels).T
    assert found.tolist() == pytest.approx(((likely + torch.tensor([1, 1, 0])) / 2).tolist())


def test_the_reference_is_taken_unless_another_is_better_by_a_point():
    means = torch.tensor([[0.80, 0.805, 0.7], [0.80, 0.82, 0.82], [0.5, 0.4, 0.3], [0.8, 0.8, 0.9]])
    assert pick(means).tolist() == [0, 1, 0, 2]
    assert best_beside(torch.tensor([[0.9, 0.1, 0.2]])) == 2
    assert best_beside(torch.tensor([[0.9]])) == 0


def test_the_best_of_many_coins_is_a_coin():
    """Ten candidates that guess: the best looks better than that, and the correction takes it back."""
    plain, mended, gains = [], [], []
    for seed in range(150):
        right = torch.rand(40, 10, generator=torch.Generator().manual_seed(seed)) < 0.5
        values = right.double()
        own = int(pick(values.mean(dim=0)[None]))
        again = resample(values, right, torch.Generator().manual_seed(seed))
        plain.append(float(values[:, own].mean()))
        mended.append(plain[-1] - again.optimism)
        gains.append(again.gain.low > 0)
    assert sum(plain) / 150 > 0.6
    assert sum(mended) / 150 == pytest.approx(0.5, abs=0.02)
    assert sum(gains) / 150 < 0.1  # at 90 %, 5 % should be above


def test_one_that_is_better_stays_so():
    generator = torch.Generator().manual_seed(0)
    right = torch.stack([torch.rand(200, generator=generator) < p for p in (0.6, 0.9, 0.6)], dim=1)
    again = resample(right.double(), right, generator)
    assert abs(again.optimism) < 0.01
    assert 15 < again.gain.low < again.gain.value < again.gain.high < 45


def test_one_candidate_alone_has_no_gain_and_no_optimism():
    right = torch.rand(30, 1, generator=torch.Generator().manual_seed(0)) < 0.7
    again = resample(right.double(), right, torch.Generator().manual_seed(1))
    assert abs(again.optimism) < 0.01
    assert (again.gain.low, again.gain.high) == pytest.approx((0, 0), abs=1.0)


def test_the_curve_by_hand():
    """Errors that halve with each doubling fall with power -1; the usual power counts like a spread of 1."""
    points = [(2.0, 0.4), (4.0, 0.2), (8.0, 0.1)]
    x = [math.log(one) for one, _ in points]
    spread = sum((one - sum(x) / 3) ** 2 for one in x)
    curve = Curve.of(points, 10_000)
    assert curve.slope == pytest.approx((-spread - 0.3) / (spread + 1), rel=1e-3)
    assert curve.at(8.0).value == pytest.approx(90)
    assert curve.at(32.0).value == pytest.approx(100 * (1 - 0.1 * 4**curve.slope))
    assert curve.at(32.0).low < curve.at(32.0).value < curve.at(32.0).high
    worse = Curve.of([(2.0, 0.1), (4.0, 0.3), (8.0, 0.5)], 10_000)
    assert worse.slope == 0  # more photos never promise less
    assert Curve.of([(6.0, 0.2)], 100).slope == pytest.approx(-0.3)
    assert Curve.of([(6.0, 0.2)], 100, optimism=0.1).at(6.0).value == pytest.approx(70)
    assert Curve.of([(6.0, 0.0)], 20).at(22.0).high == 100


def test_intervals_hold_what_they_promise():
    """Over many truths, they hold them at least as often as they say."""
    inside = total = 0
    generator = torch.Generator().manual_seed(0)
    for truth in beta(8, 2).ppf(torch.linspace(0.02, 0.98, 25).numpy()):
        for _ in range(40):
            right = int((torch.rand(48, generator=generator) < truth).sum())
            one = honest(right / 48, 48)
            inside += one.low <= 100 * truth <= one.high
            total += 1
    assert inside / total == pytest.approx(LEVEL, abs=0.03)


def test_folds_and_draws():
    labels = torch.arange(3).repeat(8)
    parts = folds(labels)
    assert sorted(row for part in parts for row in part.test) == list(range(24))
    assert all(not set(part.train) & set(part.test) for part in parts)
    sizes = [
        {tuple(torch.bincount(labels[list(part.train)]).tolist()) for part in some}
        for some in draws(labels, 1)
    ]
    assert sizes == [{(2, 2, 2)}, {(4, 4, 4)}]
    assert draws(labels, 1) == draws(labels, 1) != draws(labels, 2)
    assert [len(some) for some in draws(torch.arange(3).repeat(2), 1)] == []  # the folds learn from one each
    assert len(draws(torch.arange(3).repeat(3), 1)) == 1
