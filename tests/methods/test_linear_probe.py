"""The linear probe solves its problem: against SciPy's own minimiser, and how C is found."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from foveate.classifier import Classifier
from foveate.clip.model import Clip
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.methods import linear_probe
from foveate.methods.base import Method
from foveate.methods.capabilities import SupportSet
from foveate.methods.linear_probe import COARSE, LinearProbe, LinearProbeConfig, Problem, search
from foveate.methods.registry import build
from foveate.seeds import stream
from foveate.types import Batch

NAMES = ["cat", "dog", "phone"]


def answers(method: Method, batch: Batch, branch: str = "base") -> Tensor:
    with torch.no_grad():
        return method.logits(method.features(batch.images), branch)


def pictures(number: int, seed: int = 0, classes: int = 3) -> Batch:
    images = torch.randn(number, 3, 32, 32, generator=stream(seed, "test"))
    return Batch(images, torch.arange(number) % classes)


def shown(train: Sequence[Batch], val: Sequence[Batch] = ()) -> SupportSet:
    """One batch a pass, in turn."""
    return SupportSet(lambda number: [train[number % len(train)]], val)


def unit(method: Method, batch: Batch) -> Tensor:
    """CLIP's own unit features, in float64."""
    with torch.no_grad():
        return F.normalize(method.clip.vision(batch.images).double(), dim=-1)


def made(clip: Clip, **settings: object) -> LinearProbe:
    method = LinearProbe(clip, LinearProbeConfig(**settings))
    method.set_classes(NAMES)
    return method


def problem(number: int = 30, dim: int = 5, seed: int = 0) -> Problem:
    features = torch.randn(number, dim, generator=stream(seed, "probe"), dtype=torch.float64)
    return Problem(F.normalize(features, dim=-1), torch.arange(number) % 3, 3)


def slow(features: np.ndarray, labels: np.ndarray, classes: int, c: float) -> tuple[np.ndarray, np.ndarray]:
    """½‖W‖² + C Σ CE, minimised by SciPy, with plain loops over pictures."""
    dim = features.shape[1]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = flat.reshape(classes, dim + 1)
        value, gradient = 0.5 * (both[:, :dim] ** 2).sum(), both.copy()
        gradient[:, dim] = 0
        for f, label in zip(features, labels, strict=True):
            logits = both[:, :dim] @ f + both[:, dim]
            p = np.exp(logits - logits.max())
            p /= p.sum()
            value -= c * np.log(p[label])
            error = p - np.eye(classes)[label]
            gradient += c * np.outer(error, np.append(f, 1.0))
        return value, gradient.ravel()

    found = minimize(
        objective,
        np.zeros(classes * (dim + 1)),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": 1e-10, "ftol": 0},
    ).x.reshape(classes, dim + 1)
    return found[:, :dim], found[:, dim]


@pytest.mark.parametrize("c", [0.01, 1.0, 300.0])
def test_the_solution_is_that_of_another_minimiser(c: float):
    own = problem()
    weight, bias = own.solve(c)
    expected, offset = slow(own.features.numpy(), own.labels.numpy(), 3, c)
    np.testing.assert_allclose(weight.numpy(), expected, atol=1e-4 * max(1.0, abs(expected).max()))
    between = bias.numpy() - bias.numpy().mean()  # biases may all move together
    np.testing.assert_allclose(between, offset - offset.mean(), atol=1e-4 * max(1.0, abs(offset).max()))


@pytest.mark.parametrize("c", [1e-6, 1.0, 1e4])
def test_the_gradient_is_zero_at_the_solution(c: float):
    own = problem()
    weight, bias = (t.clone().requires_grad_() for t in own.solve(c))
    loss = F.cross_entropy(own.features @ weight.T + bias, own.labels, reduction="sum")
    (0.5 * weight.square().sum() / c + loss).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 1e-4


def test_what_is_fitted_is_the_solution_for_unit_features(tiny_clip: Clip):
    method, batch = made(tiny_clip, c=2.0), pictures(9)
    method.fit_support(shown([batch]))
    weight, bias = slow(unit(method, batch).numpy(), batch.labels.numpy(), 3, 2.0)
    asked = pictures(4, seed=1)
    expected = unit(method, asked).numpy() @ weight.T + bias
    got = answers(method, asked).double().numpy()
    np.testing.assert_allclose(
        got - got.mean(axis=1, keepdims=True), expected - expected.mean(axis=1, keepdims=True), atol=1e-4
    )
    assert not method.trainable()


