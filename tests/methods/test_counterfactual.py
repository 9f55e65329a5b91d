"""Counterfactual calibration against its equations, picture by picture, and in its limits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.foreground.views import background_view, foreground_view
from foveate.methods.base import Method
from foveate.methods.capabilities import SupportSet
from foveate.methods.counterfactual import Counterfactual
from foveate.methods.registry import build, needs_masks
from foveate.seeds import stream
from foveate.types import Batch

NAMES = ["cat", "dog", "phone"]
pytestmark = pytest.mark.usefixtures("few_sentences")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=stream(seed, "test"))


def masks(number: int) -> Tensor:
    found = torch.zeros(number, 1, 32, 32)
    for row in range(number):
        found[row, 0, 4 + row : 20 + row, 8 : 24 - row] = 1
    return found


Make = Callable[..., Counterfactual]


@pytest.fixture
def make(tiny_clip: Clip) -> Make:
    def made(host: str = "zeroshot", **settings: object) -> Counterfactual:
        method = build(f"counterfactual+{host}", tiny_clip, {"counterfactual": settings}).eval()
        method.set_classes(NAMES)
        return method

    return made


def support(*some: Batch) -> SupportSet:
    return SupportSet(lambda epoch: some)


def batch(number: int = 4, seed: int = 3, covered: Tensor | None = None) -> Batch:
    covered = masks(number) if covered is None else covered
    return Batch(noise(number, 3, 32, 32, seed=seed), torch.arange(number) % 3, covered)


def answer(method: Method, pictures: Tensor, covered: Tensor, branch: str = "base") -> Tensor:
    with torch.no_grad():
        return method.logits(method.pair(method.encode_region(pictures, covered)), branch)


def host_answer(method: Counterfactual, pictures: Tensor, branch: str = "base") -> Tensor:
    with torch.no_grad():
        return method.host.logits(method.host.pair(method.host.encode_images(pictures)), branch)


@pytest.mark.parametrize("branch", ["base", "new"])
@pytest.mark.parametrize("host", ["zeroshot", "mmrl"])
def test_it_is_the_equations_picture_by_picture(make: Make, host: str, branch: str):
    method = make(host, contexts=3, mix=0.3, subtract=0.7)
    method.fit_support(support(batch()))
    weights = method.head_weights if branch == "base" else (1.0,)
    pictures, covered = noise(2, 3, 32, 32), masks(2)
    found = answer(method, pictures, covered, branch)
    with torch.no_grad():
        texts = F.normalize(method.text_features(), dim=-1)

    def z(feature: Tensor) -> Tensor:
        return method.clip.scale * sum(
            weight * (texts @ (head / head.norm())) for weight, head in zip(weights, feature, strict=False)
        )

    for row in range(2):
        one, mask = pictures[row : row + 1], covered[row : row + 1]
        with torch.no_grad():
            f, o, c = (
                method.host.encode_images(view)[:, 0]
                for view in (one, foreground_view(one, mask), background_view(one, mask))
            )
        unit, others = F.normalize(o, dim=-1), list[Tensor]()
        for k in range(3):
            ground = method.contexts[:, k]
            others.append(z(unit + ground) - 0.7 * z(ground))
        wanted = 0.7 * (z(f) - 0.7 * z(c)) + 0.3 * sum(others) / 3
        torch.testing.assert_close(found[row], wanted, rtol=1e-4, atol=1e-4)


def test_with_nothing_mixed_and_nothing_subtracted_it_is_the_host(make: Make):
    method = make("mmrl", mix=0.0, subtract=0.0)
    pictures = noise(3, 3, 32, 32)
    torch.testing.assert_close(answer(method, pictures, masks(3)), host_answer(method, pictures))


def test_the_object_alone_is_the_host_on_the_foreground(make: Make):
    method = make("coop", contexts=0, mix=1.0, subtract=0.0)
    pictures, covered = noise(3, 3, 32, 32), masks(3)
    wanted = host_answer(method, foreground_view(pictures, covered))
    torch.testing.assert_close(answer(method, pictures, covered), wanted)


def test_an_empty_mask_leaves_the_bits_of_the_host(make: Make):
    method = make("coop")
    method.fit_support(support(batch()))
    pictures, covered = noise(3, 3, 32, 32), masks(3)
    covered[1] = 0
    found, host = answer(method, pictures, covered), host_answer(method, pictures)
    assert torch.equal(found[1], host[1])
    assert not torch.allclose(found[0], host[0])
    with torch.no_grad():
        assert torch.equal(method.logits(method.features(pictures)), host)


def test_contexts_are_of_pictures_with_object_and_ground_spread_evenly(make: Make):
    covered = masks(6)
    covered[0], covered[3] = 0, 1
    batches = batch(4, 3, covered[:4]), batch(2, 4, covered[4:])
    pictures = torch.cat([one.images for one in batches])
    method = make("zeroshot", contexts=2)
    method.fit_support(support(*batches))
    with torch.no_grad():
        grounds = method.host.encode_images(background_view(pictures, covered))
    wanted = F.normalize(grounds[:, [1, 4]], dim=-1)  # of 1, 2, 4 and 5
    torch.testing.assert_close(method.contexts.data, wanted, rtol=1e-5, atol=1e-6)
    again = make("zeroshot", contexts=2)
    again.fit_support(support(*batches))
    assert torch.equal(again.contexts, method.contexts)
    more = make("zeroshot", contexts=99)
    more.fit_support(support(*batches))
    assert more.contexts.shape[1] == 4
    assert not method.trainable()


def test_an_adapter_of_the_host_sees_the_contexts(make: Make):
    method = make("clip_adapter", contexts=2)
    method.fit_support(support(batch()))
    with torch.no_grad():
        grounds = method.host.encode_images(background_view(batch().images, masks(4)))
    wanted = F.normalize(grounds[:, [0, 2]], dim=-1)
    torch.testing.assert_close(method.contexts.data, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_masks_without_object_or_ground_are_refused(make: Make, value: float):
    with pytest.raises(InputError, match="every mask is empty or full"):
        make().fit_support(support(batch(covered=torch.full((4, 1, 32, 32), value))))


def test_without_contexts_training_needs_no_masks(make: Make):
    assert needs_masks("counterfactual+coop")
    assert not needs_masks("counterfactual+coop", {"counterfactual": {"contexts": 0}})
    method = make("coop", contexts=0)
    method.fit_support(support(Batch(noise(2, 3, 32, 32), torch.tensor([0, 1]))))
    assert method.frozen() == {}
    assert method.contexts.numel() == 0


def test_a_host_that_asks_clip_besides_is_refused(tiny_clip: Clip):
    with pytest.raises(InputError, match="FvgPt also asks CLIP about the whole picture"):
        build("counterfactual+fvgpt+coop", tiny_clip)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mix": 1.5}, "mix is 1.5: give a share between 0 and 1"),
        ({"subtract": -0.1}, "subtract is -0.1: give a share"),
        ({"contexts": -1}, "contexts is -1: give zero or more"),
        ({"fill": "white"}, "fill is 'white'"),
    ],
)
def test_settings_out_of_range_are_refused(make: Make, settings: dict[str, object], said: str):
    with pytest.raises(InputError, match=said):
        make(**settings)
