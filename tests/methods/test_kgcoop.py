"""KgCoOp: against the authors' code, its sizes, and when the prior's sentences are encoded."""

import pytest
import torch
from torch.nn import functional as F

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.clip.rows import TokenRows, encode_names
from foveate.errors import InputError
from foveate.methods.coop import CoOp, CoOpConfig
from foveate.methods.frozen import training_losses
from foveate.methods.kgcoop import KgCoOp, KgCoOpConfig
from foveate.methods.zeroshot import ZeroShot
from foveate.seeds import stream
from foveate.train.together import backward
from foveate.types import Batch

NAMES = ["cat", "dog", "phone"]


def batch(number: int = 3) -> Batch:
    images = torch.randn(number, 3, 32, 32, generator=stream(0, "pictures"))
    return Batch(images, torch.arange(number) % len(NAMES))


@pytest.fixture
def vit_b16() -> Clip:
    """The sizes of ViT-B/16, without its numbers."""
    with torch.device("meta"):
        return Clip(ClipConfig())


@pytest.mark.parametrize("method", [KgCoOp, CoOp])
def test_vit_b16_has_2048_parameters(vit_b16: Clip, method: type):
    assert sum(p.numel() for p in method(vit_b16).learned().values()) == 2_048


# --- the authors' numbers ---


@pytest.fixture
def whole(official) -> Batch:
    return Batch(official.images, official.labels)


@pytest.fixture
def golden(official) -> KgCoOp:
    settings = official.settings
    config = KgCoOpConfig(len(official.tensors["kgcoop/ctx"]), weight=float(settings["kgcoop_weight"]))
    method = KgCoOp(official.clip, config)
    method.load_learned({"ctx": official.tensors["kgcoop/ctx"]})
    method.set_classes(official.names, settings["dataset_template"])
    return method


def test_golden_start_and_prior(official, golden: KgCoOp):
    start = KgCoOp(official.clip, golden.config).ctx.detach()
    torch.testing.assert_close(start, official.tensors["kgcoop/ctx"], rtol=1e-6, atol=1e-6)
    expected = F.normalize(official.tensors["kgcoop/prior_text_features"], dim=-1)
    torch.testing.assert_close(F.normalize(golden.plain.features(), dim=-1), expected, rtol=1e-4, atol=1e-5)


def test_golden_logits_losses_gradient(official, whole: Batch, golden: KgCoOp):
    n = official.tensors
    logits = golden.logits(golden.features(whole.images))
    torch.testing.assert_close(logits, n["kgcoop/logits"], rtol=1e-4, atol=1e-4)
    losses = training_losses(golden, whole)
    assert list(losses) == ["ce", "knowledge"]
    score = losses["knowledge"] / float(official.settings["kgcoop_weight"])
    torch.testing.assert_close(score, n["kgcoop/score"], rtol=1e-4, atol=1e-6)
    loss = losses["ce"] + losses["knowledge"]
    torch.testing.assert_close(loss, n["kgcoop/loss"], rtol=1e-4, atol=1e-5)
    backward(golden, losses)
    scale = n["kgcoop/grad_ctx"].abs().max()
    torch.testing.assert_close(golden.ctx.grad / scale, n["kgcoop/grad_ctx"] / scale, rtol=1e-3, atol=1e-4)


