"""Attention rollout beside a plain, slow one, and its tokens that come from no picture."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.model import Clip, Vision
from foveate.explain import attention_rollout, gaze
from foveate.explain.maps import attention_of, rolled_out
from foveate.methods.fvgpt import FvgPt
from foveate.methods.guidance import FvgPtConfig
from foveate.methods.registry import backbones, build
from foveate.methods.vpt import Vpt, VptConfig
from foveate.seeds import stream

NAMES = ["cat", "dog", "phone"]
IMAGES = torch.randn(2, 3, 32, 32, generator=stream(0, "pictures"))


def slow_attention(vision: Vision, block: int, x: Tensor, heads: int) -> list[list[float]]:
    """Mean over heads of softmax(q k / √d), of one picture's tokens, entry by entry."""
    part = vision.blocks[block]
    q, k, _ = part.qkv(part.ln_1(x)).chunk(3, dim=-1)
    tokens, each = len(x), x.shape[1] // heads
    mean = [[0.0] * tokens for _ in range(tokens)]
    for head in range(heads):
        own = slice(head * each, (head + 1) * each)
        for i in range(tokens):
            scores = [float(q[i, own] @ k[j, own]) / math.sqrt(each) for j in range(tokens)]
            top = max(scores)
            total = sum(math.exp(score - top) for score in scores)
            for j in range(tokens):
                mean[i][j] += math.exp(scores[j] - top) / total / heads
    return mean


def slow_rollout(vision: Vision, x: Tensor, blocks: int, heads: int, residual: float = 0.5) -> Tensor:
    """R of one picture: each block's attention, half of it passing by, times what was there before."""
    rolled = [[float(i == j) for j in range(len(x))] for i in range(len(x))]
    tokens = range(len(x))
    for block in range(blocks):
        a = slow_attention(vision, block, x, heads)
        mixed = [[(1 - residual) * a[i][j] + residual * (i == j) for j in tokens] for i in tokens]
        rolled = [[sum(mixed[i][k] * rolled[k][j] for k in tokens) for j in tokens] for i in tokens]
        x = vision.blocks[block](x[None])[0]
    return torch.tensor(rolled)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_it_equals_a_slow_one(tiny_clip: Clip, blocks: int):
    method, vision = build("zeroshot", tiny_clip), tiny_clip.vision
    method.set_classes(NAMES)
    heads = tiny_clip.config.vision.heads
    with torch.no_grad():
        tokens = vision.ln_pre(vision.tokens(IMAGES))
        expected = torch.stack([slow_rollout(vision, x, blocks, heads) for x in tokens])
    (rows,), _ = rolled_out(method, IMAGES, layer=blocks - 1)
    torch.testing.assert_close(rows[:, :, :-1], expected, rtol=1e-4, atol=1e-6)
    assert rows[:, :, -1].max() == 0  # it has no learned tokens
    seen = expected[:, 0, 1:]
    seen = (seen / seen.sum(1, keepdim=True)).view(2, 4, 4)
    torch.testing.assert_close(
        attention_rollout(method, IMAGES, layer=blocks - 1), seen, rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        gaze(method, IMAGES, torch.zeros(2).long(), how="rollout", layer=blocks - 1), seen
    )


def test_learned_tokens_are_one_source(tiny_clip: Clip):
    """VPT in its first block alone: the last columns of the slow one together are the last of ours."""
    method, vision = Vpt(tiny_clip, VptConfig(tokens=3, depth=1)), tiny_clip.vision
    method.set_classes(NAMES)
    with torch.no_grad():
        tokens = vision.ln_pre(torch.cat([vision.tokens(IMAGES), method.vision_ctx.expand(2, -1, -1)], 1))
        expected = torch.stack([slow_rollout(vision, x, 3, 2) for x in tokens])
    (rows,), _ = rolled_out(method, IMAGES)
    torch.testing.assert_close(rows[:, :, :17], expected[:, :, :17], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(rows[:, :, 17], expected[:, :, 17:].sum(-1), rtol=1e-4, atol=1e-6)


def test_tokens_put_in_the_place_of_others_begin_anew(tiny_clip: Clip):
    """VPT in all three blocks, the slow one in steps: its last three rows are reset before each block."""
    method, vision = Vpt(tiny_clip, VptConfig(tokens=3, depth=3)), tiny_clip.vision
    method.set_classes(NAMES)
    x = vision.tokens(IMAGES)[:1]
    rolled = torch.zeros(20, 18)
    rolled[:17, :17] = torch.eye(17)
    with torch.no_grad():
        x = vision.ln_pre(torch.cat([x, method.vision_ctx[None]], 1))
        for block in range(3):
            if block:
                x = torch.cat([x[:, :17], method.deep_vision[block - 1][None]], 1)
            rolled[17:] = F.one_hot(torch.tensor(17), 18).float()
            a = torch.tensor(slow_attention(vision, block, x[0], 2))
            rolled = 0.5 * rolled + 0.5 * a @ rolled
            x = vision.blocks[block](x)
    (rows,), _ = rolled_out(method, IMAGES[:1])
    torch.testing.assert_close(rows[0], rolled, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*backbones(), "fvgpt+coop", "fvgpt+maple"])
