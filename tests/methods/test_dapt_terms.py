"""DAPT's terms against slow references written from the spec's equations, and their gradients."""

import math

import pytest
import torch
from torch.nn import functional as F

from foveate.methods.dapt import (
    DaptConfig,
    background_alignment,
    foreground_alignment,
    pull_push,
    recomposition,
    unit_features,
)
from foveate.seeds import stream


def units(name: str, number: int = 5, dim: int = 7) -> torch.Tensor:
    drawn = torch.randn(number, dim, generator=stream(0, name), dtype=torch.float64)
    return F.normalize(drawn, dim=-1)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return math.sqrt(sum((float(x) - float(y) + 1e-6) ** 2 for x, y in zip(a, b, strict=True)))


@pytest.mark.parametrize("margin", [1.5, 0.1])  # at 0.1 some pictures are beyond the hinge
def test_pull_push_is_the_mean_hinge(margin: float):
    whole, near, far = units("whole"), units("near"), units("far")
    hinges = [
        max(0.0, distance(w, n) - distance(w, f) + margin) for w, n, f in zip(whole, near, far, strict=True)
    ]
    assert 0.0 in hinges or margin == 1.5
    assert pull_push(whole, near, far, margin).item() == pytest.approx(sum(hinges) / 5, abs=1e-12)


def test_pull_push_with_cosines():
    whole, near, far = units("whole"), units("near"), units("far")
    hinges = [max(0.0, float(w @ f - w @ n) + 0.2) for w, n, f in zip(whole, near, far, strict=True)]
    assert 0 < hinges.count(0.0) < 5
    assert pull_push(whole, near, far, 0.2, "cosine").item() == pytest.approx(sum(hinges) / 5, abs=1e-12)


def test_where_the_foreground_is_the_whole_only_the_background_is_left():
    whole, far = units("whole"), units("far")
    expected = sum(max(0.0, 1.5 - distance(w, f)) for w, f in zip(whole, far, strict=True)) / 5
    assert pull_push(whole, whole, far).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["euclidean", "cosine"])
def test_pull_push_has_a_gradient_to_the_whole_picture_alone(kind: str):
    whole, near, far = (units(name).requires_grad_() for name in ("whole", "near", "far"))
    pull_push(whole, near, far, distance=kind).backward()
    assert whole.grad is not None
    assert whole.grad.abs().sum() > 0
    assert near.grad is None
    assert far.grad is None


def test_a_step_along_pull_push_goes_to_the_foreground_and_from_the_background():
    whole, near, far = units("whole").requires_grad_(), units("near"), units("far")
    pull_push(whole, near, far).backward()
    stepped = F.normalize(whole.detach() - 0.1 * whole.grad, dim=-1)
    before = (whole.detach() - near).norm(dim=-1) - (whole.detach() - far).norm(dim=-1)
    after = (stepped - near).norm(dim=-1) - (stepped - far).norm(dim=-1)
    assert (after < before).all()


def test_background_alignment_is_minus_the_log_of_the_highest_probability():
    logits = 5 * torch.randn(6, 4, generator=stream(0, "logits"), dtype=torch.float64)
    expected = -sum(math.log(max(row.softmax(-1).tolist())) for row in logits) / 6
    loss = background_alignment(logits)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert loss >= 0
    assert background_alignment(torch.tensor([[400.0, 0.0]])) == 0


def test_a_soft_target_gives_the_entropy_and_its_gradient():
    """With the target held fixed the gradient, p − target, would be zero: a term that trains nothing."""
    logits = torch.randn(6, 4, generator=stream(0, "logits"), dtype=torch.float64).requires_grad_()
    loss = background_alignment(logits, "soft")
    p = logits.detach().softmax(-1)
    entropy = -(p * p.log()).sum(-1, keepdim=True)
    assert loss.item() == pytest.approx(entropy.mean().item(), abs=1e-12)
    loss.backward()
    torch.testing.assert_close(logits.grad, -p * (p.log() + entropy) / 6)


def test_foreground_alignment_is_cross_entropy():
    logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), torch.tensor([2, 1])
    first = math.log(math.exp(2) + 1 + math.e) - 1
    assert foreground_alignment(logits, labels).item() == pytest.approx((first + math.log(3)) / 2, abs=1e-6)


def test_recomposition_is_the_mean_absolute_difference():
    whole = units("whole").requires_grad_()
    front, back = 3 * units("near"), 0.5 * units("far")
    both = torch.stack([(f + b) / (f + b).norm() for f, b in zip(front, back, strict=True)])
    assert recomposition(whole, front, back).item() == pytest.approx((both - whole).abs().mean().item())


def test_unit_features_of_two_heads_are_their_mixture():
    image = torch.randn(2, 3, 7, generator=stream(0, "heads"), dtype=torch.float64)
    mixed = 0.7 * F.normalize(image[0], dim=-1) + 0.3 * F.normalize(image[1], dim=-1)
    torch.testing.assert_close(unit_features(image, (0.7, 0.3)), mixed / mixed.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(unit_features(image[:1], (1.0,)), F.normalize(image[0], dim=-1))


FIRST, SECOND = {"pull": 0.8}, {"foreground": 0.1, "background": 0.5}


@pytest.mark.parametrize(
    ("settings", "epochs", "firsts"),
    [
        ({}, 10, 7),  # the released code's few-shot run: 0 to 6, and 7 to 9
        ({}, 5, 4),  # 3.5 is not reached by epoch 3
        ({}, 1, 1),
        ({"phase_switch": 0.0}, 5, 0),
        ({"phase_switch": 2.0}, 5, 2),
        ({"official_quirks": True}, 10, 7),
        ({"official_quirks": True}, 5, 5),  # there, five epochs never see the second phase
        ({"official_quirks": True, "phase_switch": None}, 20, 7),
    ],
)
def test_phases(settings: dict, epochs: int, firsts: int):
    config = DaptConfig(**settings)
    phases = [config.weights(epoch, epochs) for epoch in range(epochs)]
    assert phases == [FIRST] * firsts + [SECOND] * (epochs - firsts)


def test_without_a_switch_all_terms_are_there_all_the_time():
    config = DaptConfig(phase_switch=None, recompose_weight=0.5, foreground_weight=0.0)
    expected = {"pull": 0.8, "recompose": 0.5, "background": 0.5}
    assert [config.weights(epoch, 3) for epoch in range(3)] == [expected] * 3
