"""Where patches stand among a method's own tokens: every method, seen by moving them about."""

import pytest
import torch
from torch import Tensor

from foveate.clip.model import Clip
from foveate.explain import How, gaze
from foveate.explain.maps import block_index, patch_start, patches_of
from foveate.methods.base import Method
from foveate.methods.capabilities import PriorBranch
from foveate.methods.registry import backbones, build, parts
from foveate.seeds import stream

NAMES = ["cat", "dog", "phone"]
METHODS = [*backbones(), "fvgpt+coop", "fvgpt+promptsrc", "fvgpt+mmrl", "fvgpt+maple"]
HOW = ["hirescam", "gradcam", "rollout"]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest, tiny_clip: Clip) -> Method:
    """Blind to places: patches are told apart by what they show alone."""
    return placeless(request.param, tiny_clip)


def placeless(name: str, clip: Clip) -> Method:
    clip.vision.pos.data[1:] = clip.vision.pos.data[1:].mean(0)
    small = {"mmrl": {"width": 32}}
    settings = {part: small[part] for part in parts(name) if part in small}
    method = build(name, clip, settings)
    with torch.no_grad():
        for key, tensor in method.learned().items():
            if key.endswith("tokens") or "vision" in key:
                tensor.mul_(20)  # loud enough to matter
    method.set_classes(NAMES)
    return method


def moved(images: Tensor, order: Tensor) -> Tensor:
    """Pictures of 4 x 4 patches of 8 px, with the patches in another order."""
    patches = images.view(len(images), 3, 4, 8, 4, 8).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    back = patches[:, order].view(len(images), 4, 4, 3, 8, 8).permute(0, 3, 1, 4, 2, 5)
    return back.reshape(images.shape)


@pytest.mark.parametrize("how", HOW)
def test_a_gaze_moves_with_the_patches(method: Method, how: How):
    images = torch.randn(3, 3, 32, 32, generator=stream(1, "pictures"))
    order, labels = torch.randperm(16, generator=stream(1, "order")), torch.tensor([0, 1, 2])
    branch = "new" if isinstance(method, PriorBranch) else "base"  # others have the same logits in both
    for layer in (-1, 0):
        heat = gaze(method, images, labels, branch, how=how, layer=layer)
        there = gaze(method, moved(images, order), labels, branch, how=how, layer=layer)
        assert heat.shape == (3, 4, 4)
        torch.testing.assert_close(there.flatten(1), heat.flatten(1)[:, order], rtol=1e-3, atol=1e-5)
        assert heat.flatten(1).std(1).max() > 1e-4


@pytest.mark.parametrize("how", HOW)
def test_the_one_patch_that_differs_is_the_one_that_stands_out(method: Method, how: How):
    images = torch.zeros(1, 3, 32, 32)
    place = 6
    row, column = divmod(place, 4)
    spot = torch.randn(3, 8, 8, generator=stream(2, "spot"))
    images[0, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = spot
    heats = gaze(method, images.expand(3, -1, -1, -1), torch.arange(3), how=how).flatten(1)
    rest = torch.cat([heats[:, :place], heats[:, place + 1 :]], dim=1)
    assert (rest.amax(1) - rest.amin(1)).max() < 1e-4
    assert (heats[:, place] - rest.mean(1)).abs().max() > 1e-3


def test_patches_are_cut_from_between_tokens():
    values = torch.arange(22.0)[None]
    assert patches_of(values, 16, 6).tolist() == [list(range(6, 22))]  # MMRL: five tokens before them
    assert patches_of(values, 16, 1).tolist() == [list(range(1, 17))]  # VPT: five behind them
    assert patches_of(values[:, :17], 16, 6).tolist() == [list(range(1, 17))]  # CLIP's own pass
    assert patch_start(17, 16, 6) == 1


def test_blocks_are_counted_from_either_end():
    assert [block_index(layer, 3) for layer in (-3, -1, 0, 2)] == [0, 2, 0, 2]
