"""FVG-PT in its limit cases: what must hold whatever the weights are."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.clip.rows import encode_names
from foveate.errors import InputError
from foveate.foreground.views import crop_view, foreground_view
from foveate.methods.base import Method, align
from foveate.methods.coop import CoOp
from foveate.methods.frozen import training_losses
from foveate.methods.fvgpt import FvgPt, route
from foveate.methods.guidance import FvgPtConfig, Guidance, Views, agreement, entropy, kl
from foveate.methods.registry import build
from foveate.methods.zeroshot import ZeroShot
from foveate.seeds import stream
from foveate.types import Batch, Features

BATCH, CLASSES, DIM = 6, 5, 16
SCALE = torch.tensor(20.0, dtype=torch.float64)
LABELS = torch.arange(BATCH) % CLASSES


def logits_of(features: Features) -> Tensor:
    return align(features, SCALE)


def normal(*shape: int, name: str) -> Tensor:
    return torch.randn(*shape, generator=stream(0, name), dtype=torch.float64)


def make_views(**changes: Any) -> Views:
    """Views of random features; every tensor may be replaced."""
    features = Features(3 * normal(1, BATCH, DIM, name="image"), 3 * normal(CLASSES, DIM, name="text"))
    foreground = Features(features.image + 2 * normal(1, BATCH, DIM, name="foreground"), features.text)
    area = torch.linspace(0.1, 0.9, BATCH, dtype=torch.float64)
    views = Views(
        features=features,
        full=logits_of(features),
        foreground=logits_of(foreground),
        new=logits_of(features),
        clip=5 * normal(BATCH, CLASSES, name="clip"),
        area=area,
        gate_area=area,
    )
    return replace(views, **changes)


def make(dim: int = DIM, **settings: Any) -> Guidance:
    return Guidance(dim, FvgPtConfig(**settings), stream(0, "init")).double()


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- sizes ---


@pytest.mark.parametrize(
    ("dim", "settings", "total"),
    [
        (512, {}, 132_546),
        (512, {"bias": False}, 131_328),
        (768, {}, 198_594),
        (768, {"bias": False}, 196_864),
        (512, {"adapter_hidden": 16}, 33_824 + 2 * 161),
        (512, {"adapter_hidden": 32}, 66_624 + 2 * 161),
        (512, {"adapter_hidden": 128}, 263_424 + 2 * 161),
    ],
)
def test_parameter_counts(dim: int, settings: dict[str, Any], total: int):
    assert count(make(dim, **settings)) == total


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ({}, 161),
        ({"bias": False}, 128),
        ({"gate_hidden": 16}, 81),
        ({"gate_hidden": 64}, 321),
        ({"gate_hidden": 128}, 641),
        ({"gate_depth": 1}, 4),
        ({"gate_depth": 3}, 1_217),
    ],
)
def test_gate_counts(settings: dict[str, Any], total: int):
    guidance = make(**settings)
    assert count(guidance.foreground_gate) == count(guidance.prior_gate) == total


def test_a_prior_gate_that_is_told_r_has_the_papers_count():
    told = make(prior_indicators=("entropy", "prior_entropy", "cosine", "trust"))
    assert count(told.prior_gate) == 193  # "0.19 K"
    views = make_views()
    asked = told.prior_trust(views.new, views.clip)
    torch.testing.assert_close(
        asked, told.prior_trust(views.new, views.clip, torch.full_like(views.area, 0.5))
    )
    with pytest.raises(
        InputError, match="foreground_gate is False: give true, or prior_indicators without 'trust'"
    ):
        make(prior_indicators=("trust",), foreground_gate=False)


def test_r_reaches_the_prior_gate_and_learns_nothing_there():
    told = make(prior_indicators=("trust",), terms=("prior",))
    views = make_views(area=torch.zeros(BATCH, dtype=torch.float64))
    with_mask, without = (told.losses(v, LABELS, logits_of)["prior"] for v in (make_views(), views))
    assert not torch.equal(with_mask, without)
    with_mask.backward()
    assert all(p.grad is None for p in told.foreground_gate.parameters())


def test_an_indicator_left_out_is_a_column_less():
    guidance = make(foreground_indicators=("cosine",), prior_indicators=("entropy", "cosine"))
    assert guidance.indicators(make_views()).shape == (BATCH, 1)
    assert guidance.prior_indicator_values(make_views().new, make_views().clip).shape == (BATCH, 2)
    assert count(guidance.foreground_gate) == 161 - 2 * 32
    assert count(guidance.prior_gate) == 161 - 32


def test_equal_generators_start_equal_and_gates_and_adapters_differ():
    first, second = make(), make()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.image_adapter[0].weight, first.text_adapter[0].weight)
    assert not torch.equal(first.foreground_gate[0].weight, first.prior_gate[0].weight)


@pytest.mark.parametrize(("init", "spread"), [("small", 1e-3), ("zero", 0.0), ("default", 64**-0.5 / 3**0.5)])
def test_the_adapters_last_layer_starts_as_asked(init: str, spread: float):
    guidance = make(512, adapter_init=init)
    for adapter in (guidance.image_adapter, guidance.text_adapter):
        assert adapter[-1].weight.std().item() == pytest.approx(spread, rel=0.02)
        assert adapter[-1].bias.abs().max().item() <= (0.0 if init != "default" else 64**-0.5)
        assert adapter[0].weight.std().item() == pytest.approx(512**-0.5 / 3**0.5, rel=0.02)


# --- identities at the start ---


@pytest.mark.parametrize("side", ["raw", "unit"])
def test_adapters_that_start_at_zero_leave_the_backbones_answer(side: str):
    views = make_views()
    base = make(adapter_init="zero", adapter_input=side).base_logits(views.features, logits_of)
    torch.testing.assert_close(base, views.full, rtol=1e-12, atol=1e-12)


def test_no_adapters_leave_the_backbones_answer():
    views = make_views()
    guidance = make(adapters="none", adapter_init="default")
    assert torch.equal(guidance.base_logits(views.features, logits_of), views.full)
    assert set(guidance.losses(views, LABELS, logits_of)) == {"gate", "prior", "prior_kl"}


def test_the_small_start_is_near_the_backbones_answer():
    views = make_views()
    small, default = (
        (make(adapter_init=i).base_logits(views.features, logits_of) - views.full).abs().max()
        for i in ("small", "default")
    )
    assert 0 < small < 0.1 < default


@pytest.mark.parametrize("heads", ["shared", "fused"])
def test_two_heads_start_at_the_backbones_answer(heads: str):
    image, weights = normal(2, BATCH, DIM, name="heads"), (0.7, 0.3)
    features = Features(image, make_views().features.text)
    guidance = Guidance(
        DIM, FvgPtConfig(heads=heads, adapter_init="zero"), stream(0, "init"), weights
    ).double()
    adapted = guidance.adapt(features)
    if heads == "shared":
        given_back = align(adapted, SCALE, weights)
        torch.testing.assert_close(given_back, align(features, SCALE, weights), rtol=1e-12, atol=1e-12)
    else:
        mixture = (0.7 * image[0] / image[0].norm(dim=-1, keepdim=True)) + (
            0.3 * image[1] / image[1].norm(dim=-1, keepdim=True)
        )
        assert len(adapted.image) == 1
        torch.testing.assert_close(adapted.image[0], mixture / mixture.norm(dim=-1, keepdim=True))


def test_the_class_heads_adapter_leaves_the_other_head_alone():
    image = normal(2, BATCH, DIM, name="heads")
    guidance = Guidance(
        DIM, FvgPtConfig(heads="class", adapter_init="default"), stream(0, "init"), (0.7, 0.3)
    ).double()
    adapted = guidance.adapt(Features(image, make_views().features.text))
    assert torch.equal(adapted.image[1], image[1])
    assert not torch.allclose(adapted.image[0], image[0] / image[0].norm(dim=-1, keepdim=True))


@pytest.mark.parametrize(("b", "expected"), [(0.0, "new"), (1.0, "clip"), (0.25, "mix")])
def test_a_constant_trust_mixes_backbone_and_clip(b: float, expected: str):
    views = make_views()
    mix = 0.75 * views.new + 0.25 * views.clip
    wanted = {"new": views.new, "clip": views.clip, "mix": mix}[expected]
    torch.testing.assert_close(make(prior_trust=b).new_logits(views.new, views.clip), wanted)


def test_a_learned_trust_mixes_picture_by_picture():
    views, guidance = make_views(), make()
    b = guidance.prior_trust(views.new, views.clip)
    assert ((b > 0) & (b < 1)).all()
    assert b.std() > 0
    for i in range(BATCH):
        expected = (1 - b[i]) * views.new[i] + b[i] * views.clip[i]
        torch.testing.assert_close(guidance.new_logits(views.new, views.clip)[i], expected)


# --- the views ---


def test_a_mask_of_ones_says_nothing():
    full, ones = make_views().full, torch.ones(BATCH, dtype=torch.float64)
    views = make_views(foreground=full, area=ones, gate_area=ones)
    guidance = make()
    expected = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64).expand(BATCH, 3)
    torch.testing.assert_close(guidance.indicators(views), expected)
    assert guidance.trust_target(views, LABELS).tolist() == [0.0] * BATCH  # strictly less, so no tie counts


def test_the_target_is_whether_the_foreground_errs_less():
    views = make_views()
    loss = [-logits.log_softmax(-1)[range(BATCH), LABELS] for logits in (views.full, views.foreground)]
    expected = (loss[1] < loss[0]).double()
    assert 0 < expected.mean() < 1
    assert torch.equal(make().trust_target(views, LABELS), expected)
    gain = (loss[0] - loss[1]).max().item()
    assert make(margin=gain * 0.99).trust_target(views, LABELS).sum() == 1
    assert make(margin=gain * 1.01).trust_target(views, LABELS).sum() == 0


def test_a_foreground_cut_away_has_no_target_and_no_weight():
    area = torch.tensor([0.0, 0.019, 0.02, 0.5, 0.5, 0.5], dtype=torch.float64)
    views = make_views(area=area, gate_area=area)
    better = make_views(foreground=views.full.scatter_add(1, LABELS[:, None], torch.ones_like(views.full)))
    views = replace(views, foreground=better.foreground)
    guidance = make(min_area=0.02)
    assert guidance.trust_target(views, LABELS).tolist() == [0, 0, 1, 1, 1, 1]
    # Their distillation is towards the whole picture alone: what the foreground says has no influence.
    wild = views.foreground.clone()
    wild[:2] = 50 * normal(2, CLASSES, name="wild")
    constant_gate = make(min_area=0.02, foreground_gate=False)
    before = constant_gate.losses(views, LABELS, logits_of)["distill"]
    after = constant_gate.losses(replace(views, foreground=wild), LABELS, logits_of)["distill"]
    torch.testing.assert_close(before, after)
    seen = make(min_area=0.0, foreground_gate=False)
    assert not torch.allclose(
        seen.losses(replace(views, foreground=wild), LABELS, logits_of)["distill"], before
    )


# --- losses and gradients ---


def mixture_and_answer(guidance: Guidance, views: Views) -> tuple[Tensor, Tensor]:
    """p_mix = r p_fg + (1 − r) p_full, and p_FDC."""
    tau = guidance.config.tau
    r = guidance.foreground_gate(guidance.indicators(views)).sigmoid().detach()
    mix = r * (views.foreground / tau).softmax(-1) + (1 - r) * (views.full / tau).softmax(-1)
    return mix, (guidance.base_logits(views.features, logits_of) / tau).softmax(-1)


@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("squared", [False, True])
def test_the_distillations_gradient_is_towards_the_mixture(tau: float, squared: bool):
    views = make_views()
    guidance = make(tau=tau, lambda_distill=7.0, adapter_init="default", tau_squared=squared)
    caught: list[Tensor] = []

    def watched(features: Features) -> Tensor:
        caught.append(logits_of(features))
        caught[-1].retain_grad()
        return caught[-1]

    guidance.losses(views, LABELS, watched)["distill"].backward()
    mix, answer = mixture_and_answer(guidance, views)
    expected = 7.0 * (tau**2 if squared else 1.0) * (answer - mix) / tau / BATCH
    torch.testing.assert_close(caught[0].grad, expected, rtol=1e-9, atol=1e-12)


def test_the_gates_gradient_is_its_error():
    views, guidance = make_views(), make(lambda_gate=3.0)
    caught: list[Tensor] = []
    guidance.foreground_gate.register_forward_hook(
        lambda _m, _i, out: (out.retain_grad(), caught.append(out))[0]
    )
    guidance.losses(views, LABELS, logits_of)["gate"].backward()
    r, target = caught[0].sigmoid().detach()[:, 0], guidance.trust_target(views, LABELS)
    torch.testing.assert_close(caught[0].grad[:, 0], 3.0 * (r - target) / BATCH, rtol=1e-9, atol=1e-12)


def gradients(guidance: Guidance, term: str, views: Views | None = None) -> set[str]:
    """Parts of the guidance that a term's gradient reaches."""
    guidance.zero_grad(set_to_none=True)
    guidance.losses(views or make_views(), LABELS, logits_of)[term].backward()
    named = guidance.named_parameters()
    return {name.split(".")[0] for name, p in named if p.grad is not None and p.grad.abs().sum() > 0}


