"""CLIP-LoRA: its sizes, updates beside the weights and merged into them, and what dropout drops."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.model import Block, Clip
from foveate.clip.rows import encode_names
from foveate.errors import InputError
from foveate.methods.clip_lora import ClipLora, ClipLoraConfig, Drops
from foveate.methods.frozen import training_losses
from foveate.methods.fvgpt import FvgPt
from foveate.methods.zeroshot import ZeroShot
from foveate.seeds import stream
from foveate.train.journal import Step
from foveate.train.loop import fit
from foveate.train.recipe import Recipe, recipe_for
from foveate.train.together import backward
from foveate.types import Batch

NAMES = ["cat", "dog", "old photo of a phone"]


def batch(step: int = 0) -> Batch:
    images = torch.randn(3, 3, 32, 32, generator=stream(0, "pictures"))
    return Batch(images, torch.tensor([2, 0, 1]), step=step)


@pytest.fixture
def deep_clip(small_tokenizer, small_config) -> Clip:
    """Three blocks in the image tower, four in the text tower."""
    towers = {"vision": TowerConfig(32, 3, 2), "text": TowerConfig(16, 4, 2)}
    clip = Clip(small_config(small_tokenizer.vocab, **towers), small_tokenizer)
    return clip.initialise(torch.Generator().manual_seed(0)).eval()


def built(clip: Clip, **settings: float) -> ClipLora:
    method = ClipLora(clip, ClipLoraConfig(**settings))
    g = stream(0, "far from the start")
    for tensor in method.learned().values():
        tensor.data += 0.3 * torch.randn(tensor.shape, generator=g)
    method.set_classes(NAMES)
    return method


def slow_block(block: Block, x: Tensor, mask: Tensor | None, weight: Tensor) -> Tensor:
    """One block over `[tokens, rows, width]` with torch's own attention, and this weight for q, k and v."""
    normed = block.ln_1(x)
    attended, _ = F.multi_head_attention_forward(
        normed, normed, normed, x.shape[-1], block.heads, weight, block.qkv.bias, None, None, False,
        0.0, block.proj.weight, block.proj.bias, need_weights=False, attn_mask=mask,
    )  # fmt: skip
    x = x + attended
    hidden = block.fc(block.ln_2(x))
    return x + block.out(hidden * torch.sigmoid(1.702 * hidden))


def updated(method: ClipLora, tower: str, layer: int) -> Tensor:
    """W + alpha / √r · B A of queries, keys and values, written out."""
    p, config = method.learned(), method.config
    weight = getattr(method.clip, tower).blocks[layer].qkv.weight
    parts = [
        own
        + config.alpha
        / config.rank**0.5
        * p[f"{tower}_lora.up"][layer, i]
        @ p[f"{tower}_lora.down"][layer, i]
        for i, own in enumerate(weight.chunk(3))
    ]
    return torch.cat(parts)


def slow_logits(method: ClipLora, images: Tensor) -> Tensor:
    clip = method.clip
    ids = clip.tokenizer([f"a photo of a {name}." for name in NAMES])
    x = (clip.text.token(ids) + clip.text.pos).transpose(0, 1)
    mask = torch.full((77, 77), -torch.inf, dtype=x.dtype).triu(1)
    for i, block in enumerate(clip.text.blocks):
        x = slow_block(block, x, mask, updated(method, "text", i))
    text = clip.text.ln_final(x)[ids.argmax(-1), torch.arange(len(NAMES))] @ clip.text.proj
    x = clip.vision.ln_pre(clip.vision.tokens(images)).transpose(0, 1)
    for i, block in enumerate(clip.vision.blocks):
        x = slow_block(block, x, None, updated(method, "vision", i))
    image = clip.vision.ln_post(x[0]) @ clip.vision.proj
    image, text = (one / one.norm(dim=-1, keepdim=True) for one in (image, text))
    return clip.logit_scale.exp() * image @ text.T


# --- the update ---


