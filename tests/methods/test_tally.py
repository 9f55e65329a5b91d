"""The watch over FVG-PT's training: it counts what it should, and speaks only when something is wrong."""

import torch

from foveate.methods.base import align
from foveate.methods.capabilities import Tally
from foveate.methods.fvgpt import failures, view_counts
from foveate.methods.guidance import FvgPtConfig, Guidance, Views
from foveate.seeds import stream
from foveate.types import Features

SCALE = torch.tensor(10.0)


def one_hot_views(area: list[float], foreground_right: list[bool]) -> tuple[Views, torch.Tensor]:
    """Pictures whose feature is their class's text: the backbone is always right."""
    n = len(area)
    features = Features(torch.eye(n)[None], torch.eye(n))
    full = 10 * torch.eye(n)
    foreground = torch.stack(
        [10 * full[i] if right else -full[i] for i, right in enumerate(foreground_right)]
    )
    shares = torch.tensor(area)
    return Views(features, full, foreground, full, full, shares, shares), torch.arange(n)


def guidance(n: int, **settings: object) -> Guidance:
    return Guidance(n, FvgPtConfig(adapter_hidden=4, **settings), stream(0, "test"))


def with_scale(features: Features) -> torch.Tensor:
    return align(features, SCALE)


def test_shares_are_those_counted_by_hand():
    views, labels = one_hot_views([0.0, 0.01, 0.5, 0.6], [True, True, True, False])
    tally, own = Tally(), guidance(4, adapters="none")
    tally.add(**view_counts(own, views, labels, with_scale))
    tally.add(**view_counts(own, views, labels, with_scale))
    assert tally.shares() == {
        "cut_away": 0.5,  # the first has no mask at all, the second less than min_area of it
        "backbone": 1.0,
        "adapted": 1.0,
        "lost": 0.0,
        "won": 0.0,
        "target": 0.25,  # of the two that are there, one foreground errs less
    }


def test_it_is_silent_while_the_guidance_does_no_harm():
    views, labels = one_hot_views([0.5] * 8, [True] * 8)
    tally = Tally()
    tally.add(**view_counts(guidance(8), views, labels, with_scale))
    assert failures(tally) == []
    assert failures(Tally()) == []
    assert Tally().shares() == {}


def test_it_says_when_adapted_answers_fall_below_the_backbone():
    views, labels = one_hot_views([0.5] * 8, [True] * 8)
    broken = guidance(8)
    with torch.no_grad():  # every picture is sent to the first class
        broken.image_adapter[-1].bias.copy_(100 * torch.eye(8)[0])
    tally = Tally()
    tally.add(**view_counts(broken, views, labels, with_scale))
    assert tally.shares()["lost"] == 7 / 8
    (note,) = failures(tally)
    assert "12.5 against 100.0 % right of 8 views" in note


def test_a_loss_within_chance_is_not_worth_a_word():
    views, labels = one_hot_views([0.5] * 8, [True] * 8)
    tally = Tally()
    tally.add(**view_counts(guidance(8), views, labels, with_scale))
    tally.sums["lost"], tally.sums["won"] = torch.tensor(12.0), torch.tensor(8.0)  # 4 < 2 √20
    assert failures(tally) == []
    tally.sums["lost"] = torch.tensor(18.0)  # 10 < 2 √26 = 10.2
    assert failures(tally) == []
    tally.sums["lost"] = torch.tensor(19.0)  # 11 > 2 √27 = 10.4
    assert len(failures(tally)) == 1


def test_it_says_when_most_objects_are_cut_away():
    views, labels = one_hot_views([0.0, 0.0, 0.5], [True] * 3)
    tally = Tally()
    tally.add(**view_counts(guidance(3), views, labels, with_scale))
    (note,) = failures(tally)
    assert note.startswith("fvgpt: 67 % of the views have no object left")
