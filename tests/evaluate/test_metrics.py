"""Each number that is reported, against one worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate.evaluate.metrics import accuracy, foreground_shift, harmonic_mean, mean, worst_group

percent = st.floats(0, 100)


def test_the_papers_harmonic_mean():
    assert harmonic_mean(82.40, 73.62) == pytest.approx(77.763, abs=5e-4)
    assert harmonic_mean(69.34, 74.22) == pytest.approx(71.70, abs=5e-3)  # zero-shot CLIP


def test_over_data_sets_it_is_the_one_of_averages():
    base, new = [90.0, 50.0], [50.0, 90.0]
    assert harmonic_mean(mean(base), mean(new)) == 70.0
    assert mean([harmonic_mean(b, n) for b, n in zip(base, new, strict=True)]) == pytest.approx(
        64.2857, abs=1e-4
    )


@given(percent, percent)
def test_the_harmonic_mean_lies_between_and_nearer_the_worse(base: float, new: float):
    hm = harmonic_mean(base, new)
    assert hm == harmonic_mean(new, base)
    assert min(base, new) - 1e-9 <= hm <= (base + new) / 2 + 1e-9


def test_the_worst_group_is_the_least_accuracy_of_any_that_has_pictures():
    at_home, away = {"landbird": (9, 10), "waterbird": (3, 4)}, {"landbird": (1, 5), "waterbird": (0, 0)}
    assert worst_group(at_home.values()) == 75.0
    assert worst_group([*at_home.values(), *away.values()]) == 20.0
    with pytest.raises(ValueError, match="empty"):
        worst_group([(0, 0)])


def test_harmonic_means_at_the_edge():
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(0.0, 80.0) == 0.0
    assert harmonic_mean(80.0, 80.0) == pytest.approx(80.0)


def test_accuracy_is_in_percent():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    assert accuracy(logits, torch.tensor([0, 1, 1])) == pytest.approx(200 / 3, abs=1e-12)  # float64
    assert accuracy(logits, torch.tensor([0, 1, 0])) == 100.0
    assert accuracy(logits, torch.tensor([1, 0, 1])) == 0.0


def test_equal_answers_do_not_shift():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    assert foreground_shift(logits, logits) == 0.0
    assert foreground_shift(logits, logits + 3) == pytest.approx(0.0, abs=1e-6)  # the same distributions


def test_a_shift_by_hand():
    # Softened with 2: (3/4, 1/4) against (1/2, 1/2).
    full, foreground = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    there = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    back = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert foreground_shift(full, foreground) == pytest.approx(there)
    assert foreground_shift(foreground, full) == pytest.approx(back)
    both = foreground_shift(torch.cat([full, foreground]), torch.cat([foreground, full]))
    assert both == pytest.approx((there + back) / 2)
    sharp = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)  # not softened: (9/10, 1/10)
    assert foreground_shift(full, foreground, tau=1.0) == pytest.approx(sharp)
