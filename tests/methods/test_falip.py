"""FALIP: its mask against the equations in plain loops, its tower against PyTorch's attention with it."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip import model as clip_model
from foveate.clip.config import TowerConfig
from foveate.clip.model import Clip, Vision
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.capabilities import first_patch
from foveate.methods.falip import Falip, FalipConfig, biased_attention, patch_bias
from foveate.methods.registry import backbones, build, parts, sees_regions, stages
from foveate.seeds import stream

PATCH, GRID = 8, 4
SIZE = PATCH * GRID


def images(number: int = 3) -> Tensor:
    return torch.randn(number, 3, SIZE, SIZE, generator=stream(0, "test"), dtype=torch.float32)


def region(*boxes: tuple[int, int, int, int]) -> Tensor:
    """Return a mask for each box, in patches: first and last row, first and last column."""
    masks = torch.zeros(len(boxes), 1, SIZE, SIZE)
    for mask, (top, bottom, left, right) in zip(masks, boxes, strict=True):
        mask[0, PATCH * top : PATCH * (bottom + 1), PATCH * left : PATCH * (right + 1)] = 1
    return masks


def expected_bias(top: int, bottom: int, left: int, right: int, alpha: float, sigma: float) -> Tensor:
    """The two equations, one patch after the other."""
    rows, columns = bottom - top + 1, right - left + 1
    fovea = [
        [
            math.exp(-((i - (rows - 1) / 2) ** 2 + (j - (columns - 1) / 2) ** 2) / (2 * sigma**2))
            for j in range(columns)
        ]
        for i in range(rows)
    ]
    low, high = min(map(min, fovea)), max(map(max, fovea))
    found = torch.zeros(GRID, GRID, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            found[top + i, left + j] = alpha * (fovea[i][j] - low + 1e-6) / (high - low + 1e-6)
    return found


BOXES = [(0, 3, 0, 3), (1, 2, 0, 3), (0, 2, 1, 3), (3, 3, 0, 0)]


@pytest.mark.parametrize("sigma", [0.5, 100.0])
def test_the_mask_is_that_of_the_equations(sigma: float):
    found = patch_bias(region(*BOXES), PATCH, FalipConfig(strength=0.7, sigma=sigma))
    wanted = torch.stack([expected_bias(*box, 0.7, sigma) for box in BOXES])
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-7)


def test_the_middle_of_a_region_gets_most_and_a_single_patch_all():
    found = patch_bias(region((0, 2, 0, 2), (2, 2, 1, 1)), PATCH, FalipConfig(strength=0.2))
    assert found[0, 1, 1] == found[0].max() == pytest.approx(0.2)
    assert found[0, 0, 0] == found[0, 2, 2] < found[0, 0, 1] < found[0, 1, 1]
    assert found[1, 2, 1] == pytest.approx(0.2)
    assert found[1].count_nonzero() == 1


def test_a_region_may_be_the_masked_patches_alone():
    masks = region((0, 0, 0, 3)) + region((1, 3, 0, 0))  # an L
    box, mask = (patch_bias(masks, PATCH, FalipConfig(region=kind)) for kind in ("box", "mask"))
    inside = F.max_pool2d(masks, PATCH)[:, 0] > 0
    assert torch.equal(mask, box * inside)
    assert box[0, 3, 3] > 0
    assert mask[0, 3, 3] == 0


def test_one_masked_pixel_makes_a_patch_of_the_region():
    masks = torch.zeros(1, 1, SIZE, SIZE)
    masks[0, 0, 2 * PATCH - 1, 3 * PATCH] = 1
    assert patch_bias(masks, PATCH, FalipConfig()).nonzero().tolist() == [[0, 1, 3]]


def plain_tower(vision: Vision, pictures: Tensor, bias: Tensor, blocks: int) -> Tensor:
    """CLIP's image tower with PyTorch's own attention layer, and an additive mask in the last blocks."""
    x = vision.ln_pre(vision.tokens(pictures))
    rows, tokens, width = x.shape
    mask = torch.zeros(rows, tokens, tokens, dtype=x.dtype)
    mask[:, 0, 1:] = bias.flatten(1)
    for place, block in enumerate(vision.blocks):
        attention = nn.MultiheadAttention(width, block.heads, batch_first=True, dtype=x.dtype)
        attention.load_state_dict(
            {
                "in_proj_weight": block.qkv.weight,
                "in_proj_bias": block.qkv.bias,
                "out_proj.weight": block.proj.weight,
                "out_proj.bias": block.proj.bias,
            }
        )
        read = block.ln_1(x)
        added = mask.repeat_interleave(block.heads, 0) if place >= len(vision.blocks) - blocks else None
        x = x + attention(read, read, read, attn_mask=added, need_weights=False)[0]
        hidden = block.fc(block.ln_2(x))
        x = x + block.out(hidden * torch.sigmoid(1.702 * hidden))
    return vision.ln_post(x[:, 0]) @ vision.proj


@pytest.fixture
def deep_clip(small_config: Callable[..., object], small_tokenizer: object) -> Clip:
    config = small_config(small_tokenizer.vocab, vision=TowerConfig(64, 6, 2))
    return Clip(config, small_tokenizer).initialise(torch.Generator().manual_seed(1)).double().eval()


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize(("blocks", "changed"), [(None, 4), (1, 1), (6, 6)])
def test_the_tower_is_that_of_pytorch_with_the_additive_mask(
    deep_clip: Clip, monkeypatch: pytest.MonkeyPatch, blocks: int | None, changed: int, at_once: int
):
    tokens, hidden = deep_clip.vision.pos.shape[0], deep_clip.vision.blocks[0].fc.out_features
    monkeypatch.setattr(clip_model, "_HIDDEN", at_once * tokens * hidden)
    assert deep_clip.vision.at_once == at_once
    method = build("falip+zeroshot", deep_clip, {"falip": {"strength": 3.0, "blocks": blocks}})
    pictures, masks = images(4).double(), region(*BOXES)
    bias = torch.stack([expected_bias(*box, 3.0, 100.0) for box in BOXES])
    with torch.no_grad():
        found = method.encode_region(pictures, masks)
        wanted = plain_tower(deep_clip.vision, pictures, bias, changed)
        untouched = plain_tower(deep_clip.vision, pictures, bias, 0)
        again = method.encode_images(pictures)[0]
    torch.testing.assert_close(found[0], wanted, rtol=1e-6, atol=1e-8)
    assert (wanted - untouched).norm(dim=1).min() > 1e-3
    torch.testing.assert_close(again, untouched, rtol=1e-9, atol=1e-10)


@pytest.fixture(params=backbones())
def method(request: pytest.FixtureRequest, tiny_clip: Clip, few_sentences: None) -> Method:
    made = build(f"falip+{request.param}", tiny_clip, {"falip": {"strength": 30.0, "sigma": 1.0}}).eval()
    made.set_classes(["cat", "dog"])
    return made


def test_over_every_host_the_class_token_looks_at_the_region(method: Falip):
    last, seen = method.clip.vision.blocks[-1], dict[str, Tensor]()
    handles = [
        last.qkv.register_forward_hook(lambda _, given, out: seen.update(qkv=out)),
        last.proj.register_forward_hook(lambda _, given, out: seen.update(gathered=given[0])),
    ]
    with torch.no_grad():
        method.encode_region(images(2), region((1, 1, 2, 2), (3, 3, 0, 0)))
    for handle in handles:
        handle.remove()
    values = seen["qkv"].chunk(3, dim=-1)[2]
    own = first_patch(method.host) if values.shape[1] > 1 + GRID**2 else 1
    for row, patch in enumerate((GRID + 2, 3 * GRID)):
        torch.testing.assert_close(seen["gathered"][row, 0], values[row, own + patch], rtol=1e-3, atol=1e-4)


def test_an_empty_mask_leaves_the_bits_of_the_host(method: Falip):
    pictures, masks = images(2), region((0, 1, 0, 1), (0, 0, 0, 0))
    masks[1] = 0
    with torch.no_grad():
        found, host = method.encode_region(pictures, masks), method.host.encode_images(pictures)
        assert torch.equal(method.encode_region(pictures, torch.zeros_like(masks)), host)
        assert torch.equal(found[:, 1], host[:, 1])
        assert not torch.allclose(found[0, 0], host[0, 0])
        assert torch.equal(method.encode_images(pictures), host)  # no hook is left
        assert torch.equal(method.encode_region(pictures, masks), found)
    assert found.shape == host.shape
    assert not method.trainable()


def test_hooks_go_when_a_host_fails(tiny_clip: Clip):
    blocks, bias = tiny_clip.vision.blocks, torch.ones(1, GRID, GRID)
    with pytest.raises(RuntimeError, match="fails"), biased_attention(blocks, bias, 1):
        raise RuntimeError("fails")
    assert not any(block.qkv._forward_hooks or block.proj._forward_pre_hooks for block in blocks)


def test_in_half_precision_it_answers_alike(tiny_clip: Clip):
    pictures, masks = images(3), region(*BOXES[:3])
    with torch.no_grad():
        exact = build("falip+zeroshot", tiny_clip).encode_region(pictures, masks)
        half = build("falip+zeroshot", tiny_clip.to(torch.bfloat16)).encode_region(pictures, masks)
    assert half.dtype == torch.float32
    assert F.cosine_similarity(exact, half, dim=-1).min() > 0.999


def test_nothing_stands_over_it():
    assert stages("falip+fvgpt+coop") == ["coop", "fvgpt+coop", "falip+fvgpt+coop"]
    assert sees_regions("falip+fvgpt+coop")
    assert not sees_regions("fvgpt+coop")
    with pytest.raises(InputError, match=r"nothing can stand over falip: write 'falip\+fvgpt\+coop'"):
        parts("fvgpt+falip+coop")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"blocks": 9}, "blocks is 9, but the image tower has 3: give 3 at most"),
        ({"blocks": 0}, "blocks is 0: give at least 1"),
        ({"sigma": 0.0}, "sigma is 0.0: give a number of patches above zero"),
        ({"strength": -1.0}, "strength is -1.0: give a number from 0 to 100"),
        ({"region": "circle"}, "region is 'circle'"),
    ],
)
def test_settings_out_of_range_are_refused(tiny_clip: Clip, settings: dict[str, object], said: str):
    with pytest.raises(InputError, match=said):
        build("falip+zeroshot", tiny_clip, {"falip": settings})
