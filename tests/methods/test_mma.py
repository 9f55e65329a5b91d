"""MMA: its sizes, adapters beside blocks of both towers, and gradients that the small scale leaves alone."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.model import Block, Clip
from foveate.clip.rows import encode_names
from foveate.errors import InputError
from foveate.methods.frozen import training_losses
from foveate.methods.mma import Mma, MmaConfig, adapter_blocks
from foveate.seeds import stream
from foveate.train.recipe import recipe_for
from foveate.types import Batch

NAMES = ["cat", "dog", "old photo of a phone"]


def batch() -> Batch:
    images = torch.randn(3, 3, 32, 32, generator=stream(0, "pictures"))
    return Batch(images.double(), torch.tensor([2, 0, 1]))


@pytest.fixture
def deep_clip(small_tokenizer, small_config) -> Clip:
    """Four blocks in the image tower, three in the text tower."""
    towers = {"vision": TowerConfig(32, 4, 2), "text": TowerConfig(16, 3, 2)}
    clip = Clip(small_config(small_tokenizer.vocab, **towers), small_tokenizer)
    return clip.initialise(torch.Generator().manual_seed(0)).eval()


def built(clip: Clip, scale: float = 0.5) -> Mma:
    method = Mma(clip, MmaConfig(width=6, scale=scale)).double()
    g = stream(0, "far from the start")
    for tensor in method.learned().values():
        tensor.data += 0.3 * torch.randn(tensor.shape, generator=g, dtype=torch.float64)
    method.set_classes(NAMES)
    return method


def slow_block(block: Block, x: Tensor, mask: Tensor | None, p: dict[str, Tensor], scale: float) -> Tensor:
    """One block over `[tokens, rows, width]`, with torch's own attention and an adapter beside it all."""
    normed = block.ln_1(x)
    attended, _ = F.multi_head_attention_forward(
        normed, normed, normed, x.shape[-1], block.heads, block.qkv.weight, block.qkv.bias, None, None, False,
        0.0, block.proj.weight, block.proj.bias, need_weights=False, attn_mask=mask,
    )  # fmt: skip
    middle = x + attended
    hidden = block.fc(block.ln_2(middle))
    out = middle + block.out(hidden * torch.sigmoid(1.702 * hidden))
    if not p:
        return out
    low = torch.relu(normed @ p["down.weight"].T + p["down.bias"])
    low = torch.relu(low @ p["shared.weight"].T + p["shared.bias"])
    return out + scale * (low @ p["up.weight"].T + p["up.bias"])


def adapter_of(method: Mma, tower: str, layer: int) -> dict[str, Tensor]:
    k = layer + 1 - method.first_block
    if not 0 <= k < len(method.shared):
        return {}
    learned = method.learned()
    return {
        **{
            f"{part}.{kind}": learned[f"{tower}_adapters.{k}.{part}.{kind}"]
            for part in ("down", "up")
            for kind in ("weight", "bias")
        },
        **{f"shared.{kind}": learned[f"shared.{k}.{kind}"] for kind in ("weight", "bias")},
    }


def slow_logits(method: Mma, images: Tensor) -> Tensor:
    clip, scale = method.clip, method.config.scale
    ids = clip.tokenizer([f"a photo of a {name}." for name in NAMES])
    x = (clip.text.token(ids) + clip.text.pos).transpose(0, 1)
    mask = torch.full((77, 77), -torch.inf, dtype=x.dtype).triu(1)
    for i, block in enumerate(clip.text.blocks):
        x = slow_block(block, x, mask, adapter_of(method, "text", i), scale)
    text = clip.text.ln_final(x)[ids.argmax(-1), torch.arange(len(NAMES))] @ clip.text.proj
    x = clip.vision.ln_pre(clip.vision.tokens(images)).transpose(0, 1)
    for i, block in enumerate(clip.vision.blocks):
        x = slow_block(block, x, None, adapter_of(method, "vision", i), scale)
    image = clip.vision.ln_post(x[0]) @ clip.vision.proj
    image, text = (one / one.norm(dim=-1, keepdim=True) for one in (image, text))
    return clip.logit_scale.exp() * image @ text.T


def test_answers_are_those_of_the_plain_path_and_gradients_are_unscaled(deep_clip: Clip):
    """The authors' code divides the adapters' gradients by the scale, of each block once, and no other."""
    method, pictures = built(deep_clip), batch()
    expected = slow_logits(method, pictures.images)
    torch.testing.assert_close(
        method.logits(method.features(pictures.images)), expected, rtol=1e-10, atol=1e-10
    )
    with torch.no_grad():
        torch.testing.assert_close(
            method.logits(method.features(pictures.images)), expected, rtol=1e-10, atol=1e-10
        )
    loss = F.cross_entropy(expected, pictures.labels)
    learned = method.learned()
    theirs = torch.autograd.grad(loss, list(learned.values()))
    mine = training_losses(method, pictures)["ce"]
    torch.testing.assert_close(mine, loss, rtol=1e-10, atol=1e-10)
    mine.backward()
    for (name, tensor), gradient in zip(learned.items(), theirs, strict=True):
        assert gradient.abs().max() > 1e-8, name
        torch.testing.assert_close(tensor.grad, gradient / 0.5, rtol=1e-8, atol=1e-12)
    assert all(p.grad is None for p in deep_clip.parameters())


