"""The towers: edits between blocks, the cut after the last EOT, precision, fingerprints."""

import copy
import pickle
from dataclasses import replace

import jaxtyping
import pytest
import torch
from torch.nn import functional as F

from foveate.clip import linear
from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.linear import TowerLinear
from foveate.clip.model import Block, Clip, Vision
from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def ids(tiny_clip) -> torch.Tensor:
    return tiny_clip.tokenizer(["a cat", "a photo of a cat, of a cat", ""])


class Watch:
    """An edit that changes nothing and remembers what it saw."""

    def __init__(self):
        self.seen = []

    def __call__(self, layer, tokens):
        self.seen.append((layer, tuple(tokens.shape)))
        return tokens


def test_an_identity_edit_changes_nothing_and_sees_every_layer_once(tiny_clip, ids):
    image, text = Watch(), Watch()
    assert torch.equal(tiny_clip.vision(IMAGES, image), tiny_clip.vision(IMAGES))
    assert torch.equal(tiny_clip.text(ids, text), tiny_clip.text(ids))
    assert image.seen == [(layer, (3, 17, 128)) for layer in range(3)]
    longest = int(ids.argmax(1).max()) + 1
    assert text.seen == [(layer, (3, longest, 64)) for layer in range(2)]


def test_inserted_tokens_grow_the_sequence_and_move_the_end(tiny_clip, ids):
    extra = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))

    def insert(layer, tokens):
        if layer != 1:
            return tokens
        return torch.cat([tokens[:, :1], extra.expand(len(tokens), -1, -1), tokens[:, 1:]], dim=1)

    eot = ids.argmax(1)
    plain = tiny_clip.text.encode(tiny_clip.text.token(ids))
    grown = tiny_clip.text.encode(tiny_clip.text.token(ids), insert)
    assert grown.shape[1] == plain.shape[1] + 5
    # Causal: what stands before the inserted tokens does not change, what stands behind them does.
    torch.testing.assert_close(grown[:, 0], plain[:, 0], **CLOSE)
    moved = tiny_clip.text.pool(grown, eot + 5)
    assert moved.shape == (3, 32)
    assert not torch.allclose(moved, tiny_clip.text(ids), atol=1e-3)
    rows = torch.arange(3)
    by_hand = tiny_clip.text.ln_final(grown)[rows, eot + 5] @ tiny_clip.text.proj
    torch.testing.assert_close(moved, by_hand, **CLOSE)


def test_vision_in_three_steps_is_vision_in_one(tiny_clip):
    vision = tiny_clip.vision
    out = vision.encode(vision.tokens(IMAGES))
    torch.testing.assert_close(vision.pool(out[:, 0]), vision(IMAGES), **CLOSE)
    assert vision.pool(out).shape == (3, 17, 32)


def test_without_gradients_pictures_go_through_the_blocks_a_few_at_a_time(tiny_clip, monkeypatch):
    monkeypatch.setattr(Vision, "at_once", 2)
    seen = []
    handle = tiny_clip.vision.blocks[0].register_forward_hook(lambda _, x, __: seen.append(len(x[0])))
    with torch.no_grad():
        few = tiny_clip.vision(IMAGES)
    assert seen == [2, 1]
    whole = tiny_clip.vision(IMAGES)  # somebody may want gradients
    handle.remove()
    assert seen == [2, 1, 3]
    torch.testing.assert_close(few, whole, **CLOSE)


def test_a_few_pictures_are_as_many_as_the_width_allows():
    with torch.device("meta"):
        assert Clip(ClipConfig()).vision.at_once == 8
        huge = replace(ClipConfig(), vision=TowerConfig(4096, 1, 64), patch_size=4)
        assert Clip(huge).vision.at_once == 1


def test_cut_at_the_last_end_equals_all_77_tokens(tiny_clip, ids):
    text = tiny_clip.text
    full = text.pool(text.encode(text.token(ids)), ids.argmax(1))
    assert ids.shape[1] == 77
    torch.testing.assert_close(text(ids), full, **CLOSE)


def test_gradients_reach_an_edit_but_no_weight(tiny_clip):
    prompt = torch.zeros(4, 128, requires_grad=True)
    tiny_clip.vision(IMAGES, lambda layer, x: x if layer else x + prompt.sum(0)).sum().backward()
    assert prompt.grad is not None
    assert prompt.grad.abs().sum() > 0
    assert all(p.grad is None for p in tiny_clip.parameters())


