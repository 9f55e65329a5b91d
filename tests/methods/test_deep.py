"""Learned tokens between blocks: where they stand, how deep they go, and a slow reference of whole towers."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.config import TowerConfig
from foveate.clip.model import Clip, Vision
from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.explain import gaze, gaze_on_object
from foveate.methods.base import Method
from foveate.methods.frozen import training_losses
from foveate.methods.ivlp import Ivlp, IvlpConfig
from foveate.methods.layers import linear
from foveate.methods.maple import Maple, MapleConfig
from foveate.methods.prompts import encode_prompted, insert, put, replacing, resolve_depth
from foveate.methods.promptsrc import PromptSRC, PromptSRCConfig
from foveate.methods.registry import build
from foveate.methods.vpt import Vpt, VptConfig
from foveate.seeds import stream
from foveate.types import Batch

NAMES = ["cat", "dog", "old photo of a phone"]
DEEP = ["promptsrc", "ivlp", "vpt", "maple"]

Sized = Callable[[int, int], Clip]


def images(number: int = 3) -> Tensor:
    return torch.randn(number, 3, 32, 32, generator=stream(0, "pictures"))


@pytest.fixture
def sized(small_tokenizer: ClipTokenizer, small_config) -> Sized:
    """Makes a random CLIP of so many blocks in the image tower and in the text tower."""

    def make(vision: int, text: int) -> Clip:
        towers = {"vision": TowerConfig(32, vision, 2), "text": TowerConfig(16, text, 2)}
        clip = Clip(small_config(small_tokenizer.vocab, **towers), small_tokenizer)
        return clip.initialise(torch.Generator().manual_seed(0)).eval()

    return make


# --- places ---


def marked(rows: int, tokens: int) -> Tensor:
    """Tokens that say where they stand: 0, 1, 2 ..., in each channel."""
    return torch.arange(tokens, dtype=torch.float32)[None, :, None].expand(rows, -1, 2)


def read(tokens: Tensor) -> list[list[float]]:
    assert torch.equal(tokens[..., 0], tokens[..., 1])
    return tokens[..., 0].tolist()


LEARNED = torch.tensor([[-1.0, -1.0], [-2.0, -2.0]])


def test_put_replaces_and_insert_pushes_apart():
    assert read(put(marked(2, 5), LEARNED, 1)) == [[0, -1, -2, 3, 4]] * 2
    assert read(put(marked(1, 5), LEARNED, 3)) == [[0, 1, 2, -1, -2]]
    assert read(insert(marked(2, 3), LEARNED, 1)) == [[0, -1, -2, 1, 2]] * 2
    assert read(insert(marked(1, 3), LEARNED, 3)) == [[0, 1, 2, -1, -2]]
    assert put(marked(0, 5), LEARNED, 1).shape == (0, 5, 2)
    assert insert(marked(0, 5), LEARNED, 1).shape == (0, 7, 2)


@pytest.mark.parametrize(("start", "place"), [(1, 1), (-2, 4), (-3, 3)])
def test_the_second_block_is_the_first_that_gets_other_tokens(start: int, place: int):
    edit = replacing(torch.stack([LEARNED, 10 * LEARNED]), start)
    for layer, factor in ((0, None), (1, 1), (2, 10), (3, None)):
        expected: list[float] = [0, 1, 2, 3, 4, 5]
        if factor:
            expected[place : place + 2] = [-factor, -2 * factor]
        assert read(edit(layer, marked(1, 6))) == [expected], layer


def test_nothing_to_put_is_no_edit():
    assert replacing(None, 1) is None


def test_learned_tokens_take_the_precision_of_the_others():
    tokens = marked(2, 5).bfloat16()
    assert put(tokens, LEARNED, 1).dtype == insert(tokens, LEARNED, 1).dtype == torch.bfloat16


def test_a_linear_map_starts_as_pytorchs_own():
    layer = linear(256, 500, stream(3, "map"))
    again, other = linear(256, 500, stream(3, "map")), linear(256, 500, stream(4, "map"))
    assert torch.equal(layer.weight, again.weight)
    assert not torch.equal(layer.weight, other.weight)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = nn.Linear(256, 500)
    for mine, official in zip(layer.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert mine.shape == official.shape
        assert mine.dtype == torch.float32
        assert mine.abs().max() <= 1 / 16  # 1 / √256
        assert mine.abs().max() == pytest.approx(official.abs().max().item(), rel=0.02)
        assert mine.std() == pytest.approx(official.std().item(), rel=0.1)
        assert mine.mean().abs() < 0.006


# --- depth ---


@pytest.mark.parametrize(
    ("published", "depths"),
    [  # 9 of 12 is three quarters; a half is rounded to the even number: 4.5 blocks of 6 are 4
        (9, {1: 1, 2: 2, 3: 2, 4: 3, 6: 4, 10: 8, 11: 8, 12: 9, 24: 9}),
        (12, {1: 1, 2: 2, 3: 3, 4: 4, 6: 6, 12: 12, 24: 12}),
    ],
)
def test_the_published_depth_is_a_share_of_twelve_blocks(published: int, depths: dict[int, int]):
    assert {blocks: resolve_depth(None, blocks, published, "x: depth") for blocks in depths} == depths


def test_a_depth_that_is_given_is_kept_or_refused():
    assert [resolve_depth(given, 6, 9, "x: depth") for given in (1, 5, 6)] == [1, 5, 6]
    assert resolve_depth(0, 6, 9, "x: depth", least=0) == 0
    for given, least in ((0, 1), (7, 1), (-1, 0), (99, 0)):
        said = f"x: depth is {given}, but the tower has 6 blocks: give {least} to 6"
        with pytest.raises(InputError, match=said):
            resolve_depth(given, 6, 9, "x: depth", least=least)


BLOCKS = [2, 3, 6, 12, 24]
NINE = {2: 2, 3: 2, 6: 4, 12: 9, 24: 9}
TWELVE = {2: 2, 3: 3, 6: 6, 12: 12, 24: 12}


def depths(method: Method) -> dict[str, int]:
    """Of each tensor of deeper tokens, in how many blocks there are any."""
    return {
        name: len(p) + 1 for name, p in method.learned().items() if name.startswith("deep_") and p.ndim == 3
    }


@pytest.mark.parametrize("blocks", BLOCKS)
def test_towers_of_any_depth(blocks: int, sized: Sized):
    clip = sized(blocks, blocks)
    nine, twelve = NINE[blocks], TWELVE[blocks]
    assert depths(PromptSRC(clip)) == {"deep_text": nine, "deep_vision": nine}
    assert depths(Ivlp(clip)) == {"deep_text": twelve, "deep_vision": twelve}
    assert depths(Vpt(clip)) == {"deep_vision": twelve}
    assert depths(Maple(clip)) == {"deep_text": nine}
    assert len(Maple(clip).deep_maps) == nine - 1


@pytest.mark.parametrize(("vision", "text"), [(2, 6), (6, 3), (24, 12), (3, 12)])
def test_towers_of_unequal_depth(vision: int, text: int, sized: Sized):
    clip = sized(vision, text)
    assert depths(PromptSRC(clip)) == {"deep_text": NINE[text], "deep_vision": NINE[vision]}
    assert depths(Vpt(clip)) == {"deep_vision": TWELVE[vision]}
    assert depths(Maple(clip)) == {"deep_text": NINE[min(vision, text)]}
    for name in DEEP:
        method = build(name, clip)
        method.set_classes(NAMES)
        with torch.no_grad():
            assert method.logits(method.features(images())).isfinite().all()


@pytest.mark.parametrize(
    ("method", "config", "said"),
    [
        (Ivlp, IvlpConfig(text_depth=0), "ivlp: text_depth is 0, but the tower has 3 blocks: give 1 to 3"),
        (Ivlp, IvlpConfig(text_depth=4), "ivlp: text_depth is 4, but the tower has 3 blocks: give 1 to 3"),
        (
            Ivlp,
            IvlpConfig(vision_depth=5),
            "ivlp: vision_depth is 5, but the tower has 4 blocks: give 0 to 4",
        ),
        (Ivlp, IvlpConfig(vision_depth=-1), "ivlp: vision_depth is -1"),
        (PromptSRC, PromptSRCConfig(text_depth=9), "promptsrc: text_depth is 9, but the tower has 3 blocks"),
        (PromptSRC, PromptSRCConfig(vision_depth=9), "promptsrc: vision_depth is 9, but the tower has 4"),
        (Vpt, VptConfig(depth=0), "vpt: depth is 0, but the tower has 4 blocks: give 1 to 4"),
        (Vpt, VptConfig(depth=5), "vpt: depth is 5, but the tower has 4 blocks: give 1 to 4"),
        (Maple, MapleConfig(depth=0), "maple: depth is 0, but the tower has 3 blocks: give 1 to 3"),
        (Maple, MapleConfig(depth=4), "maple: depth is 4, but the tower has 3 blocks: give 1 to 3"),
    ],
)
def test_impossible_depths_are_refused(
    method: Callable[..., Method], config: object, said: str, sized: Sized
):
    with pytest.raises(InputError, match=said):
        method(sized(4, 3), config)


@pytest.mark.parametrize(
    ("method", "learned"),
    [
        (lambda clip: Ivlp(clip, IvlpConfig(text_depth=1, vision_depth=1)), {"ctx", "vision_ctx"}),
        (lambda clip: Ivlp(clip, IvlpConfig(text_depth=1, vision_depth=0)), {"ctx"}),
        (lambda clip: Vpt(clip, VptConfig(depth=1)), {"vision_ctx"}),
        (lambda clip: Maple(clip, MapleConfig(depth=1)), {"ctx", "map.weight", "map.bias"}),
    ],
)
def test_one_block_deep_there_are_no_empty_tensors(
    method: Callable[[Clip], Method], learned: set[str], sized: Sized
):
    built = method(sized(3, 3))
    assert set(built.learned()) == learned
    assert set(built.official_names()) == learned
    built.set_classes(NAMES)
    sum(training_losses(built, Batch(images(), torch.arange(3))).values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in built.learned().values())


def test_random_starts_have_the_fields_spread_and_their_own_seed(sized: Sized):
    for name in DEEP:
        first, again, other = (build(name, sized(12, 12), seed=s).learned() for s in (1, 1, 2))
        for key, tensor in first.items():
            assert torch.equal(tensor, again[key]), (name, key)
            if key == "ctx":  # words
                assert torch.equal(tensor, other[key])
                continue
            assert not torch.equal(tensor, other[key]), (name, key)
            if "map" not in key:
                assert tensor.std().item() == pytest.approx(0.02, rel=0.2)


# --- whole towers, once more the slow way: full context, explicit concatenation, torch's own attention ---


def slow_block(block: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """One block over `[tokens, rows, width]`, with the attention that the authors' code calls."""
    normed = block.ln_1(x)
    attended, _ = F.multi_head_attention_forward(
        normed, normed, normed, x.shape[-1], block.heads, block.qkv.weight, block.qkv.bias, None, None, False,
        0.0, block.proj.weight, block.proj.bias, need_weights=False, attn_mask=mask,
    )  # fmt: skip
    x = x + attended
    hidden = block.fc(block.ln_2(x))
    return x + block.out(hidden * torch.sigmoid(1.702 * hidden))


