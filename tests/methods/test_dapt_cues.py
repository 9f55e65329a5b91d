"""What tells the foreground: boxes around masks, and the gaze, which is really that of the asked model."""

import copy

import numpy as np
import pytest
import torch

from foveate.clip.model import Clip
from foveate.explain.maps import class_activation
from foveate.methods.base import Method
from foveate.methods.dapt_views import Gaze, activation_maps, as_masks, boxes_around
from foveate.methods.registry import build
from foveate.seeds import stream

NAMES = ["cat", "dog", "old photo"]
HOSTS = ["maple", "ivlp", "promptsrc", "mmrl", "vpt", "coop", "kgcoop", "mma", "clip_lora"]


def images(number: int = 4) -> torch.Tensor:
    return torch.randn(number, 3, 32, 32, generator=stream(0, "pictures"))


LABELS = torch.tensor([0, 1, 2, 0])


@pytest.fixture
def host(tiny_clip: Clip) -> Method:
    method = build("ivlp", tiny_clip, seed=1)
    method.set_classes(NAMES)
    return method


def test_boxes_around_masks():
    masks = torch.zeros(3, 1, 6, 8)
    masks[0, 0, 2, 1] = masks[0, 0, 4, 5] = 1  # two corners far apart
    masks[1] = 1
    expected = np.zeros((3, 6, 8))
    expected[0, 2:5, 1:6] = 1
    expected[1] = 1  # and the third is empty
    assert np.array_equal(boxes_around(masks)[:, 0].numpy(), expected)


def test_maps_are_brought_to_views_scaled_and_cut():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 5.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.1, 0.1], [0.1, 0.2]]])
    corners = torch.meshgrid(torch.linspace(0, 1, 5), torch.linspace(0, 1, 5), indexing="ij")
    y, x = corners
    first = 1 + 2 * y + x + y * x  # the bilinear surface through the four corners
    soft = as_masks(maps, 5, None, "image")
    torch.testing.assert_close(soft[0, 0], (first - 1) / 4)
    assert not soft[1].any()
    assert soft[2].max() == 1
    hard = as_masks(maps, 5, 0.5, "image")
    assert torch.equal(hard[0, 0], ((first - 1) / 4 >= 0.5).float())
    assert not hard[1].any()
    by_batch = as_masks(maps, 5, 0.5, "batch")  # the released code's: a weak view is empty
    assert torch.equal(by_batch[0, 0], (first / 5 >= 0.5).float())
    assert not by_batch[1:].any()


@pytest.mark.parametrize("name", HOSTS)
def test_maps_are_grad_cam_of_the_labels_logit(tiny_clip: Clip, name: str):
    """Against the other Grad-CAM of this package, which leaves no scale: both as shares of their sums."""
    method = build(name, tiny_clip, seed=1)
    method.set_classes(NAMES)
    own = activation_maps(method, images(), LABELS)
    other = class_activation(method, images(), LABELS, averaged=True, target="logit").heat
    assert own.sum() > 0
    total = own.sum(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(own / total.clamp_min(1e-30), other, rtol=1e-4, atol=1e-5)


def test_maps_by_hand(host: Method):
    """ReLU of activations times mean gradients, with the gradient by finite differences of the logit."""
    block, vision = host.clip.vision.blocks[-1], host.clip.vision
    picture, label = images(1).double(), 1
    host.double()
    host.set_classes(NAMES)
    shift = torch.zeros(1, 1, 128, dtype=torch.float64)
    kept = []

    def add(_m, _i, output):
        kept.append(output.detach())
        moved = output.clone()
        moved[:, 1 : 1 + vision.grid**2] += shift
        return moved

    handle = block.ln_1.register_forward_hook(add)
    with torch.no_grad():
        slopes = []
        for channel in range(128):
            pair = []
            for step in (1e-5, -1e-5):
                shift.zero_()
                shift[0, 0, channel] = step
                pair.append(host.logits(host.features(picture))[0, label].item())
            slopes.append((pair[0] - pair[1]) / 2e-5)
    handle.remove()
    patches = kept[0][0, 1 : 1 + vision.grid**2]
    mean_gradient = torch.tensor(slopes, dtype=torch.float64) / vision.grid**2
    expected = (patches @ mean_gradient).clamp_min(0).view(vision.grid, vision.grid)
    found = activation_maps(host, picture, torch.tensor([label]))[0]
    assert expected.max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_looking_leaves_no_trace(host: Method):
    before = {name: (p.requires_grad, p.grad) for name, p in host.named_parameters()}
    hooks = len(host.clip.vision.blocks[-1].ln_1._forward_hooks)
    with torch.no_grad():
        Gaze(host, "every_step", "current", 0.5, "image").masks(images(), LABELS)
    assert {name: (p.requires_grad, p.grad) for name, p in host.named_parameters()} == before
    assert len(host.clip.vision.blocks[-1].ln_1._forward_hooks) == hooks


def moved(host: Method) -> Method:
    """The same method as if it had been trained meanwhile."""
    with torch.no_grad():
        for name, parameter in host.learned().items():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=stream(3, name)))
    return host


@pytest.mark.parametrize("refresh", ["every_step", "every_epoch", "once"])
def test_whose_gaze_it_is(host: Method, refresh: str):
    start = copy.deepcopy(host)
    gaze = Gaze(host, refresh, "current", None, "image")
    gaze.copy_before_training()
    gaze.begin_epoch()
    maps = [gaze.masks(images(), LABELS)]
    epoch = copy.deepcopy(moved(host))
    maps.append(gaze.masks(images(), LABELS))
    gaze.begin_epoch()
    moved(host)
    maps.append(gaze.masks(images(), LABELS))
    lookers = {
        "every_step": [start, epoch, host],
        "every_epoch": [start, start, epoch],
        "once": [start, start, start],
    }[refresh]
    expected = [as_masks(activation_maps(one, images(), LABELS), 32, None, "image") for one in lookers]
    assert not torch.allclose(
        expected[0], as_masks(activation_maps(host, images(), LABELS), 32, None, "image")
    )
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_remembered_host_moves_with_the_towers(host: Method):
    gaze = Gaze(host, "once", "current", None, "image")
    gaze.copy_before_training()
    host.to("meta")  # stands for a GPU
    gaze.begin_epoch()
    looker = gaze._current_method()
    assert looker is not host
    assert {p.device.type for p in looker.learned().values()} == {"meta"}


def test_the_frozen_gaze_is_zero_shot_clips(host: Method):
    gaze = Gaze(moved(host), "every_epoch", "frozen", None, "image")
    gaze.begin_epoch()
    plain = build("zeroshot", host.clip)
    plain.set_classes(NAMES)
    expected = as_masks(activation_maps(plain, images(), LABELS), 32, None, "image")
    torch.testing.assert_close(gaze.masks(images(), LABELS), expected)


def test_a_flipped_view_has_a_gaze_of_its_own(host: Method):
    """The map is of the very tensor that is trained on, whatever crop or flip made it."""
    gaze = Gaze(host, "every_epoch", "current", None, "image")
    flipped = images().flip(-1)
    alone = torch.cat([gaze.masks(flipped[i : i + 1], LABELS[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(gaze.masks(flipped, LABELS), alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(alone, gaze.masks(images(), LABELS), atol=1e-2)