def test_double_precision_agrees_with_single(tiny_clip, ids):
    double = copy.deepcopy(tiny_clip).double()
    torch.testing.assert_close(double.vision(IMAGES).float(), tiny_clip.vision(IMAGES), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(double.text(ids).float(), tiny_clip.text(ids), rtol=1e-4, atol=1e-5)


def test_fingerprint_names_weights_and_sizes(tiny_clip):
    first = tiny_clip.fingerprint()
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert tiny_clip.fingerprint() == first == copy.deepcopy(tiny_clip).fingerprint()
    assert pickle.loads(pickle.dumps(tiny_clip)).fingerprint() == first
    other = Clip.from_state_dict(tiny_clip.state_dict(), heads=(4, 1))
    assert other.fingerprint() != first
    assert copy.deepcopy(tiny_clip).bfloat16().fingerprint() != first
    with torch.no_grad():
        tiny_clip.vision.proj[0, 0] += 1
    changed = tiny_clip.fingerprint()
    assert changed != first
    with torch.no_grad():
        tiny_clip.vision.proj[0, 0] -= 1
    assert tiny_clip.fingerprint() != changed
    with torch.inference_mode():
        assert len(Clip.from_state_dict(tiny_clip.half().state_dict(), heads=(2, 1)).fingerprint()) == 16


def test_tokenizer_is_the_given_one_or_openais(small_tokenizer, small_config):
    config = small_config(small_tokenizer.vocab)
    assert Clip(config, small_tokenizer).tokenizer is small_tokenizer
    assert Clip(small_config(small_tokenizer.vocab, context=9), small_tokenizer).tokenizer(["x"]).shape == (
        1,
        9,
    )
    with pytest.raises(InputError, match="no tokenizer for a vocabulary of"):
        _ = Clip(config).tokenizer
    with pytest.raises(InputError, match="tokens, the text tower"):
        Clip(small_config(100), small_tokenizer)
    with torch.device("meta"):
        openai = Clip(small_config(49408))
    assert openai.tokenizer is openai.tokenizer
    assert torch.equal(openai.tokenizer(["a cat"]), ClipTokenizer.openai()(["a cat"]))


def test_a_feature_needs_the_class_token_alone_of_the_last_block(
    tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch
):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    feed, read = Block.feed, list[int]()
    monkeypatch.setattr(Block, "feed", lambda self, x: read.append(x.shape[1]) or feed(self, x))
    with torch.no_grad():
        whole = tiny_clip.vision.pool(tiny_clip.vision.encode(tiny_clip.vision.tokens(images))[:, 0])
        assert read == [17, 17, 17]
        read.clear()
        torch.testing.assert_close(tiny_clip.vision(images), whole, rtol=1e-5, atol=1e-6)
        assert read == [17, 17, 1]


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="PyTorch without oneDNN")
@pytest.mark.parametrize("shape", [(2, 5, 24), (7, 24), (0, 24), (24,)])
def test_products_by_onednn_are_those_of_pytorch(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]):
    g = torch.Generator().manual_seed(0)
    layer = TowerLinear(24, 40)
    with torch.no_grad():
        layer.weight.normal_(generator=g)
        layer.bias.normal_(generator=g)
    given = torch.randn(*shape, generator=g).requires_grad_()
    took: list[bool] = []
    product = linear._product
    monkeypatch.setattr(linear, "_product", lambda *all: took.append(True) or product(*all))
    for onednn in (False, True):
        monkeypatch.setattr(linear, "onednn_is_faster", lambda onednn=onednn: onednn)
        layer.requires_grad_(True)
        layer(given)
        assert not took  # weights that learn have gradients of their own
        layer.requires_grad_(False)
        found = layer(given)
        weight = torch.linspace(-1, 1, 40)
        (gradient,) = torch.autograd.grad((found * weight).sum(), given)
        expected = F.linear(given, layer.weight, layer.bias)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient, (weight @ layer.weight).expand(shape), rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(layer(given), expected, rtol=1e-5, atol=1e-5)
            assert layer.double()(given.double()).dtype == torch.float64
            layer.float()
        assert len(took) == (3 if onednn else 0)


def test_tests_check_the_shapes_that_are_declared(tiny_clip):
    with pytest.raises(jaxtyping.TypeCheckError, match="images"):
        tiny_clip.vision(IMAGES[0])  # no axis of pictures