def slow_text(clip: Clip, ctx: Tensor, deeper: Sequence[Tensor], sentence: str) -> Tensor:
    tower, n = clip.text, len(ctx)
    ids = clip.tokenizer([sentence.replace("{}", name) for name in NAMES])
    words = tower.token(ids)
    x = torch.cat([words[:, :1], ctx.expand(len(NAMES), -1, -1), words[:, 1 + n :]], 1) + tower.pos
    x = x.transpose(0, 1)
    assert len(x) == 77
    mask = torch.full((77, 77), -torch.inf, dtype=x.dtype).triu(1)
    for i, block in enumerate(tower.blocks):
        if 1 <= i <= len(deeper):
            mine = deeper[i - 1][:, None].expand(-1, len(NAMES), -1)
            x = torch.cat([x[:1], mine, x[1 + n :]])
        x = slow_block(block, x, mask)
    return tower.ln_final(x)[ids.argmax(-1), torch.arange(len(NAMES))] @ tower.proj


def slow_image(tower: Vision, pictures: Tensor, first: Tensor | None, deeper: Sequence[Tensor]) -> Tensor:
    patch, rows = tower.patches.kernel_size[0], len(pictures)
    cut = F.unfold(pictures, patch, stride=patch).transpose(1, 2)  # every patch as a row of numbers
    x = cut @ tower.patches.weight.flatten(1).T
    x = torch.cat([tower.cls.expand(rows, 1, -1), x], 1) + tower.pos
    if first is not None:
        x = torch.cat([x, first.expand(rows, -1, -1)], 1)
    x = tower.ln_pre(x).transpose(0, 1)
    for i, block in enumerate(tower.blocks):
        if 1 <= i <= len(deeper):
            x = torch.cat([x[: tower.grid**2 + 1], deeper[i - 1][:, None].expand(-1, rows, -1)])
        x = slow_block(block, x, None)
    return tower.ln_post(x[0]) @ tower.proj


