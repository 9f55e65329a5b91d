"""CoCoOp: against the authors' code, against a slow loop with plain prompts, its memory, FVG-PT over it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.clip.rows import TokenRows
from foveate.errors import InputError
from foveate.methods.cocoop import CoCoOp, CoCoOpConfig
from foveate.methods.coop import CoOp, CoOpConfig
from foveate.methods.frozen import extract, training_losses
from foveate.methods.fvgpt import FvgPt
from foveate.seeds import stream
from foveate.train.together import backward
from foveate.types import Batch

NAMES = ["cat", "old phone", "dog"]


def batch(number: int = 3) -> Batch:
    g = stream(0, "pictures")
    images = torch.randn(number, 3, 32, 32, generator=g)
    masks = (torch.rand(number, 1, 32, 32, generator=g) > 0.5).float()
    return Batch(images, torch.arange(number) % len(NAMES), masks, masks.mean((1, 2, 3)))


@pytest.fixture
def method(tiny_clip: Clip) -> CoCoOp:
    """With a meta-net that says something: a tenth of a word or so."""
    method = CoCoOp(tiny_clip)
    with torch.no_grad():
        for parameter in method.meta_net.parameters():
            parameter.normal_(generator=stream(0, "meta"))
    method.set_classes(NAMES)
    return method


def answer(method: CoCoOp | FvgPt | CoOp, images: Tensor) -> Tensor:
    with torch.no_grad():
        return method.logits(method.features(images))


def test_vit_b16_has_35360_parameters():
    with torch.device("meta"):
        clip = Clip(ClipConfig())
    shapes = {name: tuple(p.shape) for name, p in CoCoOp(clip).learned().items()}
    assert shapes == {
        "ctx": (4, 512),
        "meta_net.linear1.weight": (32, 512),
        "meta_net.linear1.bias": (32,),
        "meta_net.linear2.weight": (512, 32),
        "meta_net.linear2.bias": (512,),
    }
    assert sum(p.numel() for p in CoCoOp(clip).learned().values()) == 35_360


# --- the authors' numbers ---

# Computed with trainers/cocoop.py of https://github.com/muzairkhattak/multimodal-prompt-learning (69bce21) in
# float32, over tests/golden/tiny_clip.py with seed 11; pictures and meta-net as in `authors_case`.
LOGITS = [
    [0.451186, 0.335660, 0.141690, -4.022000],
    [9.489252, 6.849990, 4.381350, 2.976723],
    [-6.023513, -6.052469, -1.422472, -1.696589],
]
NORMS = {
    "ctx": 3.2971499,
    "meta_net.linear1.weight": 3.8371952,
    "meta_net.linear1.bias": 3.4287343,
    "meta_net.linear2.weight": 5.1944289,
    "meta_net.linear2.bias": 3.9624741,
}
FIRST = {
    "ctx": [-0.14513542, -0.13430485, 0.04712895],
    "meta_net.linear1.weight": [-0.07745185, 0.15597565, -0.00737475],
    "meta_net.linear1.bias": [-1.02408886, -2.34401846, 1.67926442],
    "meta_net.linear2.weight": [-0.04627796, 0.05202886, -0.07205690],
    "meta_net.linear2.bias": [-0.03338810, -0.41474050, -0.01580113],
}
LOSSES = [1.4203978, 1.2678202, 1.0260274]


@pytest.fixture(scope="module")
def authors_clip() -> Clip:
    path = Path(__file__).parents[1] / "golden" / "tiny_clip.py"
    spec = importlib.util.spec_from_file_location("cocoop_tiny_clip", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Clip.from_state_dict(module.tiny_clip_state_dict(11))


@pytest.fixture
def authors_case(authors_clip: Clip) -> tuple[CoCoOp, Batch]:
    method = CoCoOp(authors_clip)
    method.set_classes(["face", "leopard", "sea_horse", "wild cat"])
    numbers = np.random.RandomState(2011)
    with torch.no_grad():
        for parameter in method.meta_net.parameters():
            parameter.copy_(torch.from_numpy(0.5 * numbers.standard_normal(tuple(parameter.shape))))
    images = np.random.RandomState(1011).standard_normal((3, 3, 32, 32)).astype(np.float32)
    return method, Batch(torch.from_numpy(images), torch.arange(3))


def test_the_authors_logits_and_gradients(authors_case: tuple[CoCoOp, Batch]):
    method, whole = authors_case
    torch.testing.assert_close(answer(method, whole.images), torch.tensor(LOGITS), rtol=1e-4, atol=1e-4)
    backward(method, training_losses(method, whole))
    assert list(NORMS) == list(method.learned())
    for name, parameter in method.learned().items():
        assert parameter.grad.norm().item() == pytest.approx(NORMS[name], rel=1e-3), name
        scale = parameter.grad.abs().max().item()
        assert parameter.grad.flatten()[:3].tolist() == pytest.approx(FIRST[name], rel=1e-3, abs=1e-3 * scale)


def test_the_authors_three_steps(authors_case: tuple[CoCoOp, Batch]):
    method, whole = authors_case
    learned = list(method.learned().values())
    optimiser = torch.optim.SGD(learned, lr=0.002, momentum=0.9, weight_decay=5e-4)
    losses = []
    for _ in LOSSES:
        loss = training_losses(method, whole)["ce"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == pytest.approx(LOSSES, rel=1e-3)


def test_a_checkpoint_of_the_authors(method: CoCoOp, tiny_clip: Clip):
    theirs = {f"prompt_learner.{name}": p.detach().clone() for name, p in method.learned().items()}
    other = CoCoOp(tiny_clip, generator=stream(9, "init"))
    other.set_classes(NAMES)
    other.load_official({"state_dict": theirs | {"prompt_learner.token_prefix": torch.zeros(3, 1, 64)}})
    assert torch.equal(answer(other, batch().images), answer(method, batch().images))


# --- a slow loop with plain prompts ---


def slowly(method: CoCoOp, images: Tensor) -> Tensor:
    """One sentence at a time, each built word for word, with all its words kept for the gradient."""
    clip, net = method.clip, method.meta_net
    table, tokenizer = clip.text.token.weight, clip.tokenizer
    rows = []
    for picture in images:
        f = clip.vision(picture[None])[0]
        f = f / f.norm()
        hidden = (net.linear1.weight @ f + net.linear1.bias).clamp_min(0)
        shift = net.linear2.weight @ hidden + net.linear2.bias
        for name in method.names:
            words = [tokenizer.sot, *method.words, *tokenizer.words(f"{name}."), tokenizer.eot]
            embedded = table[words]
            prompt = torch.cat([embedded[:1], *[(v + shift)[None] for v in method.ctx], embedded[1:]])
            tokens = clip.text.encode(prompt[None])[0]
            g = clip.text.ln_final(tokens[-1]) @ clip.text.proj
            rows.append(clip.logit_scale.exp() * f @ (g / g.norm()))
    return torch.stack(rows).view(len(images), len(method.names))


def test_logits_and_gradients_are_those_of_the_slow_loop(method: CoCoOp):
    whole, learned = batch(), list(method.learned().values())
    expected = slowly(method, whole.images)
    logits = method.logits(method.features(whole.images))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    ours = torch.autograd.grad(training_losses(method, whole)["ce"], learned)
    theirs = torch.autograd.grad(F.cross_entropy(expected, whole.labels), learned)
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * other.abs().max().item())


def test_each_picture_is_answered_by_itself(method: CoCoOp):
    images = batch(4).images
    together = answer(method, images)
    for i in range(4):
        torch.testing.assert_close(answer(method, images[i : i + 1]), together[i : i + 1])
    texts = method.features(images).text
    assert texts.shape == (4, len(NAMES), 32)
    assert not torch.allclose(texts[0], texts[1], atol=1e-2)


def test_a_meta_net_that_says_nothing_leaves_coop(tiny_clip: Clip):
    words = len(tiny_clip.tokenizer.words("a photo of a"))
    method, coop = CoCoOp(tiny_clip, CoCoOpConfig(words)), CoOp(tiny_clip, CoOpConfig(init="a photo of a"))
    for one in (method, coop):
        one.set_classes(NAMES)
    images = batch().images
    expected = answer(coop, images)
    assert not torch.allclose(answer(method, images), expected, atol=1e-2)
    with torch.no_grad():
        for parameter in method.meta_net.linear2.parameters():
            parameter.zero_()
    torch.testing.assert_close(answer(method, images), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(method.encode_text(), coop.encode_text())  # what no picture has shifted


def test_no_picture(method: CoCoOp):
    none = torch.empty(0, 3, 32, 32)
    features = method.features(none)
    assert features.text.shape == (0, len(NAMES), 32)
    assert method.logits(features).shape == (0, len(NAMES))


def test_names_must_be_set_first(tiny_clip: Clip):
    with pytest.raises(RuntimeError, match="set_classes first"):
        CoCoOp(tiny_clip).features(batch().images)


# --- memory ---


def kept(method: CoCoOp, whole: Batch) -> int:
    """Return how many numbers a loss keeps for its backward pass."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        training_losses(method, whole)
    return sum(sizes)