def test_the_gradient_of_pictures_is_the_true_one(deep_clip: Clip):
    method, pictures = built(deep_clip), batch()
    images = pictures.images.requires_grad_()
    ours, theirs = (
        torch.autograd.grad(F.cross_entropy(logits, pictures.labels), images)[0]
        for logits in (method.logits(method.features(images)), slow_logits(method, images))
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def test_both_towers_meet_in_the_shared_layers(deep_clip: Clip):
    method, pictures = built(deep_clip), batch()
    with torch.no_grad():
        text, image = method.encode_text(), method.encode_images(pictures.images)
        method.shared[1].weight.add_(1.0)
        assert not torch.allclose(method.encode_text(), text)
        assert not torch.allclose(method.encode_images(pictures.images), image)


def test_with_nothing_behind_the_adapters_it_is_zero_shot_clip(deep_clip: Clip):
    method, pictures = built(deep_clip), batch()
    with torch.no_grad():
        for adapters in (method.text_adapters, method.vision_adapters):
            for adapter in adapters:
                for tensor in adapter["up"].parameters():
                    tensor.zero_()
        assert torch.equal(method.encode_text(), encode_names(deep_clip, NAMES))
        assert torch.equal(method.encode_images(pictures.images)[0], deep_clip.vision(pictures.images))


def test_clip_itself_stays_as_it_was(deep_clip: Clip):
    before = [block for tower in (deep_clip.text, deep_clip.vision) for block in tower.blocks]
    method, pictures = built(deep_clip), batch()
    plain = deep_clip.vision(pictures.images)
    method.encode_images(pictures.images)
    assert torch.equal(deep_clip.vision(pictures.images), plain)
    after = [block for tower in (deep_clip.text, deep_clip.vision) for block in tower.blocks]
    assert all(one is other and type(one) is Block for one, other in zip(before, after, strict=True))
    assert not any("blocks" in name for name in method.learned())


def test_hooks_on_clips_blocks_see_the_adapted_pass(deep_clip: Clip):
    """Pictures of the gaze are made so."""
    method, seen = built(deep_clip), []
    last = deep_clip.vision.blocks[-2]  # the last one with an adapter; towers are of unequal depth
    hook = last.register_forward_hook(lambda _block, _given, out: seen.append(out))
    method.encode_images(batch().images)
    hook.remove()
    method.encode_images(batch().images)
    deep_clip.vision(batch().images)
    assert len(seen) == 1


def test_parameter_counts():
    with torch.device("meta"):
        clip = Clip(ClipConfig())
    method = Mma(clip)
    assert (method.first_block, len(method.shared)) == (5, 8)
    assert sum(p.numel() for p in method.learned().values()) == 674_560


def test_the_start_is_kaimings_by_fan_out(tiny_clip: Clip):
    method = Mma(tiny_clip, MmaConfig(width=64))
    adapter = method.vision_adapters[0]
    assert adapter["down"].weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert adapter["up"].weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert all(p.abs().max() == 0 for name, p in method.learned().items() if name.endswith("bias"))
    again, other = (Mma(tiny_clip, MmaConfig(width=64), stream(s, "init")).shared[0].weight for s in (0, 1))
    assert not torch.equal(again, other)


@pytest.mark.parametrize(
    ("blocks", "found"), [(12, (5, 12)), (24, (5, 12)), (6, (3, 6)), (3, (2, 3)), (2, (1, 2)), (1, (1, 1))]
)
def test_the_published_blocks_are_a_share_of_twelve(blocks: int, found: tuple[int, int]):
    assert adapter_blocks(None, blocks) == found


def test_impossible_settings_are_refused(deep_clip: Clip):
    for block in (0, 4):
        with pytest.raises(InputError, match=f"mma: first_block is {block}, and adapters end with block 3"):
            Mma(deep_clip, MmaConfig(first_block=block))
    with pytest.raises(InputError, match="mma: width is 0"):
        MmaConfig(width=0)
    with pytest.raises(InputError, match="mma: scale is 0"):
        MmaConfig(scale=0.0)


def test_the_recipe_is_the_authors():
    recipe = recipe_for("mma")
    assert (recipe.epochs, recipe.batch_size, recipe.optimiser, recipe.lr) == (5, 16, "sgd", 0.0015)
    assert recipe.warmup_epochs == 0