@pytest.mark.parametrize("settings", [{}, {"rank": 5, "alpha": 3.0}, {"rank": 1}])
def test_answers_and_gradients_are_those_of_written_out_weights(settings: dict[str, float], deep_clip: Clip):
    method, labels = built(deep_clip, **settings).double().eval(), batch().labels
    images = batch().images.double()
    expected = slow_logits(method, images)
    learning = method.logits(method.features(images))
    with torch.no_grad():
        merged = method.logits(method.features(images))
    torch.testing.assert_close(learning, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(merged, expected, rtol=1e-10, atol=1e-10)
    learned = list(method.learned().values())
    mine = torch.autograd.grad(training_losses(method, Batch(images, labels))["ce"], learned)
    theirs = torch.autograd.grad(F.cross_entropy(expected, labels), learned)
    for one, other in zip(mine, theirs, strict=True):
        assert other.abs().max() > 1e-6
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_it_starts_as_zero_shot_clip(deep_clip: Clip):
    method = ClipLora(deep_clip)
    method.set_classes(NAMES)
    with torch.no_grad():
        assert torch.equal(method.encode_text(), encode_names(deep_clip, NAMES))
        assert torch.equal(method.encode_images(batch().images)[0], deep_clip.vision(batch().images))
    losses = training_losses(method, batch())
    backward(method, losses)
    p = method.learned()
    assert all(p[name].grad.abs().max() > 0 for name in ("text_lora.up", "vision_lora.up"))
    assert all(p[name].grad.abs().max() == 0 for name in ("text_lora.down", "vision_lora.down"))  # B is zero
    assert all(tensor.grad is None for tensor in deep_clip.parameters())


def test_answers_cost_what_zero_shot_answers_cost(deep_clip: Clip, products_counted: None):
    method, plain = built(deep_clip).eval(), ZeroShot(deep_clip)
    plain.set_classes(NAMES)
    counts = []
    with torch.no_grad():
        for one in (plain, method):
            one.encode_images(batch().images)  # merged weights are made once
            one.encode_text()
            with FlopCounterMode(display=False) as counter:
                one.encode_images(batch().images)
                if one is method:
                    one.encode_text()
                else:
                    encode_names(deep_clip, NAMES)
            counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_merged_weights_follow_what_they_are_made_of(deep_clip: Clip):
    method = built(deep_clip).eval()
    images = batch().images
    with torch.no_grad():
        before = method.encode_images(images)
        assert torch.equal(method.encode_images(images), before)
        method.vision_lora.up.mul_(2)
        after = method.encode_images(images)
        assert not torch.allclose(after, before)
        deep_clip.vision.blocks[0].qkv.weight.zero_()
        assert not torch.allclose(method.encode_images(images), after)


def test_clip_itself_stays_as_it_was(deep_clip: Clip):
    weight = deep_clip.vision.blocks[0].qkv.weight.clone()
    plain = deep_clip.vision(batch().images)
    method = built(deep_clip)
    guided = FvgPt(method).eval()
    with torch.no_grad():
        features = guided.features(batch().images)
        torch.testing.assert_close(features.prior.image[0], plain)
        assert not torch.allclose(features.image[0], plain, atol=1e-3)
    assert torch.equal(deep_clip.vision.blocks[0].qkv.weight, weight)


def test_hooks_on_clips_weights_see_the_updated_pass(deep_clip: Clip):
    """Attention rollout is made so: of queries and keys as they are used, learning or merged."""
    method, seen = built(deep_clip).eval(), []
    linear = deep_clip.vision.blocks[1].qkv
    hook = linear.register_forward_hook(lambda _linear, given, out: seen.append((given[0], out)))
    method.encode_images(batch().images)
    with torch.no_grad():
        method.encode_images(batch().images)
    hook.remove()
    assert len(seen) == 2
    for given, out in seen:
        expected = F.linear(given, updated(method, "vision", 1), linear.bias)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


# --- dropout ---


def test_a_step_drops_the_same_each_time_and_steps_differ(deep_clip: Clip):
    method = built(deep_clip).train()
    loss, again, other = (training_losses(method, batch(step))["ce"] for step in (3, 3, 4))
    assert torch.equal(loss, again)
    assert not torch.equal(loss, other)
    another_seed = ClipLora(deep_clip, generator=stream(9, "init"))
    another_seed.set_classes(NAMES)
    another_seed.load_learned(method.learned())
    assert not torch.equal(training_losses(another_seed, batch(3))["ce"], loss)
    without = training_losses(method.eval(), batch(3))["ce"]
    torch.testing.assert_close(without, training_losses(built(deep_clip, dropout=0.0).train(), batch())["ce"])
    assert not torch.equal(without, loss)


def test_a_quarter_is_not_read_by_each_part_on_its_own(deep_clip: Clip):
    method = ClipLora(deep_clip, ClipLoraConfig(rank=32))
    with torch.no_grad():  # an update that passes on what it reads: B A = 1
        method.vision_lora.down.copy_(torch.eye(32))
        method.vision_lora.up.copy_(torch.eye(32))
    tower = method.vision_lora.beside(deep_clip.vision, Drops(0.25, 5, ("a step",), 1))
    linear = tower.blocks[0].qkv
    x = torch.randn(400, 32, generator=stream(1)) + 5
    read = (linear(x) - F.linear(x, linear.weight, linear.bias)) * 32**0.5
    parts = read.chunk(3, dim=-1)
    for part in parts:
        dropped = part.abs() < 1e-3
        assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.02)
        torch.testing.assert_close(part[~dropped], (x / 0.75)[~dropped], rtol=1e-3, atol=1e-3)
    assert ((parts[0].abs() < 1e-3) != (parts[1].abs() < 1e-3)).float().mean().item() == pytest.approx(
        2 * 0.25 * 0.75, abs=0.03
    )
    blocks = [block.qkv(x) - F.linear(x, block.qkv.weight, block.qkv.bias) for block in tower.blocks[1:]]
    assert not torch.equal(blocks[0], blocks[1])