def slow_logits(clip: Clip, image: Tensor, text: Tensor) -> Tensor:
    image, text = (x / x.norm(dim=-1, keepdim=True) for x in (image, text))
    return clip.logit_scale.exp() * image @ text.T


def slow_ivlp(method: Ivlp, pictures: Tensor) -> Tensor:
    text = slow_text(method.clip, method.ctx, [*method.deep_text], "a photo of a {}.")
    image = slow_image(method.clip.vision, pictures, method.vision_ctx, [*method.deep_vision])
    return slow_logits(method.clip, image, text)


def slow_language(method: Ivlp, pictures: Tensor) -> Tensor:
    text = slow_text(method.clip, method.ctx, [*method.deep_text], "a photo of a {}.")
    return slow_logits(method.clip, slow_image(method.clip.vision, pictures, None, []), text)


def slow_vpt(method: Vpt, pictures: Tensor) -> Tensor:
    words = method.clip.text.token(torch.tensor(method.clip.tokenizer.words("a photo of a")))
    text = slow_text(method.clip, words, [], "a photo of a {}.")
    image = slow_image(method.clip.vision, pictures, method.vision_ctx, [*method.deep_vision])
    return slow_logits(method.clip, image, text)


def slow_maple(method: Maple, pictures: Tensor) -> Tensor:
    p = method.learned()
    first = p["ctx"] @ p["map.weight"].T + p["map.bias"]
    deeper = [
        tokens @ p[f"deep_maps.{k}.weight"].T + p[f"deep_maps.{k}.bias"]
        for k, tokens in enumerate(p["deep_text"])
    ]
    text = slow_text(method.clip, p["ctx"], [*p["deep_text"]], "a photo of a {}.")
    return slow_logits(method.clip, slow_image(method.clip.vision, pictures, first, deeper), text)