def test_golden_three_steps(official, whole: Batch, golden: KgCoOp):
    lr, _, momentum, decay = official.numbers("sgd")
    optimiser = torch.optim.SGD([golden.ctx], lr=lr, momentum=momentum, weight_decay=decay)
    totals = []
    for _ in range(len(official.tensors["kgcoop/sgd3_losses"])):
        losses = training_losses(golden, whole)
        optimiser.zero_grad()
        backward(golden, losses)
        optimiser.step()
        totals.append(sum(losses.values()).detach())
    torch.testing.assert_close(
        torch.stack(totals), official.tensors["kgcoop/sgd3_losses"], rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(golden.ctx.detach(), official.tensors["kgcoop/sgd3_ctx"], rtol=1e-3, atol=1e-3)


# --- the knowledge term ---


def test_with_the_same_words_there_is_nothing_to_pull(tiny_clip: Clip):
    """At the start the prompt is the plain sentence, so texts are zero-shot CLIP's and the term is 0."""
    words = len(tiny_clip.tokenizer.words("a photo of a"))
    method, plain = KgCoOp(tiny_clip, KgCoOpConfig(tokens=words)), ZeroShot(tiny_clip)
    for one in (method, plain):
        one.set_classes(NAMES)
    torch.testing.assert_close(method.encode_text().detach(), plain.encode_text(), rtol=1e-4, atol=1e-5)
    assert training_losses(method, batch())["knowledge"].item() == pytest.approx(0.0, abs=1e-6)


def test_the_term_is_half_the_squared_distance_of_unit_vectors(tiny_clip: Clip):
    method = KgCoOp(tiny_clip, KgCoOpConfig(init=None, weight=3.0))
    method.set_classes(NAMES)
    plain = encode_names(tiny_clip, NAMES)
    learned = method.encode_text().detach()
    apart = learned / learned.norm(dim=1, keepdim=True) - plain / plain.norm(dim=1, keepdim=True)
    expected = 3.0 * (apart**2).sum(dim=1).mean() / 2
    assert expected > 0.01  # there is something to compare
    torch.testing.assert_close(
        training_losses(method, batch())["knowledge"].detach(), expected, rtol=1e-4, atol=1e-6
    )


def test_without_weight_it_learns_as_coop_does(tiny_clip: Clip):
    words = len(tiny_clip.tokenizer.words("a photo of a"))
    coop = CoOp(tiny_clip, CoOpConfig(init="a photo of a"))
    method, pulled = (KgCoOp(tiny_clip, KgCoOpConfig(words, weight=weight)) for weight in (0.0, 8.0))
    for one in (coop, method, pulled):
        one.set_classes(NAMES, "a drawing of {}.")
        backward(one, training_losses(one, batch()))
    torch.testing.assert_close(method.ctx.grad, coop.ctx.grad)
    assert not torch.allclose(pulled.ctx.grad, coop.ctx.grad, rtol=0.1)


def test_words_behind_the_learned_ones_stay(tiny_clip: Clip):
    """All words or a part of them learned: the sentence at the start is the same."""
    words = len(tiny_clip.tokenizer.words("a photo of a"))
    texts = []
    for tokens in (words, 2):
        method = KgCoOp(tiny_clip, KgCoOpConfig(tokens=tokens))
        method.set_classes(NAMES)
        texts.append(method.encode_text().detach())
    assert method.ctx.shape == (2, 64)
    torch.testing.assert_close(texts[1], texts[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("own", "given", "used"),
    [
        (None, None, "a photo of a {}."),
        (None, "a drawing of {}.", "a drawing of {}."),
        ("{} texture.", "a drawing of {}.", "{} texture."),
    ],
)
def test_whose_sentence_is_the_prior(tiny_clip: Clip, own: str | None, given: str | None, used: str):
    method = KgCoOp(tiny_clip, KgCoOpConfig(template=own))
    method.set_classes(NAMES, given)
    assert torch.equal(method.plain.features(), encode_names(tiny_clip, NAMES, used))


def test_the_prior_is_encoded_once_and_only_for_a_loss(tiny_clip: Clip, texts_read: list[TokenRows]):
    method = KgCoOp(tiny_clip)
    method.set_classes(NAMES)
    method.logits(method.features(batch().images))
    assert len(texts_read) == 1  # the learned texts
    training_losses(method, batch())
    assert len(texts_read) == 3  # both
    training_losses(method, batch())
    assert len(texts_read) == 4  # the learned ones alone
    learned = [(rows.slots >= 0).any().item() for rows in texts_read]
    assert learned.count(True) == 3
    method.set_classes(["cat", "zebra"])
    torch.testing.assert_close(method.plain.features(), encode_names(tiny_clip, ["cat", "zebra"]))


def test_a_name_too_long_for_either_sentence_is_refused_at_once(tiny_clip: Clip):
    room = tiny_clip.config.context
    method = KgCoOp(tiny_clip)
    method.set_classes(NAMES)
    before = method.encode_text().detach()
    fits_the_prompt = "x" * (room - 30)  # a token a letter
    method.set_classes([fits_the_prompt])
    method.set_classes(NAMES)
    with pytest.raises(InputError, match=r"makes a sentence of .* shorten the name"):
        method.set_classes(
            ["cat", fits_the_prompt], "a sentence that takes much more room than the prompt, {}."
        )
    with pytest.raises(InputError, match="shorten the name"):
        method.set_classes(["cat", "x" * room], "{}")
    assert method.names == tuple(NAMES)
    assert method.template is None
    assert torch.equal(method.encode_text(), before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokens": 0}, "kgcoop: tokens is 0"),
        ({"tokens": 99}, "kgcoop: tokens is 99, but init 'a photo of a' has"),
        ({"weight": -1.0}, "kgcoop: weight is -1.0: give zero or more"),
    ],
)
def test_settings_out_of_range_are_refused(tiny_clip: Clip, settings: dict[str, object], said: str):
    with pytest.raises(InputError, match=said):
        KgCoOp(tiny_clip, KgCoOpConfig(**settings))


def test_a_template_without_a_place_for_the_name_is_refused(tiny_clip: Clip):
    with pytest.raises(InputError, match="has 0 times"):
        KgCoOp(tiny_clip, KgCoOpConfig(template="a photo")).set_classes(NAMES)


def test_a_random_start_has_its_own_seed(tiny_clip: Clip):
    config = KgCoOpConfig(tokens=16, init=None)
    first, again, other = (KgCoOp(tiny_clip, config, stream(s, "init")).ctx for s in (1, 1, 2))
    assert first.shape == (16, 64)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.std().item() == pytest.approx(0.02, rel=0.1)


def test_a_checkpoint_of_the_authors_has_more_than_is_taken(tiny_clip: Clip):
    method, vectors = KgCoOp(tiny_clip), torch.randn(4, 64, generator=stream(0, "theirs"))
    unused = {"token_prefix": torch.zeros(3, 1, 64), "meta_net.linear1.weight": torch.zeros(64, 64)}
    method.load_official({"state_dict": unused | {"ctx": vectors.half()}})
    torch.testing.assert_close(method.ctx.detach(), vectors, rtol=1e-3, atol=1e-3)
    method.load_official({"prompt_learner.ctx": vectors})
    assert torch.equal(method.ctx, vectors)
    with pytest.raises(InputError, match=r"lacks prompt_learner\.ctx"):
        method.load_official({"state_dict": unused})