def test_with_hardly_any_pull_from_the_pictures_it_knows_nothing(tiny_clip: Clip):
    method = made(tiny_clip, c=1e-9)
    method.fit_support(shown([pictures(9)]))
    p = answers(method, pictures(4, seed=1)).softmax(dim=-1)
    torch.testing.assert_close(p, torch.full_like(p, 1 / 3), rtol=0, atol=1e-4)


def test_the_search_comes_close_to_the_best_power_and_takes_ten_where_all_are_equal():
    assert search(lambda c: -round(1000 * abs(np.log10(c) - 2.3))) == pytest.approx(10**2.3, rel=0.2)
    assert search(lambda c: -round(1000 * abs(np.log10(c) + 4.8))) == pytest.approx(10**-4.8, rel=0.2)
    assert search(lambda c: 7) == 10.0
    assert 0.2 < search(lambda c: int(c < 0.3)) < 0.3  # the one closest to ten


def test_c_is_looked_for_on_validation_pictures(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(linear_probe, "HALVINGS", 1)
    train, val = pictures(6), pictures(9, seed=4)
    method = made(tiny_clip)
    method.fit_support(shown([train], [val]))
    own = Problem(unit(method, train), train.labels, 3)
    found = own.correct(method.c.item(), unit(method, val), val.labels)
    assert found == max(own.correct(10.0**p, unit(method, val), val.labels) for p in COARSE)
    without = made(tiny_clip, validate=False)
    without.fit_support(shown([train], [val]))
    alone = made(tiny_clip)
    alone.fit_support(shown([train]))
    assert without.c.item() == alone.c.item()


def test_else_each_class_holds_back_its_pictures_in_turn():
    features = torch.arange(14, dtype=torch.float64).reshape(7, 2)
    labels = torch.tensor([0, 1, 0, 1, 0, 2, 1])
    rows = {tuple(f): i for i, f in enumerate(features.tolist())}
    turns = [
        (
            [rows[tuple(f)] for f in held.tolist()],
            [rows[tuple(f)] for f in rest.features.tolist()],
            own.tolist(),
        )
        for rest, held, own in Problem(features, labels, 3).folds()
    ]
    assert turns == [  # the only picture of class 2 stays in
        ([0, 1], [2, 3, 4, 5, 6], [0, 1]),
        ([2, 3], [0, 1, 4, 5, 6], [0, 1]),
        ([4, 6], [0, 1, 2, 3, 5], [0, 1]),
    ]


def test_one_picture_a_class_leaves_nothing_to_hold_back(tiny_clip: Clip):
    method = made(tiny_clip)
    method.fit_support(shown([pictures(3)]))
    assert method.c.item() == 10.0
    assert "--linear-probe.c" in method.warnings()[0]
    method.fit_support(shown([pictures(3)], [pictures(3, seed=1)]))
    assert not method.warnings()


def test_names_it_was_not_trained_on_are_zero_shot_clip_s(tiny_clip: Clip):
    method, plain = made(tiny_clip, c=1.0), build("zeroshot", tiny_clip)
    method.fit_support(shown([pictures(9)]))
    names, batch = ["owl", "dog", "bat"], pictures(4, seed=1)
    method.set_classes(names, trained=NAMES)
    plain.set_classes(names)
    told, clip_says = answers(method, batch, "mixed"), answers(plain, batch)
    torch.testing.assert_close(told, clip_says)  # one known name alone: only CLIP says whether it is that
    assert "'owl' and 1 more" in method.disclaimers()[0]


def test_it_opens_no_test_picture_and_is_saved(
    clip_folder: Path, tmp_path: Path, split_photos: Callable[..., Photos]
):
    photos = split_photos(train=3, val=2)
    fitted = Classifier("linear-probe", clip_folder).fit(photos, shots=3, out=tmp_path / "run")
    assert fitted.config is not None
    assert fitted.config.val_pictures == 4
    read = Classifier.from_pretrained(tmp_path / "run")
    picture = photos.samples[0].picture.load()
    assert read.predict(picture) == fitted.predict(picture)
    again = Classifier("linear_probe", clip_folder).fit(photos, shots=3)
    for name, tensor in fitted.method.learned().items():
        assert torch.equal(tensor, again.method.learned()[name])


def test_c_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"^linear_probe: c is 0\.0"):
        LinearProbeConfig(c=0.0)