ADAPTERS = {"image_adapter", "text_adapter"}


@pytest.mark.parametrize(
    ("term", "settings", "reached"),
    [
        ("base", {}, ADAPTERS),
        ("distill", {}, ADAPTERS),
        ("distill", {"detach_trust": False}, ADAPTERS | {"foreground_gate"}),
        ("gate", {}, {"foreground_gate"}),
        ("prior", {}, {"prior_gate"}),
        ("prior_kl", {}, {"prior_gate"}),
        ("base", {"adapters": "image"}, {"image_adapter"}),
        ("distill", {"adapters": "text"}, {"text_adapter"}),
    ],
)
def test_what_each_term_trains(term: str, settings: dict[str, Any], reached: set[str]):
    assert gradients(make(adapter_init="default", **settings), term) == reached


def test_the_prior_branch_without_a_gate_trains_nothing():
    losses = make(prior_trust=0.5).losses(make_views(), LABELS, logits_of)
    assert not losses["prior"].requires_grad
    assert not losses["prior_kl"].requires_grad


def test_losses_in_words():
    """Every term from its definition, written out once more with plain sums."""
    views, guidance = make_views(), make(adapter_init="default", lambda_prior=0.5)
    losses = guidance.losses(views, LABELS, logits_of)
    rows, tau = range(BATCH), 2.0
    base = guidance.base_logits(views.features, logits_of)
    torch.testing.assert_close(losses["base"], -base.log_softmax(-1)[rows, LABELS].mean())
    p = (base / tau).softmax(-1)
    r = guidance.foreground_gate(guidance.indicators(views)).sigmoid()[:, 0]
    towards = [(v / tau).softmax(-1) for v in (views.foreground, views.full)]
    apart = [(t * (t / p).log()).sum(-1) for t in towards]
    torch.testing.assert_close(losses["distill"], 10 * (r * apart[0] + (1 - r) * apart[1]).mean())
    target = guidance.trust_target(views, LABELS)
    torch.testing.assert_close(losses["gate"], -(target * r.log() + (1 - target) * (1 - r).log()).mean())
    new = guidance.new_logits(views.new, views.clip)
    torch.testing.assert_close(losses["prior"], -0.5 * new.log_softmax(-1)[rows, LABELS].mean())
    t, p = (views.clip / tau).softmax(-1), (new / tau).softmax(-1)
    torch.testing.assert_close(losses["prior_kl"], 0.5 * (t * (t / p).log()).sum(-1).mean())


