"""Each selector beside a slow one that is written from its definition: loops, and gradients written out."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.select import pool as kernels
from foveate.select.choosing import choose
from foveate.select.pool import ClassFeatures, PoolFeatures, budgets
from foveate.select.rules import GlisterConfig, events, glister, k_center, lazy_greedy

Pool = Callable[..., PoolFeatures]
Reference = Callable[[Tensor, Tensor, Tensor, int], list[int]]
"""Features `[n, D]`, gradients `[n, C (1 + D)]`, probabilities `[n, C]`, how many."""


def true_gradients(z: Tensor, weight: Tensor, bias: Tensor, label: int) -> Tensor:
    """Each picture's gradient of the cross entropy by bias and weight of the last layer, by autograd."""
    rows: list[Tensor] = []
    for one in z:
        w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        F.cross_entropy((w @ one + b)[None], torch.tensor([label])).backward()
        rows.append(torch.cat([b.grad, w.grad.flatten()]))
    return torch.stack(rows)


def last_layer(seen: PoolFeatures) -> tuple[Tensor, Tensor]:
    return seen.scale * seen.texts.double(), torch.zeros(len(seen.texts), dtype=torch.float64)


def parts(seen: PoolFeatures, label: int) -> tuple[Tensor, Tensor, Tensor]:
    z = seen.features[seen.labels == label].double()
    weight, bias = last_layer(seen)
    return z, true_gradients(z, weight, bias, label), (z @ weight.T).softmax(-1)


def greedy(n: int, count: int, value: Callable[[list[int]], float]) -> list[int]:
    """Add, step by step, whichever picture makes the set worth most; of equals the first."""
    chosen: list[int] = []
    for _ in range(count):
        left = [i for i in range(n) if i not in chosen]
        chosen.append(max(left, key=lambda i: (round(value([*chosen, i]), 9), -i)))
    return chosen


def lowest(scores: Sequence[float], count: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (scores[i], i))[:count]


def ref_confidence(z: Tensor, grads: Tensor, p: Tensor, count: int) -> list[int]:
    return lowest([float(max(row)) for row in p], count)


def ref_entropy(z: Tensor, grads: Tensor, p: Tensor, count: int) -> list[int]:
    return lowest([sum(float(q * q.log()) for q in row) for row in p], count)


def ref_margin(z: Tensor, grads: Tensor, p: Tensor, count: int) -> list[int]:
    tops = [sorted(row.tolist(), reverse=True) for row in p]
    return lowest([top[0] - top[1] for top in tops], count)


def ref_grand(z: Tensor, grads: Tensor, p: Tensor, count: int) -> list[int]:
    return lowest([-float(g.norm()) for g in grads], count)


def ref_herding(z: Tensor, grads: Tensor, p: Tensor, count: int, *, farthest: bool = False) -> list[int]:
    mean, chosen = z.mean(0), list[int]()
    for step in range(count):
        goal = (step + 1) * mean - sum((z[i] for i in chosen), torch.zeros_like(mean))
        sign = -1 if farthest else 1
        left = [i for i in range(len(z)) if i not in chosen]
        chosen.append(min(left, key=lambda i: sign * float((goal - z[i]).norm())))
    return chosen


def ref_kcenter(z: Tensor, grads: Tensor, p: Tensor, count: int) -> list[int]:
    chosen = [min(range(len(z)), key=lambda i: float((z[i] - z.mean(0)).norm()))]
    while len(chosen) < count:
        left = [i for i in range(len(z)) if i not in chosen]
        chosen.append(max(left, key=lambda i: min(float((z[i] - z[j]).norm()) for j in chosen)))
    return chosen


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def ref_graphcut(z: Tensor, grads: Tensor, p: Tensor, count: int, weight: float = 1.0) -> list[int]:
    k = [[cosine(a, b) for b in grads] for a in grads]

    def value(chosen: list[int]) -> float:
        cover = sum(k[i][j] for i in range(len(k)) for j in chosen)
        return weight * cover - sum(k[i][j] for i in chosen for j in chosen)

    return greedy(len(z), count, value)


def ref_facility(z: Tensor, grads: Tensor, p: Tensor, count: int) -> list[int]:
    k = [[cosine(a, b) for b in grads] for a in grads]
    return greedy(len(z), count, lambda s: sum(max(0.0, *(row[j] for j in s)) for row in k))