def test_a_picture_more_keeps_less_than_its_texts(method: CoCoOp):
    """Of a text one block alone would keep its queries, keys and values: 3 x classes x tokens x width."""
    few, many = (Batch(b.images, b.labels, frozen=extract(method, b)) for b in (batch(2), batch(6)))
    block = 3 * len(NAMES) * 8 * 64
    assert (kept(method, many) - kept(method, few)) / 4 < block / 4


def test_texts_are_encoded_once_without_gradients_and_twice_with(method: CoCoOp, texts_read: list[TokenRows]):
    answer(method, batch().images)
    assert len(texts_read) == 3
    losses = training_losses(method, batch())
    assert len(texts_read) == 6
    backward(method, losses)
    assert len(texts_read) == 9
    assert all(len(rows.lengths) == len(NAMES) for rows in texts_read)


def test_other_names_between_a_loss_and_its_gradient_do_no_harm(method: CoCoOp):
    expected = torch.autograd.grad(training_losses(method, batch())["ce"], method.ctx)[0]
    loss = training_losses(method, batch())["ce"]
    method.set_classes(["tac", "enohp dlo", "god"])
    assert torch.equal(torch.autograd.grad(loss, method.ctx)[0], expected)


# --- start and settings ---


def test_a_start_is_pytorchs_and_its_seeds_own(tiny_clip: Clip):
    first, again, other = (CoCoOp(tiny_clip, generator=stream(s, "init")).learned() for s in (1, 1, 2))
    for name, start in first.items():
        assert torch.equal(start, again[name])
        if name != "ctx":
            assert not torch.equal(start, other[name])
    # D = 32, so 2 inside: uniform in ± 1 / sqrt(32), and in ± 1 / sqrt(2)
    assert 0.9 * 32**-0.5 < first["meta_net.linear1.weight"].abs().max() <= 32**-0.5
    assert 0.9 * 2**-0.5 < first["meta_net.linear2.weight"].abs().max() <= 2**-0.5