# --- the prior branch among some of the classes ---


def test_the_prior_branch_among_all_classes_is_as_without():
    views, guidance = make_views(), make(prior_indicators=("entropy", "trust"))
    own = guidance.losses(views, LABELS, logits_of)
    every = guidance.losses(views, LABELS, logits_of, torch.arange(CLASSES))
    assert all(torch.equal(own[name], every[name]) for name in own)


@pytest.mark.parametrize("told", [("entropy", "prior_entropy", "cosine"), ("cosine", "trust")])
def test_among_some_classes_others_and_their_pictures_do_not_matter(told: Any):
    """Written out with loops: each picture of a class among these, over the columns of these."""
    guidance, among = make(prior_indicators=told, lambda_prior=0.5), [1, 3, 4]
    views = make_views()
    found = guidance.losses(views, LABELS, logits_of, torch.tensor(among))
    r = guidance.foreground_gate(guidance.indicators(views)).sigmoid()[:, 0].detach()
    errors, apart = [], []
    for picture in range(BATCH):
        if int(LABELS[picture]) not in among:
            continue
        full, clip = (one[picture : picture + 1, among] for one in (views.new, views.clip))
        columns = {
            "entropy": entropy(full / 2),
            "prior_entropy": entropy(clip / 2),
            "cosine": agreement(full / 2, clip / 2),
            "trust": r[picture : picture + 1],
        }
        b = guidance.prior_gate(torch.stack([columns[name] for name in told], dim=-1)).sigmoid()
        mixed = (1 - b) * full + b * clip
        errors.append(-mixed.log_softmax(-1)[0, among.index(int(LABELS[picture]))])
        apart.append(kl(clip / 2, mixed / 2)[0])
    scale = 0.5 * CLASSES / len(among) / BATCH
    torch.testing.assert_close(found["prior"], scale * torch.stack(errors).sum())
    torch.testing.assert_close(found["prior_kl"], scale * torch.stack(apart).sum())
    moved = torch.randn(BATCH, CLASSES, generator=stream(0, "moved"), dtype=torch.float64)
    moved[:, among] = views.new[:, among]
    again = guidance.losses(replace(views, new=moved), LABELS, logits_of, torch.tensor(among))
    assert torch.equal(again["prior"], found["prior"])


