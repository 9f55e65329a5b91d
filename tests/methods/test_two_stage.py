"""2SFS: norms of both towers tuned, as in a plain CLIP with these norms; then rows for trained classes."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.cocoop import CoCoOp
from foveate.methods.linear_probe import LinearProbe
from foveate.methods.ln_tuning import BLOCK_NORMS, TEXT_NORMS, VISION_NORMS, LnTuning
from foveate.methods.two_stage import TwoStage
from foveate.methods.zeroshot import ZeroShot
from foveate.seeds import stream
from foveate.train.loop import fit
from foveate.train.recipe import Recipe, recipe_for
from foveate.types import Batch

NAMES = ["cat", "dog", "old photo of a phone"]
RECIPE = Recipe(epochs=3, warmup_epochs=0, optimiser="adamw", lr=0.01, weight_decay=0.01, batch_size=6)


def batch(dtype: torch.dtype = torch.float64) -> Batch:
    images = torch.randn(6, 3, 32, 32, generator=stream(0, "pictures"))
    return Batch(images.to(dtype), torch.tensor([2, 0, 1, 1, 0, 2]))


def moved(clip: Clip) -> LnTuning:
    """A method whose norms are far from those of CLIP."""
    method = LnTuning(clip).double()
    g = stream(0, "far from the start")
    for tensor in method.learned().values():
        tensor.data += 0.3 * torch.randn(tensor.shape, generator=g, dtype=torch.float64)
    method.set_classes(NAMES)
    return method


def norms_of(clip: Clip) -> list[list[nn.Module]]:
    """The norms of both towers, in the order of the learned tensors."""
    both = []
    for tower, around in ((clip.vision, VISION_NORMS), (clip.text, TEXT_NORMS)):
        within = [block.get_submodule(name) for block in tower.blocks for name in BLOCK_NORMS]
        both.append([*within, *(tower.get_submodule(name) for name in around)])
    return both


def test_logits_and_gradients_are_those_of_a_clip_with_these_norms(tiny_clip: Clip):
    plain = copy.deepcopy(tiny_clip).double()
    method = moved(tiny_clip)
    tuned = [method.vision_norms, method.text_norms]
    for norms, values in zip(norms_of(plain), tuned, strict=True):
        for norm, (gain, shift) in zip(norms, values, strict=True):
            norm.weight = nn.Parameter(gain.detach().clone())
            norm.bias = nn.Parameter(shift.detach().clone())
    given = batch()
    sentences = [f"a photo of a {name}." for name in NAMES]
    image = F.normalize(plain.vision(given.images), dim=-1)
    expected = plain.scale * image @ F.normalize(plain.text(plain.tokenizer(sentences)), dim=-1).T
    found = method.logits(method(given))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    F.cross_entropy(found, given.labels).backward()
    F.cross_entropy(expected, given.labels).backward()
    for norms, values in zip(norms_of(plain), tuned, strict=True):
        slow = torch.stack([torch.stack([norm.weight.grad, norm.bias.grad]) for norm in norms])
        torch.testing.assert_close(values.grad, slow, rtol=0, atol=1e-8)


def test_it_starts_as_zero_shot_clip(tiny_clip: Clip):
    given = batch(torch.float32)
    methods: list[Method] = [LnTuning(tiny_clip), ZeroShot(tiny_clip)]
    for method in methods:
        method.set_classes(NAMES)
    found, expected = (method.logits(method(given)) for method in methods)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_size_of_vit_b_16():
    with torch.device("meta"):
        learned = LnTuning(Clip(ClipConfig())).learned()
    assert {name: list(p.shape) for name, p in learned.items()} == {
        "vision_norms": [26, 2, 768],
        "text_norms": [25, 2, 512],
    }
    assert sum(p.numel() for p in learned.values()) == 65_536
    assert recipe_for("two_stage+ln_tuning") == recipe_for("ln_tuning")


@pytest.fixture
def host(tiny_clip: Clip) -> LnTuning:
    return moved(tiny_clip)


def test_the_classifier_learns_as_in_a_loop_written_out(host: LnTuning):
    given = batch()
    method = TwoStage(host)
    fit(method, lambda _: [given], RECIPE)

    with torch.no_grad():
        image = F.normalize(host.encode_images(given.images)[0], dim=-1)
        w = F.normalize(host.text_features(), dim=-1).float().clone()
    w.requires_grad_(True)
    optimiser = torch.optim.AdamW([w], lr=RECIPE.lr, weight_decay=RECIPE.weight_decay)
    for epoch in range(RECIPE.epochs):
        optimiser.param_groups[0]["lr"] = RECIPE.lr * (1 + math.cos(math.pi * epoch / RECIPE.epochs)) / 2
        optimiser.zero_grad()
        logits = host.clip.scale * image @ F.normalize(w, dim=-1).double().T
        F.cross_entropy(logits, given.labels).backward()
        optimiser.step()
    torch.testing.assert_close(method.classifier, w, rtol=0, atol=1e-5)


def test_trained_classes_have_rows_and_others_the_texts_of_the_host(host: LnTuning):
    method = TwoStage(host)
    fit(method, lambda _: [batch()], RECIPE)
    rows = F.normalize(method.classifier.detach(), dim=-1)

    def texts(names: list[str]) -> Tensor:
        method.set_classes(names, trained=NAMES)
        with torch.no_grad():
            return F.normalize(method.text_features(), dim=-1)

    found = texts(["phone", NAMES[1], "photo", NAMES[0]])
    host.set_classes(["phone", "photo"])
    of_host = F.normalize(host.text_features(), dim=-1).detach()
    torch.testing.assert_close(found[[1, 3]].float(), rows[[1, 0]])
    torch.testing.assert_close(found[[0, 2]], of_host)
    torch.testing.assert_close(texts(["phone", "photo"]), of_host)
    assert not torch.allclose(rows[0].double(), F.normalize(host.encode_text(), dim=-1)[0])


def test_the_host_stays(host: LnTuning):
    before = {name: tensor.clone() for name, tensor in host.learned().items()}
    method = TwoStage(host)
    fit(method, lambda _: [batch()], RECIPE)
    assert list(method.trainable()) == ["classifier"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in host.learned().items())


def test_a_model_of_other_classes_is_refused(host: LnTuning):
    method = TwoStage(host)
    fit(method, lambda _: [batch()], RECIPE)
    other = TwoStage(host)
    other.classifier = copy.deepcopy(method.classifier)
    with pytest.raises(InputError, match="learned for 3 classes, not 2"):
        other.set_classes(NAMES[:2])


@pytest.mark.parametrize("kind", [LinearProbe, CoCoOp])
def test_hosts_without_a_text_per_class_are_refused(tiny_clip: Clip, kind: type[Method]):
    with pytest.raises(InputError, match="take a host that does, such as ln_tuning"):
        TwoStage(kind(tiny_clip))