def test_vectors_start_from_words_or_from_noise(tiny_clip: Clip):
    words = tiny_clip.tokenizer.words("a photo of a")
    assert torch.equal(CoCoOp(tiny_clip).ctx, tiny_clip.text.token.weight[words[:4]])
    ctx = CoCoOp(tiny_clip, CoCoOpConfig(tokens=16, init=None)).ctx
    assert ctx.std().item() == pytest.approx(0.02, rel=0.1)
    with pytest.raises(InputError, match="cocoop: tokens is 99, but init"):
        CoCoOp(tiny_clip, CoCoOpConfig(tokens=99))
    with pytest.raises(InputError, match="cocoop: tokens is 0"):
        CoCoOp(tiny_clip, CoCoOpConfig(tokens=0))


# --- FVG-PT over it ---


def test_fvgpt_compares_each_view_with_its_own_texts(method: CoCoOp):
    whole, guided = batch(), FvgPt(method)
    views = guided.views(whole)
    cut = whole.images * whole.masks  # its background at 0, the mean colour of a normalised picture
    assert views.features.text.shape == (3, len(NAMES), 32)
    torch.testing.assert_close(views.full, answer(method, whole.images))
    torch.testing.assert_close(views.foreground, answer(method, cut))
    with torch.no_grad():
        borrowed = method.logits(type(views.features)(method.encode_images(cut), views.features.text))
    assert not torch.allclose(views.foreground, borrowed, atol=1e-2)


def test_fvgpt_adapts_every_pictures_texts(method: CoCoOp):
    images, guided = batch().images, FvgPt(method)
    before = answer(guided, images)
    torch.testing.assert_close(before, answer(method, images), rtol=0.1, atol=0.1)  # adapters start small
    with torch.no_grad():
        for parameter in guided.guidance.text_adapter.parameters():
            parameter.add_(0.1)
    together = answer(guided, images)
    assert not torch.allclose(together, before, atol=1e-2)
    for i in range(3):
        torch.testing.assert_close(
            answer(guided, images[i : i + 1]), together[i : i + 1], rtol=1e-4, atol=1e-4
        )


def test_fvgpt_trains_over_it_and_leaves_it_alone(method: CoCoOp):
    guided = FvgPt(method)
    losses = training_losses(guided, batch())
    assert set(losses) == {"gate", "base", "distill", "prior", "prior_kl"}
    backward(guided, losses)
    assert all(p.grad is not None for p in guided.trainable().values())
    assert all(p.grad is None for p in method.parameters())
