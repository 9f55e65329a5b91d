"""The statistics of reports: against hand calculations, and on data whose truth is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate.report.statistics import deviation, holm, interval, paired_p, resampled, seed_weights
from foveate.seeds import stream


def test_deviation_is_that_of_a_sample() -> None:
    assert deviation([1.0, 2.0, 6.0]) == pytest.approx(math.sqrt(7))
    assert deviation([3.0]) is None


def _pair(
    only_first: int, only_second: int, both: int = 5, none: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    first = [True] * only_first + [False] * only_second + [True] * both + [False] * none
    second = [False] * only_first + [True] * only_second + [True] * both + [False] * none
    return torch.tensor([first]), torch.tensor([second])


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (2, 8, 2 * (1 + 10 + 45) / 2**10),  # McNemar: 2 P(Bin(10, 1/2) <= 2) = 112/1024
        (0, 5, 2 / 2**5),
        (3, 3, 1.0),
        (0, 0, 1.0),
    ],
)
def test_with_one_seed_it_is_mcnemars_exact_test(only_first: int, only_second: int, p: float) -> None:
    assert paired_p(*_pair(only_first, only_second)) == pytest.approx(p, abs=1e-12)


def test_with_several_seeds_whole_pictures_are_flipped() -> None:
    # Differences by picture: +2, +1, -1. Of the 8 signs, the sum is 2 or more away from 0 in
    # +2+1+1=4, +2+1-1=2, +2-1+1=2, and their opposites: 6 of 8.
    first = torch.tensor([[True, True, False], [True, False, True]])
    second = torch.tensor([[False, False, True], [False, False, True]])
    assert paired_p(first, second) == pytest.approx(6 / 8, abs=1e-12)


@given(st.integers(0, 2**31))
def test_pairs_do_not_depend_on_which_comes_first(seed: int) -> None:
    first, second = torch.rand(2, 3, 40, generator=torch.Generator().manual_seed(seed)) < 0.6
    assert paired_p(first, second) == pytest.approx(paired_p(second, first), abs=1e-9)


def test_holm_by_hand() -> None:
    # 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, none below the one before.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_p_values_hold_their_level_where_rows_do_not_differ() -> None:
    generator = torch.Generator().manual_seed(1)
    small = 0
    for _ in range(300):
        hard = torch.rand(1, 60, generator=generator)
        first, second = (torch.rand(2, 60, generator=generator) < hard for _ in range(2))
        small += paired_p(first, second) < 0.05
    assert small <= 25  # 15 are expected, and 8.6 % would be chance of less than 1 %


def test_draws_of_pictures_are_binomial() -> None:
    right = torch.arange(200)[None] < 150
    (draws,) = resampled(right, [torch.ones(20000, 1, dtype=torch.float64)], stream(0, "a"))
    assert draws.mean().item() == pytest.approx(75, abs=0.1)
    assert draws.std().item() == pytest.approx(100 * math.sqrt(0.75 * 0.25 / 200), rel=0.03)


def test_many_seeds_are_drawn_as_few_are() -> None:
    right = torch.rand(70, 50, generator=torch.Generator().manual_seed(0)) < 0.5
    weights = seed_weights(70, 4000, stream(0, "w"))
    (draws,) = resampled(right, [weights], stream(0, "a"))
    assert draws.mean().item() == pytest.approx(100 * right.double().mean().item(), abs=0.3)


def test_draws_of_seeds_show_the_spread_of_their_mean() -> None:
    values = torch.tensor([70.0, 74.0, 75.0], dtype=torch.float64)
    means = seed_weights(3, 200_000, stream(0, "w")) @ values
    assert means.var().item() == pytest.approx(values.var().item() / 3, rel=0.02)
    assert seed_weights(1, 5, stream(0, "w")).tolist() == [[1.0]] * 5


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.0), (5, 0.04)])
def test_intervals_cover_the_truth(seeds: int, spread: float) -> None:
    """Pictures differ in how hard they are, and seeds in how good they make a model."""
    generator = torch.Generator().manual_seed(3)
    covered, trials, truth = 0, 300, 70.0
    for trial in range(trials):
        hard = 0.4 * torch.rand(1, 300, generator=generator) + 0.5  # 0.7 in the mean
        good = spread * torch.randn(seeds, 1, generator=generator)
        right = torch.rand(seeds, 300, generator=generator) < hard + good
        weights = seed_weights(seeds, 600, stream(trial, "seeds"))
        low, high = interval(resampled(right, [weights], stream(trial, "pictures"))[0])
        covered += low <= truth <= high
    assert covered / trials >= 0.91
    assert covered / trials < 1  # an interval that always covers says nothing