@pytest.mark.parametrize(
    ("method", "slow"),
    [
        (lambda clip: Ivlp(clip), slow_ivlp),
        (
            lambda clip: Ivlp(clip, IvlpConfig(tokens=4, vision_tokens=3, text_depth=2, vision_depth=3)),
            slow_ivlp,
        ),
        (lambda clip: Ivlp(clip, IvlpConfig(tokens=1, vision_depth=0)), slow_language),
        (lambda clip: Vpt(clip), slow_vpt),
        (lambda clip: Vpt(clip, VptConfig(tokens=1, depth=2)), slow_vpt),
        (lambda clip: Maple(clip), slow_maple),
        (lambda clip: Maple(clip, MapleConfig(tokens=3, depth=4)), slow_maple),
    ],
    ids=["ivlp", "ivlp shallower", "language only", "vpt", "vpt shallower", "maple", "maple deeper"],
)
def test_answers_and_gradients_are_those_of_a_slow_reference(
    method: Callable[[Clip], Method], slow: Callable[..., Tensor], sized: Sized
):
    built = method(sized(5, 4)).double()
    g = stream(0, "far from the start")
    for tensor in built.learned().values():  # so that every one of them matters, and no two are alike
        tensor.data += torch.randn(tensor.shape, generator=g, dtype=torch.float64)
    built.set_classes(NAMES)
    pictures, labels = images().double(), torch.tensor([2, 0, 1])
    expected = slow(built, pictures)
    torch.testing.assert_close(built.logits(built.features(pictures)), expected, rtol=1e-10, atol=1e-10)
    loss = F.cross_entropy(expected, labels)
    gradients = torch.autograd.grad(loss, list(built.learned().values()))
    mine = training_losses(built, Batch(pictures, labels))
    torch.testing.assert_close(mine["ce"], loss, rtol=1e-10, atol=1e-10)
    mine["ce"].backward()
    for (name, tensor), gradient in zip(built.learned().items(), gradients, strict=True):
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-8, atol=1e-12)


