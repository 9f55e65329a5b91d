"""CLIP-Adapter against its equations, and at its limits."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.clip_adapter import ClipAdapter, ClipAdapterConfig
from foveate.methods.frozen import extract, training_losses
from foveate.methods.registry import build, parts
from foveate.seeds import stream
from foveate.train.loop import fit
from foveate.train.recipe import Recipe
from foveate.types import Batch

NAMES = ["cat", "dog", "phone"]


def answers(method: Method, batch: Batch, branch: str = "base") -> Tensor:
    with torch.no_grad():
        return method.logits(method.features(batch.images), branch)


def pictures(number: int, seed: int = 0, classes: int = 3) -> Batch:
    images = torch.randn(number, 3, 32, 32, generator=stream(seed, "test"))
    return Batch(images, torch.arange(number) % classes)


def made(clip: Clip, **settings: object) -> ClipAdapter:
    method = ClipAdapter(clip, ClipAdapterConfig(**settings))
    method.set_classes(NAMES)
    return method


def zero_shot(clip: Clip) -> torch.Tensor:
    method = build("zeroshot", clip)
    method.set_classes(NAMES)
    return answers(method, pictures(4))


def test_logits_are_those_of_the_equations(tiny_clip: Clip):
    method, batch = made(tiny_clip, ratio=0.3), pictures(4)
    down, up = (p.double() for p in method.learned().values())
    with torch.no_grad():
        raw = tiny_clip.vision(batch.images).double()
        text = method.text_features().double()
    expected = torch.empty(4, 3, dtype=torch.float64)
    for i, feature in enumerate(raw):
        hidden = (down @ feature).clamp(min=0)
        mixed = 0.3 * (up @ hidden).clamp(min=0) + 0.7 * feature
        for c in range(3):
            cosine = mixed @ text[c] / (mixed.norm() * text[c].norm())
            expected[i, c] = tiny_clip.scale.double() * cosine
    torch.testing.assert_close(answers(method, batch).double(), expected, rtol=1e-4, atol=1e-4)


def test_the_loss_out_of_a_bank_is_the_cross_entropy_of_the_answers(tiny_clip: Clip):
    method, batch = made(tiny_clip, ratio=0.5), pictures(6)
    held = extract(method, batch)
    torch.testing.assert_close(held["image"][0], tiny_clip.vision(batch.images))
    bankless = F.cross_entropy(answers(method, batch), batch.labels)
    banked = training_losses(method, type(batch)(torch.empty(6, 3, 0, 0), batch.labels, frozen=held))
    torch.testing.assert_close(banked["ce"].detach(), bankless)


def test_without_the_bottleneck_it_is_zero_shot_clip(tiny_clip: Clip):
    assert torch.equal(answers(made(tiny_clip, ratio=0.0), pictures(4)), zero_shot(tiny_clip))


def test_training_lowers_the_loss_and_new_names_follow(tiny_clip: Clip):
    method, batch = made(tiny_clip, ratio=0.9), pictures(6)
    before = training_losses(method, batch)["ce"].item()
    recipe = Recipe(epochs=30, warmup_epochs=0, optimiser="adamw", lr=0.02)
    fit(method, lambda _: [batch], recipe)
    assert training_losses(method, batch)["ce"].item() < 0.8 * before
    plain = zero_shot(tiny_clip)
    method.set_classes([*NAMES, "new"], trained=NAMES)
    assert answers(method, batch, "mixed").shape == (6, 4)
    assert not torch.allclose(answers(method, pictures(4))[:, :3], plain, atol=1e-2)  # it reaches all names


def test_size_at_vit_b16(small_tokenizer):
    sizes = TowerConfig(128, 1, 2), TowerConfig(64, 1, 1)
    config = ClipConfig(*sizes, image_size=32, patch_size=16, embed=512, vocab=small_tokenizer.vocab)
    learned = ClipAdapter(Clip(config, small_tokenizer)).learned()
    assert sum(p.numel() for p in learned.values()) == 131_072  # the specification's 2 · 512 · 128


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"ratio": 1.1}, "from 0 to 1"), ({"reduction": 0}, "1 or more"), ({"reduction": 99}, "32 at most")],
)
def test_settings_out_of_range_are_refused(tiny_clip: Clip, settings: dict[str, object], said: str):
    with pytest.raises(InputError, match=f"^clip_adapter: .*{said}"):
        made(tiny_clip, **settings)


@pytest.mark.parametrize("plugin", ["fvgpt", "dapt"])
def test_no_plug_in_stands_on_it(plugin: str):
    with pytest.raises(InputError, match=f"^{plugin}: clip_adapter "):
        parts(f"{plugin}+clip-adapter")
