"""TCP: its sizes, tokens of each class's own in the upper blocks, and a slow reference of 77 tokens."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.model import Block, Clip
from foveate.clip.rows import ClassTokens, TokenRows, encode_names, encode_rows
from foveate.errors import InputError
from foveate.methods.frozen import training_losses
from foveate.methods.kgcoop import KgCoOp, KgCoOpConfig
from foveate.methods.tcp import Tcp, TcpConfig, entry_layer
from foveate.seeds import stream
from foveate.train.recipe import recipe_for
from foveate.types import Batch

NAMES = ["cat", "dog", "old photo of a phone", "old phone"]  # two of them begin alike


def batch() -> Batch:
    return Batch(torch.randn(3, 3, 32, 32, generator=stream(0, "pictures")), torch.tensor([2, 0, 1]))


@pytest.fixture
def deep_clip(small_tokenizer, small_config) -> Clip:
    """Five blocks in the text tower."""
    towers = {"vision": TowerConfig(32, 2, 2), "text": TowerConfig(16, 5, 2)}
    clip = Clip(small_config(small_tokenizer.vocab, **towers), small_tokenizer)
    return clip.initialise(torch.Generator().manual_seed(0)).eval()


def far_from_the_start(clip: Clip, config: TcpConfig | None = None) -> Tcp:
    method = Tcp(clip, config).double()
    g = stream(0, "far from the start")
    for tensor in method.learned().values():
        tensor.data += torch.randn(tensor.shape, generator=g, dtype=torch.float64)
    method.set_classes(NAMES)
    return method


def slow_block(block: Block, x: Tensor) -> Tensor:
    """One block over `[77, rows, width]`, with torch's own attention and a mask of 77 by 77."""
    mask = torch.full((77, 77), -torch.inf, dtype=x.dtype).triu(1)
    normed = block.ln_1(x)
    attended, _ = F.multi_head_attention_forward(
        normed, normed, normed, x.shape[-1], block.heads, block.qkv.weight, block.qkv.bias, None, None, False,
        0.0, block.proj.weight, block.proj.bias, need_weights=False, attn_mask=mask,
    )  # fmt: skip
    x = x + attended
    hidden = block.fc(block.ln_2(x))
    return x + block.out(hidden * torch.sigmoid(1.702 * hidden))


def slow_text(method: Tcp, layer: int) -> Tensor:
    clip, p, n = method.clip, method.learned(), len(method.ctx)
    known = encode_names(clip, NAMES)
    known = known / known.norm(dim=-1, keepdim=True)
    hidden = known @ p["meta_net.linear1.weight"].T + p["meta_net.linear1.bias"]
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    own = (hidden @ p["meta_net.linear2.weight"].T + p["meta_net.linear2.bias"]).view(len(NAMES), n, -1)
    ids = clip.tokenizer([f"a photo of a {name}." for name in NAMES])
    words = clip.text.token(ids)
    x = torch.cat([words[:, :1], method.ctx.expand(len(NAMES), -1, -1), words[:, 1 + n :]], 1) + clip.text.pos
    x = x.transpose(0, 1)
    assert len(x) == 77
    for i, block in enumerate(clip.text.blocks):
        if i == layer:
            x = torch.cat([x[:1], own.transpose(0, 1), x[1 + n :]])
        x = slow_block(block, x)
    return clip.text.ln_final(x)[ids.argmax(-1), torch.arange(len(NAMES))] @ clip.text.proj