def test_tokens_of_the_tower_do_not_move(sized: Sized):
    """Patches stay behind the class token, whatever is learned behind them."""
    vision = sized(3, 2).vision
    first, deeper = torch.randn(2, 32, generator=stream(1)), torch.randn(2, 2, 32, generator=stream(2))
    seen: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for block in vision.blocks]
    encode_prompted(vision, images(), first, deeper)
    for hook in hooks:
        hook.remove()
    plain = vision.ln_pre(vision.tokens(images()))
    assert [x.shape[1] for x in seen] == [17 + 2] * 3
    torch.testing.assert_close(seen[0][:, :17], plain)
    torch.testing.assert_close(seen[0][:, 17:], vision.ln_pre(first).expand(3, -1, -1))
    for k in (0, 1):
        assert torch.equal(seen[k + 1][:, 17:], deeper[k].expand(3, -1, -1))  # past every norm


# --- the gaze ---


@pytest.mark.parametrize("name", [*DEEP, "fvgpt+promptsrc", "fvgpt+maple"])
def test_the_gaze_is_cut_out_of_the_patches(name: str, sized: Sized):
    method = build(name, sized(3, 2))
    method.set_classes(NAMES)
    heat = gaze(method, images(), torch.tensor([0, 1, 2]))
    assert heat.shape == (3, 4, 4)
    torch.testing.assert_close(heat.sum((1, 2)), torch.ones(3))


@pytest.mark.parametrize("name", DEEP)
def test_what_a_patch_says_is_where_the_patch_is(name: str, sized: Sized):
    """A tower without positions cannot tell places: moved patches must move the gaze with them."""
    clip = sized(3, 2)
    with torch.no_grad():
        clip.vision.pos.zero_()
    method = build(name, clip)
    method.set_classes(NAMES)
    picture = images(1)
    moved = picture.roll((8, 16), (2, 3))  # whole patches: one down, two to the right
    label = torch.tensor([1])
    heat, after = gaze(method, picture, label), gaze(method, moved, label)
    torch.testing.assert_close(after, heat.roll((1, 2), (1, 2)), rtol=1e-3, atol=1e-5)
    upper = torch.zeros(1, 1, 32, 32)
    upper[:, :, :16] = 1
    assert gaze_on_object(heat, upper).item() == pytest.approx(heat[0, :2].sum().item(), rel=1e-5)