def test_among_some_classes_the_gradient_is_the_finite_difference():
    views, guidance, among = make_views(), make(), torch.tensor([0, 2])
    guidance.losses(views, LABELS, logits_of, among)["prior"].backward()
    bias, step = guidance.prior_gate[-1].bias, 1e-6
    values = []
    for move in (step, -2 * step):
        with torch.no_grad():
            bias += move
            values.append(guidance.losses(views, LABELS, logits_of, among)["prior"].item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(bias.grad.item(), rel=1e-5)


def test_a_batch_without_pictures_of_these_classes_teaches_nothing():
    guidance, labels = make(terms=("prior", "prior_kl")), torch.zeros(BATCH, dtype=torch.long)
    losses = guidance.losses(make_views(), labels, logits_of, torch.tensor([1, 2]))
    assert [loss.item() for loss in losses.values()] == [0, 0]
    losses["prior"].backward()
    assert all(not p.grad.any() for p in guidance.prior_gate.parameters())


def test_the_half_depends_on_seed_and_step_alone(tiny_clip: Clip):
    names = [f"thing {number}" for number in range(7)]

    def draws(seed: int, **settings: Any) -> list[list[int]]:
        method = FvgPt(ZeroShot(tiny_clip), FvgPtConfig(**settings), stream(seed, "init"))
        method.set_classes(names)
        return [among.tolist() for step in range(20) if (among := method.prior_among(step)) is not None]

    some = draws(1, prior_classes="half")
    assert some == draws(1, prior_classes="half") != draws(2, prior_classes="half")
    assert all(len(among) == 3 and among == sorted(set(among)) for among in some)
    assert {row for among in some for row in among} == set(range(7))
    assert draws(1) == []


def test_three_classes_are_not_halved(tiny_clip: Clip):
    method = FvgPt(ZeroShot(tiny_clip), FvgPtConfig(prior_classes="half"))
    method.set_classes(["cat", "dog", "phone"])
    assert method.prior_among(0) is None


# --- every setting does something ---

SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # setting: (what else must be set for it to matter, its other value)
    "tau": ({}, {"tau": 1.0}),
    "lambda_distill": ({}, {"lambda_distill": 1.0}),
    "lambda_gate": ({}, {"lambda_gate": 2.0}),
    "lambda_prior": ({}, {"lambda_prior": 2.0}),
    "adapter_hidden": ({}, {"adapter_hidden": 8}),
    "gate_hidden": ({}, {"gate_hidden": 8}),
    "gate_depth": ({}, {"gate_depth": 3}),
    "bias": ({}, {"bias": False}),
    "adapter_input": ({}, {"adapter_input": "unit"}),
    "adapter_init": ({}, {"adapter_init": "default"}),
    "adapters": ({}, {"adapters": "text"}),
    "heads": ({}, {"heads": "class"}),
    "foreground_gate": ({}, {"foreground_gate": False}),
    "foreground_indicators": ({}, {"foreground_indicators": ("area", "entropy", "cosine")}),
    "prior_branch": ({}, {"prior_branch": False}),
    "prior_indicators": ({}, {"prior_indicators": ("cosine",)}),
    "prior_trust": ({}, {"prior_trust": 0.3}),
    "terms": ({}, {"terms": ("base", "distill")}),
    "detach_trust": ({}, {"detach_trust": False}),
    "hard_trust": ({}, {"hard_trust": True}),
    "margin": ({}, {"margin": 100.0}),
    "target_from": ({}, {"target_from": "clip"}),
    "area_from": ({}, {"area_from": "picture"}),
    "min_area": ({}, {"min_area": 0.6}),
    "max_area": ({"clamp_area": True}, {"max_area": 0.3}),
    "clamp_area": ({"max_area": 0.3}, {"clamp_area": True}),
    "teacher": ({}, {"teacher": "exchange"}),
    "fill": ({}, {"fill": "black"}),
    "prior_template": ({}, {"prior_template": "dataset"}),
    "prior_templates": ({}, {"prior_templates": ("a {}.", "the {}.")}),
    "prior_classes": ({}, {"prior_classes": "half"}),
    "entropy": ({}, {"entropy": "normalised"}),
    "tau_squared": ({}, {"tau_squared": True}),
    "mixed_weight": ({}, {"mixed_weight": 1.0}),
}


