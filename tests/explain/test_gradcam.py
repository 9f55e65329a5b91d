"""Grad-CAM against the package `grad-cam`, at any block; and what may not be asked."""

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.explain import How, Target, gaze
from foveate.methods.base import Method
from foveate.methods.registry import build
from foveate.seeds import stream

NAMES = ["cat", "dog", "phone"]
LABELS = torch.tensor([2, 0, 1, 1])
IMAGES = torch.randn(4, 3, 32, 32, generator=stream(0, "pictures"))


def zeroshot(clip: Clip) -> Method:
    method = build("zeroshot", clip)
    method.set_classes(NAMES)
    return method


# --- the package ---


class Scores(nn.Module):
    """A plain network of a method: pictures in, logits out."""

    def __init__(self, method: Method):
        super().__init__()
        self.vision, self.method = method.clip.vision, method

    def forward(self, images: Tensor) -> Tensor:
        with self.method.constant_text(), torch.enable_grad():
            return self.method.logits(self.method.features(images.requires_grad_()))


def scaled(maps: np.ndarray) -> np.ndarray:
    """Least to 0 and greatest to 1 of each map, as the package does."""
    flat = maps.reshape(len(maps), -1)
    low, high = flat.min(1)[:, None, None], flat.max(1)[:, None, None]
    return (maps - low) / (high - low)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if find_spec("pytorch_grad_cam") is None:
        pytest.skip("the package grad-cam is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import_module("sklearn.decomposition")
        except ImportError:  # not whole; the package imports two names of it that none of these maps needs
            import_module("torchvision")  # which would look for the stand-in's file
            stand_in = ModuleType("sklearn.decomposition")
            stand_in.NMF = stand_in.KernelPCA = None
            monkeypatch.setitem(sys.modules, "sklearn", ModuleType("sklearn"))
            monkeypatch.setitem(sys.modules, "sklearn.decomposition", stand_in)
        import_module("pytorch_grad_cam.utils.model_targets")
        return import_module("pytorch_grad_cam")


@pytest.mark.parametrize("layer", [-1, -2, 0])
@pytest.mark.parametrize("target", ["logit", "probability"])
@pytest.mark.parametrize("how", ["gradcam", "hirescam"])
def test_it_equals_the_package(tiny_clip: Clip, package: ModuleType, how: How, target: Target, layer: int):
    # In double precision: in single, either way rounds by a few millionths.
    method, targets = zeroshot(tiny_clip.double()), package.utils.model_targets
    kind = {"gradcam": package.GradCAM, "hirescam": package.HiResCAM}[how]
    about = {"logit": "ClassifierOutputTarget", "probability": "ClassifierOutputSoftmaxTarget"}[target]

    def of_patches(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].reshape(len(tokens), 4, 4, -1).permute(0, 3, 1, 2)

    cam = kind(Scores(method), [tiny_clip.vision.blocks[layer].ln_1], reshape_transform=of_patches)
    with cam:
        asked = [getattr(targets, about)(int(label)) for label in LABELS]
        # It adds 1e-7 to what it divides by, which a small gradient would feel.
        louder = [lambda output, one=one: 1e4 * one(output) for one in asked]
        expected = cam(input_tensor=IMAGES.double(), targets=louder)
    heat = gaze(method, IMAGES.double(), LABELS, how=how, target=target, layer=layer)
    assert (heat.sum((1, 2)) > 0.99).any()
    # Stretched, enlarged, and stretched again, as the package shows its maps.
    enlarged = F.interpolate(torch.tensor(scaled(heat.numpy()))[:, None], size=32, mode="bilinear")[:, 0]
    np.testing.assert_allclose(scaled(enlarged.numpy()), expected, atol=1e-6)


# --- where and what ---


def test_a_block_is_counted_from_either_end(tiny_clip: Clip):
    method = zeroshot(tiny_clip)
    for how in ("hirescam", "gradcam", "rollout"):
        maps = [gaze(method, IMAGES, LABELS, how=how, layer=layer) for layer in (0, 1, 2)]
        for place, one in enumerate(maps):
            assert torch.equal(gaze(method, IMAGES, LABELS, how=how, layer=place - 3), one)
        assert not torch.allclose(maps[0], maps[2], atol=1e-3)


@pytest.mark.parametrize("how", ["hirescam", "gradcam", "rollout"])
@pytest.mark.parametrize("layer", [3, -4, 99])
def test_a_block_that_is_not_there_is_refused(tiny_clip: Clip, how: How, layer: int):
    with pytest.raises(InputError, match=f"layer is {layer}: the image tower has 3 blocks, give -3 to 2"):
        gaze(zeroshot(tiny_clip), IMAGES, LABELS, how=how, layer=layer)


@pytest.mark.parametrize("part", ["", "ln_2", "fc", "out"])
def test_behind_the_last_attention_patches_tell_nothing(tiny_clip: Clip, part: str):
    """Why the target is `ln_1`: everything later is read, and computed, at the class token alone."""
    caught: list[Tensor] = []
    module = tiny_clip.vision.blocks[-1].get_submodule(part)
    handle = module.register_forward_hook(lambda _m, _i, output: caught.append(output) or output)
    logits = Scores(zeroshot(tiny_clip))(IMAGES.clone())
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.sum(), caught)
    assert gradient.shape[1] == 1
    assert gradient.abs().max() > 0


def test_logit_and_probability_are_different_questions(tiny_clip: Clip):
    method = zeroshot(tiny_clip)
    maps = [gaze(method, IMAGES, LABELS, target=target) for target in ("logit", "probability")]
    assert not torch.allclose(*maps, atol=1e-2)


def test_a_single_class_has_a_logit_but_no_probability_to_speak_of(tiny_clip: Clip):
    method = build("zeroshot", tiny_clip)
    method.set_classes(["cat"])
    alone = torch.zeros(4, dtype=torch.long)
    assert gaze(method, IMAGES, alone, target="probability").sum() == 0
    torch.testing.assert_close(gaze(method, IMAGES, alone, target="logit").sum((1, 2)), torch.ones(4))


@pytest.mark.parametrize("scale", [1.0, 30.0, 3e4])
def test_a_probability_that_has_rounded_to_one_still_has_its_direction(tiny_clip: Clip, scale: float):
    """In double precision the same gradient, where float32's p is 1 or 0 and its own gradient nothing."""
    method = zeroshot(tiny_clip)
    tiny_clip.logit_scale.data.fill_(float(np.log(scale)))
    method.set_classes(NAMES)
    heat = gaze(method, IMAGES, LABELS)
    assert heat.isfinite().all()
    tiny_clip.double()
    method.set_classes(NAMES)
    torch.testing.assert_close(gaze(method, IMAGES.double(), LABELS).float(), heat, rtol=1e-3, atol=1e-4)


def test_learned_tensors_learn_again_afterwards(tiny_clip: Clip):
    method = build("vpt", tiny_clip)
    method.set_classes(NAMES)
    before = set(method.trainable())
    assert before
    gaze(method, IMAGES, LABELS)
    assert set(method.trainable()) == before
    with pytest.raises((IndexError, RuntimeError)):
        gaze(method, IMAGES, torch.tensor([0, 1, 2, 99]))
    assert set(method.trainable()) == before