def test_gradients_are_those_of_what_was_dropped(deep_clip: Clip):
    """A step must drop on its way back what it dropped on its way there, also with many classes."""
    method = built(deep_clip).double().train()
    method.set_classes(
        [f"thing {i}" for i in range(500)]
    )  # more tokens than are encoded together at other times
    whole = Batch(batch().images.double(), torch.tensor([2, 0, 499]), step=1)
    backward(method, training_losses(method, whole))
    up, nudge = method.text_lora.up, 1e-6
    gradient, place = up.grad, (1, 0, 2, 1)
    with torch.no_grad():
        up[place] += nudge
        more = training_losses(method, whole)["ce"]
        up[place] -= 2 * nudge
        less = training_losses(method, whole)["ce"]
    assert gradient[place].item() == pytest.approx((more - less).item() / (2 * nudge), rel=1e-4)


def test_texts_in_parts_are_refused_where_numbers_are_dropped(deep_clip: Clip):
    """A device whose memory is full would read them again, and drop others."""
    method = built(deep_clip)
    tower = method.text_lora.beside(deep_clip.text, Drops(0.25, 5, ("a step",), 2))
    x = torch.randn(4, 16, generator=stream(1))
    tower.blocks[0].qkv(x)
    tower.blocks[0].qkv(x)
    with pytest.raises(InputError, match="give dropout=0"):
        tower.blocks[0].qkv(x)


def test_a_run_that_was_stopped_drops_what_it_would_have(deep_clip: Clip, tmp_path: Path):
    recipe, state = Recipe(epochs=3, warmup_epochs=0), tmp_path / "state.safetensors"
    whole, stopped, fresh = (ClipLora(deep_clip) for _ in range(3))

    class Killed(Exception):
        pass

    def kill(step: Step) -> None:
        if step.step == 2:
            raise Killed

    for method in (whole, stopped, fresh):
        method.set_classes(NAMES)
    fit(whole, lambda _: [batch()], recipe)  # the same pictures each time: only what is dropped differs
    with pytest.raises(Killed):
        fit(stopped, lambda _: [batch()], recipe, state=state, on_step=kill)
    fit(fresh, lambda _: [batch()], recipe, state=state)
    for name, tensor in whole.learned().items():
        assert torch.equal(fresh.learned()[name], tensor), name


# --- sizes and settings ---


def test_parameter_counts():
    with torch.device("meta"):
        clip = Clip(ClipConfig())
    learned = ClipLora(clip).learned()
    assert {name: list(p.shape) for name, p in learned.items()} == {
        "text_lora.down": [12, 3, 2, 512],
        "text_lora.up": [12, 3, 512, 2],
        "vision_lora.down": [12, 3, 2, 768],
        "vision_lora.up": [12, 3, 768, 2],
    }
    assert sum(p.numel() for p in learned.values()) == 184_320


def test_the_start_is_that_of_a_linear_layer(tiny_clip: Clip):
    down = ClipLora(tiny_clip, ClipLoraConfig(rank=8)).vision_lora.down
    assert 0.98 * 128**-0.5 < down.abs().max() <= 128**-0.5
    assert down.std().item() == pytest.approx(128**-0.5 / 3**0.5, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 0}, "clip_lora: rank is 0"),
        ({"alpha": 0.0}, "clip_lora: alpha is 0"),
        ({"dropout": 1.0}, "clip_lora: dropout is 1"),
        ({"dropout": -0.1}, "clip_lora: dropout is -0.1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], said: str):
    with pytest.raises(InputError, match=said):
        ClipLoraConfig(**settings)


def test_the_recipe_takes_the_authors_steps():
    """500 steps a shot in batches of 32: with k shots of n classes an epoch has k n / 32 steps."""
    recipe = recipe_for("clip_lora")
    assert (recipe.optimiser, recipe.lr, recipe.weight_decay) == ("adamw", 0.0002, 0.01)
    shots, classes = 16, 100
    assert recipe.epochs * (shots * classes / recipe.batch_size) == 500 * shots