class TwoHeads(ZeroShot):
    """Zero-shot CLIP that shows every picture twice, as MMRL will: straight and mirrored."""

    def __init__(self, clip: Clip):
        super().__init__(clip)
        self.head_weights = (0.7, 0.3)

    def encode_images(self, images):
        return torch.cat([super().encode_images(images), super().encode_images(images.flip(-1))])

    def logits(self, features, branch="base"):
        return align(features, self.clip.scale, self.head_weights if branch == "base" else (1.0,))


def a_batch() -> Batch:
    g = stream(0, "pictures")
    images = torch.randn(4, 3, 32, 32, generator=g)
    masks = torch.zeros(4, 1, 32, 32)
    for i in range(4):
        masks[i, :, 4 : 12 + 6 * i, 2:30] = 1
    areas = torch.tensor([0.2, 0.3, 0.7, 0.9])
    return Batch(images, torch.arange(4) % 3, masks, areas, exchanged=images.flip(-1))


def measured(clip: Clip, settings: dict[str, Any]) -> dict[str, Tensor]:
    """Losses, gradients, answers and parameter counts of a fresh FVG-PT."""
    method = FvgPt(TwoHeads(clip), FvgPtConfig(**settings), stream(0, "init"))
    method.set_classes(
        ["cat", "dog", "phone", "old photo"], "a drawing of a {}, in ink.", trained=["cat", "dog"]
    )
    losses = training_losses(method, a_batch())
    torch.stack(list(losses.values())).sum().backward()
    found = {f"loss.{name}": loss.detach() for name, loss in losses.items()}
    found |= {name: p.detach() for name, p in method.learned().items()}
    found |= {f"grad.{n}": p.grad for n, p in method.learned().items() if p.grad is not None}
    with torch.no_grad():
        features = method.features(a_batch().images)
        found |= {branch: method.logits(features, branch) for branch in ("base", "new", "mixed")}
    return found


@pytest.mark.parametrize("setting", [field.name for field in fields(FvgPtConfig)])
def test_every_setting_changes_something(tiny_clip: Clip, setting: str):
    beside, change = SETTINGS[setting]
    assert list(change) == [setting]
    before, after = (measured(tiny_clip, s) for s in (beside, beside | change))
    repeated = measured(tiny_clip, beside)
    assert before.keys() == repeated.keys()
    assert all(torch.equal(before[name], repeated[name]) for name in before)
    same = before.keys() == after.keys() and all(
        before[n].shape == after[n].shape and torch.allclose(before[n], after[n], rtol=1e-5, atol=1e-7)
        for n in before
    )
    assert not same


# --- the method around it ---


@pytest.fixture
def fvgpt(tiny_clip: Clip) -> FvgPt:
    method = FvgPt(CoOp(tiny_clip, generator=stream(1, "ctx")), generator=stream(1, "init"))
    method.set_classes(["cat", "dog", "phone"])
    return method


@pytest.mark.parametrize("host", ["coop", "mmrl"])
def test_clip_may_say_where_the_foreground_is_better(tiny_clip: Clip, host: str):
    method = build(f"fvgpt+{host}", tiny_clip, {"fvgpt": {"target_from": "clip"}})
    method.set_classes(["cat", "dog", "phone"])
    batch, losses = a_batch(), []
    for images in (batch.images, foreground_view(batch.images, batch.masks)):
        with torch.no_grad():
            clip = ZeroShot(tiny_clip)
            clip.set_classes(method.names)
            losses.append(F.cross_entropy(clip.logits(clip.features(images)), batch.labels, reduction="none"))
    wanted = (losses[1] < losses[0]).float()
    assert 0 < wanted.sum() < len(wanted)  # else any rule would pass
    assert torch.equal(method.foreground_target(batch), wanted)