def ref_craig(z: Tensor, grads: Tensor, p: Tensor, count: int) -> list[int]:
    k = [[-float((a - b).norm()) for b in grads] for a in grads]
    lift = 1e-3 - min(min(row) for row in k)  # as DeepCore has it
    return greedy(len(z), count, lambda s: sum(max(row[j] + lift for j in s) for row in k))


def ref_cal(
    z: Tensor, grads: Tensor, p: Tensor, count: int, *, neighbours: int = 10, highest: bool = True
) -> list[int]:
    def kl(a: Tensor, b: Tensor) -> float:
        return float((a * (a / b).log()).sum())

    scores: list[float] = []
    for i in range(len(z)):
        others = sorted((j for j in range(len(z)) if j != i), key=lambda j: float((z[i] - z[j]).norm()))
        near = others[:neighbours]
        scores.append(sum((kl(p[i], p[j]) + kl(p[j], p[i])) / 2 for j in near) / len(near))
    return lowest([-s if highest else s for s in scores], count)


CASES: list[tuple[str, dict[str, object], Reference]] = [
    ("confidence", {}, ref_confidence),
    ("entropy", {}, ref_entropy),
    ("margin", {}, ref_margin),
    ("grand", {}, ref_grand),
    ("herding", {}, ref_herding),
    ("herding", {"deepcore": True}, lambda z, g, p, k: ref_herding(z, g, p, k, farthest=True)),
    ("kcenter", {}, ref_kcenter),
    ("graphcut", {}, ref_graphcut),
    ("graphcut", {"weight": 3.0}, lambda z, g, p, k: ref_graphcut(z, g, p, k, weight=3.0)),
    ("facility", {}, ref_facility),
    ("craig", {}, ref_craig),
    ("cal", {}, ref_cal),
    ("cal", {"neighbours": 3, "keep": "lowest"}, lambda *a: ref_cal(*a, neighbours=3, highest=False)),
]


def in_class(seen: PoolFeatures, label: int, chosen: Tensor) -> list[int]:
    """Chosen places in the pool as places in the class."""
    rows = (seen.labels == label).nonzero()[:, 0].tolist()
    return sorted(rows.index(row) for row in chosen.tolist() if row in rows)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("name", "settings", "reference"), CASES, ids=lambda value: str(value)[:24])
def test_a_selector_chooses_as_its_definition_does(
    pool: Pool, name: str, settings: dict[str, object], reference: Reference, seed: int
):
    seen = pool(14, 9, 11, seed=seed)
    budget = [5, 1, 7]
    chosen = choose(name, seen, budget, torch.Generator().manual_seed(0), **settings)
    for label, count in enumerate(budget):
        wanted = reference(*parts(seen, label), count)
        assert in_class(seen, label, chosen) == sorted(wanted), (name, label)


@pytest.mark.parametrize(("name", "settings", "reference"), CASES, ids=lambda value: str(value)[:24])
def test_blocks_too_large_to_keep_give_the_same_choice(
    pool: Pool,
    name: str,
    settings: dict[str, object],
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
):
    seen = pool(13, 12, seed=4)
    whole = choose(name, seen, [5, 6], torch.Generator(), **settings)
    monkeypatch.setattr(kernels, "WHOLE", 4)
    monkeypatch.setattr(kernels, "PIECE", 30)  # two rows at a time
    monkeypatch.setattr("foveate.select.rules.PIECE", 40)
    assert choose(name, seen, [5, 6], torch.Generator(), **settings).equal(whole)