@pytest.mark.parametrize("branch", ["base", "new"])
def test_rows_sum_to_one(tiny_clip: Clip, name: str, branch: str):
    method = build(name, tiny_clip)
    method.set_classes(NAMES)
    for rows in rolled_out(method, IMAGES, branch)[0]:
        assert rows.shape[2] == 16 + 2
        torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:2]))
        assert (rows >= 0).all()
    heat = attention_rollout(method, IMAGES, branch)
    torch.testing.assert_close(heat.sum((1, 2)), torch.ones(2))


def test_tokens_that_come_in_later_take_a_share(tiny_clip: Clip):
    """MMRL's five, inserted before the second of three blocks, between class token and patches."""
    method = build("mmrl", tiny_clip, {"mmrl": {"width": 32, "first_block": 2, "last_block": 2}})
    method.set_classes(NAMES)
    first, second = (rolled_out(method, IMAGES, layer=layer)[0][0] for layer in (0, 1))
    assert first.shape == (2, 17, 18)
    assert second.shape == (2, 22, 18)
    assert (second[:, 0, -1] > 0.01).all()
    assert (second[:, 1:6, -1] > 0.5).all()  # what passes by their attention is their own
    # A patch keeps at least half of what it had.
    had, has = first.diagonal(dim1=1, dim2=2)[:, 1:], second[:, 6:, 1:17].diagonal(dim1=1, dim2=2)
    assert (has >= 0.5 * had - 1e-6).all()


def test_two_passes_are_averaged(tiny_clip: Clip):
    inner = build("promptsrc", tiny_clip)
    inner.set_classes(NAMES)
    method = FvgPt(inner, FvgPtConfig())
    own, clip = (attention_rollout(one, IMAGES) for one in (inner, build_zeroshot(tiny_clip)))
    torch.testing.assert_close(attention_rollout(method, IMAGES, "base"), own)
    both = [rows[:, 0, 1:17] for rows in rolled_out(method, IMAGES, "new")[0]]
    assert len(both) == 2
    mean = (both[0] + both[1]) / 2
    expected = (mean / mean.sum(1, keepdim=True)).view(2, 4, 4)
    torch.testing.assert_close(attention_rollout(method, IMAGES, "new"), expected)
    assert not torch.allclose(own, clip, atol=1e-5)


def build_zeroshot(clip: Clip):
    method = build("zeroshot", clip)
    method.set_classes(NAMES)
    return method


def test_all_residual_sees_nothing_and_none_sees_attention_alone(tiny_clip: Clip):
    method = build_zeroshot(tiny_clip)
    (still,), _ = rolled_out(method, IMAGES, residual=1.0)
    assert torch.equal(still[0, :, :17], torch.eye(17))
    assert attention_rollout(method, IMAGES, residual=1.0).sum() == 0
    (moved,), _ = rolled_out(method, IMAGES, layer=0, residual=0.0)
    block, x = tiny_clip.vision.blocks[0], tiny_clip.vision.ln_pre(tiny_clip.vision.tokens(IMAGES))
    with torch.no_grad():
        torch.testing.assert_close(moved[:, :, :17], attention_of(block.qkv(block.ln_1(x)), 2))


def test_it_leaves_no_hooks(tiny_clip: Clip):
    method = build_zeroshot(tiny_clip)
    attention_rollout(method, IMAGES)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in method.modules())