def test_of_several_sentences_the_prior_is_their_mean(tiny_clip: Clip):
    sentences, names = ("a {}.", "the {}, on paper.", "dataset"), ["cat", "dog", "phone"]
    method = FvgPt(ZeroShot(tiny_clip), FvgPtConfig(prior_trust=1.0, prior_templates=sentences))
    method.set_classes(names, "a drawing of a {}.", trained=[])
    with torch.no_grad():
        features = method.features(a_batch().images)
        answers = method.logits(features, "new")
        text = torch.zeros(len(names), tiny_clip.config.embed)
        for sentence in ("a {}.", "the {}, on paper.", "a drawing of a {}."):
            for row, name in enumerate(names):
                one = encode_names(tiny_clip, [name], sentence)[0]
                text[row] += one / one.norm() / 3
        cosines = F.normalize(features.image[0], dim=-1) @ F.normalize(text, dim=-1).T
    torch.testing.assert_close(answers, tiny_clip.scale * cosines, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(method.views(a_batch()).clip, answers)


def test_one_sentence_twice_is_that_sentence(tiny_clip: Clip):
    told = (
        {"prior_template": "the {}."},
        {"prior_templates": ("the {}.",)},
        {"prior_templates": ("the {}.",) * 2},
    )
    one, alone, twice = (measured(tiny_clip, settings) for settings in told)
    assert all(torch.equal(one[name], alone[name]) for name in one)
    torch.testing.assert_close(one["new"], twice["new"])


def test_each_sentence_has_one_place_for_the_name(tiny_clip: Clip):
    with pytest.raises(InputError, match="template 'the thing'"):
        FvgPt(ZeroShot(tiny_clip), FvgPtConfig(prior_templates=("a {}.", "the thing")))


TEACHERS: dict[str, Any] = {
    "foreground": lambda batch: batch.images * batch.masks,
    "exchange": lambda batch: batch.exchanged,
    "crop": lambda batch: crop_view(batch.images, batch.masks),
}


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_teacher_is_the_backbone_on_another_view(tiny_clip: Clip, teacher: Any):
    method = FvgPt(CoOp(tiny_clip, generator=stream(1, "ctx")), FvgPtConfig(teacher=teacher))
    method.set_classes(["cat", "dog", "phone"])
    batch = a_batch()
    seen = method.views(batch)
    host = method.backbone
    with torch.no_grad():
        torch.testing.assert_close(seen.foreground, host.logits(host.features(TEACHERS[teacher](batch))))
        torch.testing.assert_close(seen.full, host.logits(host.features(batch.images)))
    torch.testing.assert_close(seen.area, batch.masks.mean((1, 2, 3)))


def test_a_crop_of_all_there_is_teaches_as_the_picture(tiny_clip: Clip):
    method = FvgPt(ZeroShot(tiny_clip), FvgPtConfig(teacher="crop"))
    method.set_classes(["cat", "dog", "phone"])
    whole = replace(a_batch(), masks=torch.ones(4, 1, 32, 32))
    seen = method.views(whole)
    torch.testing.assert_close(seen.foreground, seen.full)


def test_each_teacher_has_features_of_its_own(tiny_clip: Clip):
    methods = [FvgPt(ZeroShot(tiny_clip), FvgPtConfig(teacher=teacher)) for teacher in TEACHERS]
    assert len({method.frozen()["foreground"].spec for method in methods}) == len(TEACHERS)


def test_nothing_of_the_backbone_is_trained(fvgpt: FvgPt):
    assert all(name.startswith("guidance.") for name in fvgpt.trainable())
    torch.stack(list(training_losses(fvgpt, a_batch()).values())).sum().backward()
    assert all(p.grad is None for p in fvgpt.backbone.parameters())
    assert all(p.grad is not None for p in fvgpt.guidance.parameters())
    fvgpt.train()
    assert not fvgpt.backbone.training


def test_a_checkpoint_carries_the_backbone(fvgpt: FvgPt):
    assert "host.ctx" in fvgpt.learned()
    assert not any(name.startswith("clip.") or ".clip." in name for name in fvgpt.learned())


def test_a_mask_of_ones_makes_the_foreground_the_picture(fvgpt: FvgPt):
    batch = a_batch()
    whole = Batch(batch.images, batch.labels, torch.ones(4, 1, 32, 32), torch.ones(4))
    views = fvgpt.views(whole)
    torch.testing.assert_close(views.foreground, views.full)
    assert views.area.tolist() == [1.0] * 4
    expected = torch.tensor([0.0, 1.0, 1.0]).expand(4, 3)
    torch.testing.assert_close(fvgpt.guidance.indicators(views), expected, atol=1e-5, rtol=0)


def test_two_heads_fuse_for_trained_classes_and_not_for_new_ones(tiny_clip: Clip):
    backbone = TwoHeads(tiny_clip)
    method = FvgPt(backbone)
    method.set_classes(["cat", "dog", "phone"])
    views, plain = method.views(a_batch()), ZeroShot(tiny_clip)
    plain.set_classes(method.names)
    straight, mirrored = (
        plain.logits(plain.features(x)) for x in (a_batch().images, a_batch().images.flip(-1))
    )
    torch.testing.assert_close(views.full, 0.7 * straight + 0.3 * mirrored)
    torch.testing.assert_close(views.new, straight)
    torch.testing.assert_close(views.clip, straight)


def test_the_area_is_the_views_own_unless_asked(tiny_clip: Clip):
    told = {}
    for source in ("view", "picture"):
        method = FvgPt(ZeroShot(tiny_clip), FvgPtConfig(area_from=source))
        method.set_classes(["cat", "dog", "phone"])
        told[source] = method.views(a_batch()).gate_area
    assert torch.equal(told["view"], a_batch().masks.mean((1, 2, 3)))
    assert torch.equal(told["picture"], a_batch().areas)


def test_without_masks_it_cannot_learn_but_answers(fvgpt: FvgPt):
    batch = Batch(a_batch().images, a_batch().labels)
    with pytest.raises(InputError, match="--masks"):
        training_losses(fvgpt, batch)
    assert fvgpt.logits(fvgpt.features(batch.images)).shape == (4, 3)


@pytest.mark.parametrize("b", [0.0, 1.0])
def test_the_new_branch_reaches_backbone_and_clip(tiny_clip: Clip, b: float):
    backbone: Method = CoOp(tiny_clip, generator=stream(1, "ctx"))
    method = FvgPt(backbone, FvgPtConfig(prior_trust=b))
    method.set_classes(["cat", "dog", "phone"])
    images = a_batch().images
    plain = ZeroShot(tiny_clip)
    plain.set_classes(method.names)
    wanted = backbone if b == 0 else plain
    with torch.no_grad():
        expected = wanted.logits(wanted.features(images))
        torch.testing.assert_close(method.logits(method.features(images), "new"), expected)
        assert method.trust(method.features(images)).tolist() == [b] * 4


def test_without_the_prior_branch_new_classes_go_the_base_way(tiny_clip: Clip):
    method = FvgPt(ZeroShot(tiny_clip), FvgPtConfig(prior_branch=False))
    method.set_classes(["cat", "dog"])
    features = method.features(a_batch().images)
    assert torch.equal(method.logits(features, "new"), method.logits(features, "base"))
    assert method.trust(features) is None


# --- trained and new names together ---

rows = st.lists(st.floats(-30, 30), min_size=4, max_size=4)


def routed(
    base: list[float], new: list[float], trained: list[bool], weight: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = torch.tensor([base], dtype=torch.float64), torch.tensor([new], dtype=torch.float64)
    return *tensors, route(*tensors, torch.tensor(trained), weight).softmax(-1)


@given(rows, rows)
def test_with_no_new_name_the_base_branch_answers(base: list[float], new: list[float]):
    b, _, p = routed(base, new, [True] * 4)
    torch.testing.assert_close(p, b.softmax(-1))


@given(rows, rows)
def test_with_no_trained_name_the_new_branch_answers(base: list[float], new: list[float]):
    _, n, p = routed(base, new, [False] * 4)
    assert torch.equal(p, n.softmax(-1))


@given(rows, rows, st.lists(st.booleans(), min_size=4, max_size=4), st.floats(0, 1))
def test_the_new_branch_says_whether_and_both_say_which(
    base: list[float], new: list[float], trained: list[bool], weight: float
):
    b, n, p = routed(base, new, trained, weight)
    among = torch.tensor(trained)
    assert p.sum().item() == pytest.approx(1)
    mass = n.softmax(-1)[0, among].sum().item()
    assert p[0, among].sum().item() == pytest.approx(mass, abs=1e-12)
    torch.testing.assert_close(p[0, ~among], n.softmax(-1)[0, ~among])
    if among.any() and not among.all():
        pool = b[0, among].softmax(-1) ** weight * n[0, among].softmax(-1) ** (1 - weight)
        torch.testing.assert_close(p[0, among], mass * pool / pool.sum())


@given(rows, rows, st.floats(-20, 20))
def test_the_limits_of_the_pool(base: list[float], new: list[float], shift: float):
    trained = [True, True, False, False]
    b, n, at_zero = routed(base, new, trained, 0.0)
    torch.testing.assert_close(at_zero, n.softmax(-1))
    _, _, at_one = routed(base, new, trained, 1.0)
    torch.testing.assert_close(at_one[:, :2], n.softmax(-1)[:, :2].sum() * b[:, :2].softmax(-1))
    _, _, straight = routed(base, new, trained)
    _, _, shifted = routed([value + shift for value in base], new, trained)
    torch.testing.assert_close(shifted, straight)


@given(rows, rows, st.permutations(range(4)))
def test_the_order_of_names_does_not_matter_to_routing(base: list[float], new: list[float], order: list[int]):
    trained = [True, False, True, False]
    _, _, straight = routed(base, new, trained)
    _, _, moved = routed([base[i] for i in order], [new[i] for i in order], [trained[i] for i in order])
    torch.testing.assert_close(moved, straight[:, list(order)])


def test_routing_leaves_its_inputs_alone():
    base, new = normal(3, 4, name="base"), normal(3, 4, name="new")
    before = new.clone()
    route(base, new, torch.tensor([True, False, False, True]), 0.5)
    assert torch.equal(new, before)


def test_mixed_is_base_where_all_are_trained_and_new_where_none_is(fvgpt: FvgPt):
    images, names = a_batch().images, ["cat", "dog", "phone"]
    with torch.no_grad():
        for trained, branch in ((names, "base"), ([], "new")):
            fvgpt.set_classes(names, trained=trained)
            features = fvgpt.features(images)
            mixed, alone = (fvgpt.logits(features, b).softmax(-1) for b in ("mixed", branch))
            torch.testing.assert_close(mixed, alone)


# --- the distributions' arithmetic ---


@given(rows, rows)
def test_bounds(a: list[float], b: list[float]):
    x, y = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    assert -1e-12 <= entropy(x).item() <= math.log(4) + 1e-12
    assert kl(x, y).item() >= -1e-12
    assert kl(x, x).item() == 0
    assert -1e-12 <= agreement(x, y).item() <= 1 + 1e-12
    assert agreement(x, x).item() == pytest.approx(1)


def test_entropy_of_known_distributions():
    assert entropy(torch.zeros(1, 8)).item() == pytest.approx(math.log(8))
    assert entropy(torch.tensor([[100.0, 0.0]])).item() == pytest.approx(0, abs=1e-6)
    assert entropy(torch.tensor([[math.log(3), 0.0]])).item() == pytest.approx(0.5623351446)


def test_kl_is_the_teachers():
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert kl(teacher, student).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert kl(student, teacher).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))