@pytest.mark.parametrize(
    ("config", "layer"),
    [
        (TcpConfig(), 3),
        (TcpConfig(block=1), 0),
        (TcpConfig(block=5, tokens=2), 4),
        (TcpConfig(block=3, tokens=7), 2),
    ],
)
def test_texts_and_gradients_are_those_of_the_plain_path(config: TcpConfig, layer: int, deep_clip: Clip):
    """The start words are 7 tokens of this tokenizer: with fewer vectors, words are common to all classes."""
    method = far_from_the_start(deep_clip, config)
    expected = slow_text(method, layer)
    texts = method.encode_text()
    torch.testing.assert_close(texts, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn(expected.shape, generator=stream(1), dtype=torch.float64)
    learned = list(method.learned().values())
    ours, theirs = (torch.autograd.grad((one * weights).sum(), learned) for one in (texts, expected))
    for name, one, other in zip(method.learned(), ours, theirs, strict=True):
        assert (other.abs().max() > 1e-6) == (name != "ctx" or layer > 0), name  # else nothing can read it
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("names", [NAMES[:1], [NAMES[3], NAMES[2]], [f"old {i}" for i in range(40)]])
def test_in_parts_it_is_the_same(names: list[str], deep_clip: Clip):
    method = far_from_the_start(deep_clip)
    method.set_classes(names)
    own = ClassTokens(method.layer, method.class_tokens())
    whole = method.encode_text()
    parts = encode_rows(deep_clip.text, method.rows, method.ctx, chunk=6, class_tokens=own)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    learned = list(method.learned().values())
    expected = torch.autograd.grad(whole.square().sum(), learned, retain_graph=True)
    for one, other in zip(torch.autograd.grad(parts.square().sum(), learned), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_lower_blocks_read_the_beginning_once(
    deep_clip: Clip, tokens_read: dict[Block, list[int]], texts_read: list[TokenRows]
):
    method = Tcp(deep_clip, TcpConfig(block=4))
    method.set_classes(NAMES)
    training_losses(method, batch())  # the plain texts are known from here on
    tokens_read.clear()
    texts_read.clear()
    training_losses(method, batch())
    (rows,) = texts_read
    beginning, own = rows.shared, sum(rows.lengths)
    assert beginning == 8  # SOT, four vectors, three words
    every = own + len(NAMES) * (beginning - 1)
    counts = [sum(tokens_read[block]) for block in deep_clip.text.blocks]
    assert counts == [beginning + own] * 3 + [1 + every, len(NAMES)]


def test_own_tokens_need_their_places(deep_clip: Clip):
    method = Tcp(deep_clip)
    method.set_classes(NAMES)
    with pytest.raises(ValueError, match="class tokens take 30 positions, but rows share 8"):
        encode_rows(
            deep_clip.text, method.rows, method.ctx, class_tokens=ClassTokens(1, torch.zeros(4, 30, 16))
        )


def test_losses_are_those_of_the_equation(deep_clip: Clip):
    method = far_from_the_start(deep_clip)
    pictures = Batch(batch().images.double(), batch().labels)
    plain, texts = encode_names(deep_clip, NAMES), slow_text(method, method.layer)
    unit = [one / one.norm(dim=-1, keepdim=True) for one in (texts, plain)]
    losses = training_losses(method, pictures)
    assert losses["knowledge"].item() == pytest.approx(8 * (1 - (unit[0] * unit[1]).sum(-1).mean().item()))
    f = deep_clip.vision(pictures.images)
    logits = deep_clip.logit_scale.exp() * (f / f.norm(dim=-1, keepdim=True)) @ unit[0].T
    nll = -logits.log_softmax(-1)[torch.arange(3), pictures.labels].mean()
    assert losses["ce"].item() == pytest.approx(nll.item())


def test_gradients_reach_what_is_learned_and_nothing_else(deep_clip: Clip):
    method = Tcp(deep_clip, TcpConfig(block=2))
    method.set_classes(NAMES)
    sum(training_losses(method, batch()).values()).backward()
    assert all(p.grad.abs().max() > 0 for p in method.learned().values())
    assert all(p.grad is None for p in deep_clip.parameters())


def test_each_class_has_tokens_of_its_own_for_any_names(deep_clip: Clip):
    method = Tcp(deep_clip)
    method.set_classes(["cat", "dog"])
    tokens = method.class_tokens()
    assert tokens.shape == (2, 4, 16)
    method.set_classes(["zebra", "dog", "okapi"])
    assert torch.allclose(method.class_tokens()[1], tokens[1])
    assert not torch.allclose(tokens[0], tokens[1])


def test_parameter_counts():
    with torch.device("meta"):
        clip = Clip(ClipConfig())
    learned = Tcp(clip).learned()
    assert {name: list(p.shape) for name, p in learned.items()} == {
        "ctx": [4, 512],
        "meta_net.linear1.weight": [128, 512],
        "meta_net.linear1.bias": [128],
        "meta_net.linear2.weight": [2048, 128],
        "meta_net.linear2.bias": [2048],
    }
    assert sum(p.numel() for p in learned.values()) == 331_904


def test_without_depth_it_starts_from_kgcoops_vectors(tiny_clip: Clip):
    ours, theirs = Tcp(tiny_clip), KgCoOp(tiny_clip, KgCoOpConfig(weight=8.0))
    assert torch.equal(ours.ctx, theirs.ctx)
    assert ours.words == theirs.words


@pytest.mark.parametrize(("blocks", "layer"), [(12, 8), (24, 8), (6, 4), (3, 2), (2, 1), (1, 0)])
def test_the_published_block_is_a_share_of_twelve(blocks: int, layer: int):
    assert entry_layer(None, blocks) == layer


def test_impossible_settings_are_refused(deep_clip: Clip):
    for block in (0, 6):
        with pytest.raises(InputError, match=f"tcp: block is {block}, but the text tower has 5 blocks"):
            Tcp(deep_clip, TcpConfig(block=block))
    with pytest.raises(InputError, match="tcp: weight is -1"):
        TcpConfig(weight=-1.0)
    with pytest.raises(InputError, match="tcp: tokens is 0"):
        Tcp(deep_clip, TcpConfig(tokens=0))


def test_the_recipe():
    recipe = recipe_for("tcp")
    assert (recipe.epochs, recipe.batch_size, recipe.optimiser, recipe.lr) == (50, 32, "adamw", 0.002)