def test_rows_of_a_class_too_large_to_keep(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    """Some rows are kept, and the others are made several at a time; the choice is that of a whole matrix."""
    block = pool(3, 60, seed=6).block(1)
    make, made = kernels.cosines(block), list[list[int]]()
    whole = lazy_greedy(kernels.Similarity(60, make), 20)
    monkeypatch.setattr(kernels, "WHOLE", 40)  # 26 rows
    kernel = kernels.Similarity(60, lambda rows: made.append(rows.tolist()) or make(rows))
    assert lazy_greedy(kernel, 20) == whole
    first, *asked = made
    assert first == list(range(60))
    assert len(asked) < sum(map(len, asked)) / 2
    held = list(dict.fromkeys(row for rows in asked for row in rows))[:26]
    assert [sum(rows.count(row) for rows in asked) for row in held] == [1] * 26
    every = list(range(60))
    torch.testing.assert_close(kernel.rows(every), make(torch.tensor(every)))


# --- gradients that are never written out ---


@pytest.mark.parametrize("label", [0, 1, 2])
def test_factorised_kernels_are_those_of_autograds_gradients(pool: Pool, label: int):
    seen = pool(7, 8, 9, seed=3, scale=5.0)
    _, grads, _ = parts(seen, label)
    block = seen.block(label)
    g, every = kernels.residuals(block.logits, label), torch.arange(len(block))
    near = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(kernels.squared_norms(g, block.features), grads.square().sum(1), **near)
    products = kernels.inner_products(g, block.features)(every)
    torch.testing.assert_close(products, grads @ grads.T, **near)
    unit = F.normalize(grads, dim=1)
    torch.testing.assert_close(kernels.cosines(block)(every), unit @ unit.T, **near)
    distances = torch.cdist(grads, grads)
    found = kernels.nearness(block)(every)
    torch.testing.assert_close(found[0, 0] - found, distances, rtol=1e-5, atol=1e-6)


def test_gradients_of_pictures_that_are_nearly_certain_keep_their_direction():
    logits = torch.tensor([[60.0, 0.0, -1.0], [60.0, -1.0, 0.0]], dtype=torch.float64)
    g = kernels.residuals(logits, 0)
    tiny = torch.tensor(60.0, dtype=torch.float64).neg().exp()
    assert g[0, 1] == pytest.approx(float(tiny), rel=1e-9)
    assert g[0, 0] == pytest.approx(
        float(-tiny * (1 + torch.tensor(-1.0).exp())), rel=1e-6
    )  # p - 1 would be 0
    block = ClassFeatures(torch.eye(2, 4, dtype=torch.float64), logits, 0)
    cosines = kernels.cosines(block)(torch.arange(2))
    assert cosines.diagonal().tolist() == pytest.approx([1, 1])
    assert 0.4 < float(cosines[0, 1]) < 0.5  # ½ of the cosine of g: features at right angles


# --- Glister ---


def plain_glister(
    seen: PoolFeatures, label: int, count: int, config: GlisterConfig, held: list[int]
) -> list[int]:
    """Take real steps of gradient descent on the last layer, and autograd's gradient on the held-out."""
    z, grads, _ = parts(seen, label)
    weight, bias = last_layer(seen)
    classes, chosen = len(bias), list[int]()
    rounds = [len(part) for part in torch.arange(count).tensor_split(min(config.rounds, count))]
    for size in rounds:
        step = config.rate * grads[chosen].sum(0) if chosen else torch.zeros(grads.shape[1])
        moved = weight - step[classes:].view_as(weight), bias - step[:classes]
        goal = true_gradients(z[held], *moved, label).sum(0)
        left = [i for i in range(len(z)) if i not in chosen and i not in held]
        chosen += sorted(left, key=lambda i: (-float(grads[i] @ goal), i))[:size]
    return chosen


@pytest.mark.parametrize("rate", [0.0, 0.0035, 0.5])
def test_glister_is_greedy_by_autograds_gradients_after_real_steps(pool: Pool, rate: float):
    seen, config = pool(20, 24, seed=5), GlisterConfig(rate=rate, rounds=3, validation=0.2)
    block, label = seen.block(1), 1
    held = torch.randperm(24, generator=torch.Generator().manual_seed(9))[:5].tolist()
    found = glister(block, 8, config, torch.Generator().manual_seed(9))
    assert sorted(found) == sorted(plain_glister(seen, label, 8, config, held))
    assert not set(found) & set(held)


def test_glisters_look_ahead_matters(pool: Pool):
    block = pool(20, 24, seed=5).block(1)
    near, far = (
        glister(block, 8, GlisterConfig(rate=rate, rounds=8), torch.Generator().manual_seed(9))
        for rate in (0.0, 5.0)
    )
    assert sorted(near) != sorted(far)


def test_held_out_pictures_come_last_where_nothing_else_is_left(pool: Pool):
    seen = pool(6, 6)
    held = torch.randperm(6, generator=torch.Generator().manual_seed(2))[:3].tolist()
    found = glister(seen.block(0), 5, GlisterConfig(validation=0.5), torch.Generator().manual_seed(2))
    assert set(found[:3]) == set(range(6)) - set(held)
    assert len(set(found)) == 5


# --- limits ---


def test_herding_leaves_the_mean_of_the_chosen_near_that_of_all(pool: Pool):
    seen = pool(200, 200, noise=2.0)
    chosen = choose("herding", seen, [20, 20], torch.Generator())
    generator = torch.Generator().manual_seed(0)
    drawn = [choose("uniform", seen, [20, 20], generator) for _ in range(20)]

    def off(rows: Tensor) -> float:
        own = seen.labels == 0
        return float((seen.features[rows[own[rows]]].mean(0) - seen.features[own].mean(0)).norm())

    assert off(chosen) < min(off(rows) for rows in drawn) / 2


def test_class_texts_mixed_into_features_do_not_change_herding(pool: Pool):
    # DAPT's code herds f = ½ Z + ½ T_y
    seen = pool(12, 12)
    mixed = (seen.features + 3 * seen.texts[seen.labels]) / 2
    other = PoolFeatures(mixed, seen.texts, seen.labels, seen.scale)
    first, second = (choose("herding", one, [4, 4], torch.Generator()) for one in (seen, other))
    assert first.equal(second)


def test_k_center_covers_within_twice_the_least_radius(pool: Pool):
    seen = pool(9, 2, dim=2, noise=3.0)
    z = seen.block(0).features
    distances = torch.cdist(z, z)
    every = torch.combinations(torch.arange(9), 3)
    least = min(float(distances[:, three].min(1).values.max()) for three in every)
    found = float(distances[:, k_center(seen.block(0), 3)].min(1).values.max())
    assert found <= 2 * least


@pytest.mark.parametrize(
    "name", ["herding", "kcenter", "facility", "craig", "graphcut", "cal", "grand", "margin"]
)
def test_of_equal_pictures_the_first_are_chosen(name: str):
    features = torch.tensor([[1.0, 0.0]]).expand(6, 2)
    seen = PoolFeatures.of(features, torch.eye(2), torch.zeros(6, dtype=torch.long), 5.0)
    assert choose(name, seen, [3, 0], torch.Generator()).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["kcenter", "facility", "craig"])