@pytest.mark.parametrize("classes", [1, 2, 10])
def test_normalised_entropy_is_a_share_of_the_most_there_can_be(classes: int):
    guidance = make(entropy="normalised")
    even = torch.zeros(1, classes, dtype=torch.float64)
    found = guidance.prior_indicator_values(even, even)[0]
    assert found[:2].tolist() == pytest.approx([0.0 if classes == 1 else 1.0] * 2)


def test_indicators_do_not_depend_on_the_order_of_names():
    views, order, guidance = make_views(), [3, 1, 4, 0, 2], make()
    changed = {name: getattr(views, name)[:, order] for name in ("full", "foreground", "new", "clip")}
    moved = replace(views, **changed)
    torch.testing.assert_close(guidance.indicators(moved), guidance.indicators(views))
    torch.testing.assert_close(
        guidance.prior_trust(moved.new, moved.clip), guidance.prior_trust(views.new, views.clip)
    )


# --- starts, and settings that make no sense ---

PARTS_OF_GUIDANCE = ("foreground_gate", "prior_gate", "image_adapter", "text_adapter")


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"foreground_indicators": ("area",)}, {"foreground_gate"}),
        ({"prior_indicators": ("cosine",)}, {"prior_gate"}),
        ({"gate_hidden": 16}, {"foreground_gate", "prior_gate"}),
        ({"gate_depth": 3}, {"foreground_gate", "prior_gate"}),
        ({"adapter_hidden": 16}, {"image_adapter", "text_adapter"}),
    ],
)
def test_an_ablation_of_one_part_leaves_the_starts_of_the_others(change: dict[str, Any], changed: set[str]):
    def starts(**settings: Any) -> dict[str, list[Tensor]]:
        guidance = Guidance(8, FvgPtConfig(**settings), stream(3, "init"))
        return {name: list(getattr(guidance, name).parameters()) for name in PARTS_OF_GUIDANCE}

    before, after = starts(), starts(**change)
    for name in PARTS_OF_GUIDANCE:
        pairs = list(zip(before[name], after[name], strict=False))
        same = len(before[name]) == len(after[name]) and all(
            a.shape == b.shape and torch.equal(a, b) for a, b in pairs
        )
        assert same == (name not in changed), name


