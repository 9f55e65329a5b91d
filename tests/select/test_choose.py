"""What holds for every selector: how many, which class, again the same; and what is refused."""

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from foveate.errors import InputError
from foveate.select.choosing import choose
from foveate.select.configs import CONFIGS, GlisterConfig, Name
from foveate.select.pool import PoolFeatures, budgets

Pool = Callable[..., PoolFeatures]
NAMES = get_args(Name)


@pytest.mark.parametrize("name", NAMES)
def test_each_class_gives_its_budget_and_no_picture_twice(pool: Pool, name: str):
    seen = pool(12, 7, 1, 9, epochs=3)
    budget = [5, 2, 1, 0]
    chosen = choose(name, seen, budget, torch.Generator().manual_seed(1))
    assert len(set(chosen.tolist())) == len(chosen) == 8
    assert torch.bincount(seen.labels[chosen], minlength=4).tolist() == budget
    assert chosen.equal(chosen.sort().values)


def test_it_tells_of_each_class(pool: Pool):
    told: list[tuple[int, int]] = []
    choose("herding", pool(3, 4, 5), [1, 0, 2], torch.Generator(), watch=lambda *done: told.append(done))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_chosen_of_all_and_one_of_one(pool: Pool, name: str):
    seen = pool(4, 6, epochs=3)
    whole = choose(name, seen, budgets([4, 6], 1.0), torch.Generator())
    assert whole.tolist() == list(range(10))
    single = pool(1, 1, 1, epochs=3)
    assert choose(name, single, [1, 1, 1], torch.Generator()).tolist() == [0, 1, 2]
    pair = pool(2, 2, epochs=3)
    assert len(choose(name, pair, [1, 1], torch.Generator())) == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_same_generator_gives_the_same_choice(pool: Pool, name: str):
    seen = pool(30, 30, epochs=4)
    first, second, third = (
        choose(name, seen, [6, 6], torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.equal(second)
    assert first.equal(third) == (name not in ("uniform", "glister"))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("uniform", "glister")])
def test_a_class_is_chosen_from_as_if_it_were_alone(pool: Pool, name: str):
    seen = pool(10, 10, epochs=4)
    both = choose(name, seen, [4, 3], torch.Generator())
    apart = [choose(name, seen, budget, torch.Generator()) for budget in ([4, 0], [0, 3])]
    assert both.equal(torch.cat(apart).sort().values)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_that_stand_in_the_pool_twice_do_no_harm(pool: Pool, name: str):
    seen = pool(5, 5, epochs=3)
    double = PoolFeatures(
        seen.features.repeat(2, 1), seen.texts, seen.labels.repeat(2), seen.scale, seen.right.repeat(1, 2)
    )
    chosen = choose(name, double, [6, 6], torch.Generator())
    assert len(set(chosen.tolist())) == 12


@pytest.mark.parametrize("name", NAMES)
def test_pictures_without_any_gradient_do_no_harm(pool: Pool, name: str):
    seen = pool(6, 6, scale=1e5, noise=0.01, epochs=3)  # p is 1 of the right class, to the last bit
    assert len(choose(name, seen, [3, 3], torch.Generator())) == 6


def test_one_class_alone_can_be_chosen_from(pool: Pool):
    for name in NAMES:
        assert len(choose(name, pool(8, epochs=3), [3], torch.Generator())) == 3


def test_seen_is_made_of_raw_features(pool: Pool):
    raw, texts = 7 * torch.randn(3, 4), 3 * torch.randn(2, 4)
    seen = PoolFeatures.of(raw, texts, torch.tensor([0, 1, 1]), 10.0)
    logits = 10 * F.cosine_similarity(raw[:, None], texts[None], dim=-1)
    torch.testing.assert_close(seen.block(1).logits.float(), logits[1:])


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("hearding", {}, "there is no selector 'hearding'; did you mean 'herding'?"),
        ("xyzzy", {}, "there is no selector 'xyzzy'; there are uniform, herding"),
        ("herding", {"deep": True}, "herding has no setting 'deep'; did you mean 'deepcore'?"),
        ("uniform", {"deepcore": True}, "uniform has no setting 'deepcore'; there is none"),
        ("cal", {"keep": "most"}, "cal: keep is 'most': give one of highest, lowest"),
        ("cal", {"neighbours": 2.5}, "cal: neighbours is 2.5: give a whole number"),
        ("herding", {"deepcore": "no"}, "herding: deepcore is 'no': give true or false"),
        ("graphcut", {"weight": float("nan")}, "graphcut: weight is nan: give a number"),
        ("cal", {"neighbours": 0}, "cal: neighbours is 0: give at least 1"),
        ("glister", {"rounds": 0}, "glister: rounds is 0: give at least 1"),
        ("glister", {"rate": -1.0}, "glister: rate is -1.0: give 0 or more"),
        ("glister", {"validation": 1.0}, "glister: validation is 1.0: give a number between 0 and 1"),
        ("forgetting", {}, "fit with --log-answers"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(pool: Pool, name: str, settings: dict[str, object], says: str):
    with pytest.raises(InputError) as told:
        choose(name, pool(4, 4), [2, 2], torch.Generator(), **settings)
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_a_log_of_one_epoch_tells_of_no_forgetting(pool: Pool):
    with pytest.raises(InputError, match="two epochs or more"):
        choose("forgetting", pool(4, 4, epochs=1), [2, 2], torch.Generator())


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.2, float("nan")])
def test_a_fraction_that_is_none_is_refused(fraction: float):
    with pytest.raises(InputError, match="give a number above 0, at most 1"):
        budgets([4], fraction)


def test_features_that_are_not_finite_are_refused():
    features = torch.ones(3, 2)
    features[1, 0] = torch.inf
    with pytest.raises(InputError, match="picture 1 are not finite"):
        PoolFeatures.of(features, torch.eye(2), torch.zeros(3, dtype=torch.long), 1.0)


def test_settings_belong_to_selectors_that_there_are():
    assert set(CONFIGS) <= set(NAMES)
    assert GlisterConfig().validation == 0.1
