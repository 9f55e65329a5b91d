"""Held-out answers against training without the pictures, and wrong labels that were planted."""

import pytest
import torch
from torch.nn import functional as F

from foveate.check.groups import group_leaks
from foveate.check.labels import alike, held_out, suspects


def cloud(per_class: int, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    centres = torch.randn(classes, 12, generator=generator, dtype=torch.float64)
    return centres[labels] + 0.5 * torch.randn(len(labels), 12, generator=generator).double(), labels


def refitted(features: torch.Tensor, labels: torch.Tensor, out: torch.Tensor, ridge: float) -> torch.Tensor:
    """Solve the ridge regression without some pictures, and answer about them, from the normal equations."""
    x = F.normalize(features, dim=-1)
    x = x - x.mean(dim=0)
    x = torch.cat([x, x.square().sum(dim=1).mean().sqrt().expand(len(x), 1)], dim=1)
    penalty = ridge * torch.linalg.eigvalsh(x.T @ x / len(x)).mean() * len(x)
    kept, wanted = x[~out], F.one_hot(labels)[~out].double()
    weights = torch.linalg.solve(kept.T @ kept + penalty * torch.eye(x.shape[1]).double(), kept.T @ wanted)
    return x[out] @ weights


@pytest.mark.parametrize("grouped", [False, True])
def test_answers_are_those_of_a_classifier_without_the_pictures(
    grouped: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("foveate.check.labels.RIDGES", (0.1,))
    features, labels = cloud(6)
    groups = torch.arange(24) % 6 if grouped else torch.arange(24)
    found = held_out(features, labels, groups if grouped else None)
    for number in range(6):
        out = groups == number
        expected = refitted(features, labels, out, 0.1)
        scale = found[out].norm() / expected.norm()  # the temperature, one for all
        torch.testing.assert_close(found[out], scale * expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_swapped_labels_are_found(share: float):
    features, labels = cloud(40, seed=1)
    generator = torch.Generator().manual_seed(2)
    wrong = torch.randperm(160, generator=generator)[: round(160 * share)]
    given = labels.clone()
    given[wrong] = (labels[wrong] + torch.randint(1, 4, (len(wrong),), generator=generator)) % 4
    found = suspects(held_out(features, given), given)
    hit = [one for one in found if given[one.picture] != labels[one.picture]]
    assert len(hit) >= 0.8 * len(wrong)
    assert len(hit) >= 0.7 * len(found)
    assert all(one.other == labels[one.picture] for one in hit)
    assert [one.margin for one in found] == sorted((one.margin for one in found), reverse=True)


def test_nothing_is_said_of_a_class_of_two():
    features, labels = cloud(8)
    labels = torch.cat([labels, torch.tensor([4, 4])])
    features = torch.cat([features, features[:2]])  # they look like the first class in all
    assert not [one for one in suspects(held_out(features, labels), labels) if labels[one.picture] == 4]


def test_classes_that_cannot_be_told_apart():
    labels = torch.arange(3).repeat_interleave(6)
    logits = 4.0 * F.one_hot(labels, 3)
    logits[labels == 1] = torch.tensor([3.0, 2.0, 0.0])  # the second class always loses to the first
    (pair,) = alike(logits, labels)
    assert (pair.first, pair.second, pair.right) == (0, 1, 0.5)
    assert not alike(logits[::2], labels[::2])  # three pictures of each say too little


def test_what_a_group_fakes_is_measured():
    """Each group is a cloud of its own with one label: nothing but the group's other pictures tells it."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(16).repeat_interleave(5)
    centres = torch.randn(16, 12, generator=generator)
    features = centres[groups] + 0.1 * torch.randn(80, 12, generator=generator)
    labels = groups % 2
    leak = group_leaks(features, labels, [f"day {group}" for group in groups], held_out(features, labels))
    assert leak.groups == 16
    assert leak.among_own >= 90
    assert leak.without_own < 70
    assert leak.faked == leak.among_own - leak.without_own