def test_a_picture_without_a_mask_teaches_no_foreground_even_at_a_least_area_of_zero():
    config = FvgPtConfig(min_area=0.0, adapter_init="default")
    guidance = Guidance(3, config, stream(0, "init")).double()
    features = Features(normal(1, 2, 3, name="image"), normal(4, 3, name="text"))
    full, empty, other = normal(2, 4, name="full"), normal(2, 4, name="empty"), normal(2, 4, name="other")
    labels, nothing = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.float64)
    losses = [
        guidance.losses(Views(features, full, cut, full, full, nothing, nothing), labels, with_scale)
        for cut in (empty, other)
    ]
    assert torch.equal(losses[0]["distill"], losses[1]["distill"])
    views = Views(features, full, empty, full, full, nothing, nothing)
    assert not guidance.trust_target(views, labels).any()


def with_scale(features: Features) -> Tensor:
    return align(features, torch.tensor(10.0, dtype=features.text.dtype))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lambda_distill": -1.0}, "lambda_distill is -1.0: give zero or more"),
        ({"lambda_gate": -1.0}, "lambda_gate"),
        ({"lambda_prior": -0.1}, "lambda_prior"),
        ({"terms": ("gate",), "foreground_gate": False}, "no term of gate trains anything"),
        ({"terms": ("prior", "prior_kl"), "prior_trust": 0.5}, "no term of prior, prior_kl"),
        ({"terms": ("base", "distill"), "adapters": "none"}, "no term of base, distill"),
    ],
)
def test_settings_that_train_nothing_or_backwards_are_refused(settings: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        Guidance(8, FvgPtConfig(**settings), stream(0, "init"))