def test_what_covers_takes_no_double_while_there_are_others(name: str):
    angles = torch.tensor([0.0, 0.5, 1.0, 1.5])
    once = torch.stack([angles.cos(), angles.sin(), torch.zeros(4)], dim=1)
    once = torch.cat([once, torch.eye(3)[2:]])
    seen = PoolFeatures.of(torch.cat([once, once]), torch.eye(3), torch.zeros(10, dtype=torch.long), 4.0)
    chosen = choose(name, seen, [5, 0, 0], torch.Generator()).tolist()
    assert sorted(row % 5 for row in chosen) == [0, 1, 2, 3, 4]


def test_forgetting_counts_what_was_right_and_then_wrong(pool: Pool):
    right = torch.tensor(
        [  # never, always, forgotten once, twice, learned late
            [0, 1, 1, 1, 0],
            [0, 1, 0, 0, 0],
            [0, 1, 0, 1, 0],
            [0, 1, 0, 0, 1],
        ],
        dtype=torch.bool,
    )
    assert events(right).tolist() == [4, 0, 1, 2, 0]
    seen = pool(5, epochs=4)
    seen = PoolFeatures(seen.features, seen.texts, seen.labels, seen.scale, right)
    for count, wanted in ((1, [0]), (2, [0, 3]), (3, [0, 2, 3]), (4, [0, 1, 2, 3])):
        assert choose("forgetting", seen, [count], torch.Generator()).tolist() == wanted


def test_uniform_draws_every_picture_about_as_often(pool: Pool):
    seen, counts = pool(5, 5), torch.zeros(10)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        counts[choose("uniform", seen, [2, 1], generator)] += 1
    own = seen.labels == 0
    assert (counts[own] - 160).abs().max() < 4 * (400 * 0.4 * 0.6) ** 0.5
    assert (counts[~own] - 80).abs().max() < 4 * (400 * 0.2 * 0.8) ** 0.5


def test_budgets_are_halves_to_even_and_at_least_one():
    assert budgets([10, 5, 3, 25, 0], 0.1) == [1, 1, 1, 2, 0]  # 1, 0.5 → 0, 0.3, 2.5 → 2
    assert budgets([10, 5, 3, 25, 0], 0.1, least=0) == [1, 0, 0, 2, 0]
    assert budgets([16], 0.05) == [1]
    assert budgets([7, 35], 0.5) == [4, 18]  # 3.5 → 4, 17.5 → 18
    assert budgets([7, 1], 1.0) == [7, 1]
