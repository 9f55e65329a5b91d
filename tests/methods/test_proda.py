"""ProDA: its sizes, its mean classifier, its bound against draws, and which prompts a step takes."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.clip.rows import TokenRows
from foveate.errors import InputError
from foveate.methods.coop import CoOp, CoOpConfig
from foveate.methods.frozen import training_losses
from foveate.methods.proda import Proda, ProdaConfig, positions, upper_bound
from foveate.seeds import stream
from foveate.train.recipe import recipe_for
from foveate.types import Batch

NAMES = ["cat", "dog", "old photo"]
SMALL = ProdaConfig(prompts=8, tokens=4, batch=2)


def batch(step: int = 0) -> Batch:
    images = torch.randn(4, 3, 32, 32, generator=stream(0, "pictures"))
    return Batch(images, torch.tensor([2, 0, 1, 1]), step=step)


@pytest.fixture
def proda(tiny_clip: Clip) -> Proda:
    method = Proda(tiny_clip, SMALL)
    with torch.no_grad():
        method.ctx.normal_(0.0, 0.5, generator=stream(1, "far from the start"))
    method.set_classes(NAMES)
    return method


def as_coop(method: Proda, prompt: int) -> CoOp:
    """One prompt as a CoOp of its own."""
    coop = CoOp(method.clip, CoOpConfig(tokens=method.config.tokens, position=method.positions[prompt]))
    with torch.no_grad():
        coop.ctx.copy_(method.ctx[prompt])
    coop.set_classes(NAMES)
    return coop


def test_it_answers_with_the_mean_of_its_prompts(proda: Proda):
    with torch.no_grad():
        each = [as_coop(proda, i).encode_text() for i in range(8)]
        expected = sum(text / text.norm(dim=-1, keepdim=True) for text in each) / 8
        torch.testing.assert_close(proda.encode_text(), expected, rtol=1e-5, atol=1e-6)


def test_names_stand_before_amid_and_behind():
    assert positions(32) == ("front",) * 8 + ("middle",) * 8 + ("end",) * 16
    assert positions(3) == ("end",) * 3


def slow_bound(image: Tensor, texts: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Picture by picture and class by class, each variance on its own."""
    prompts, classes = texts.shape[:2]
    rows = []
    for f, y in zip(image, labels.tolist(), strict=True):
        f, row = f / f.norm(), []
        for c in range(classes):
            apart = texts[:, c] - texts[:, y]
            apart = apart - apart.mean(0)
            variance = (f**2 * (apart**2).sum(0) / (prompts + 1)).sum()
            row.append(scale * f @ texts[:, c].mean(0) + scale**2 / 2 * variance)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_losses_are_those_of_the_equations(proda: Proda):
    chosen, pictures = proda.prompts_of(5), batch(5)
    with torch.no_grad():
        texts = torch.stack([F.normalize(as_coop(proda, i).encode_text(), dim=-1) for i in chosen])
        image = proda.clip.vision(pictures.images)
        bound = slow_bound(image, texts, pictures.labels, proda.clip.logit_scale.exp().item())
    losses = training_losses(proda, pictures)
    expected = -bound.log_softmax(-1)[torch.arange(4), pictures.labels].mean().item()
    assert losses["ce"].item() == pytest.approx(expected, rel=1e-4)
    assert losses["orthogonal"].item() == pytest.approx(0.1 * slow_overlap(proda), rel=1e-4)


@torch.no_grad()
def slow_overlap(method: Proda) -> float:
    clip, tokenizer, texts = method.clip, method.clip.tokenizer, []
    for vectors in method.ctx:
        ends = clip.text.token(torch.tensor([tokenizer.sot, *tokenizer.words("."), tokenizer.eot]))
        prompt = torch.cat([ends[:1], vectors, ends[1:]])[None]
        text = clip.text.ln_final(clip.text.encode(prompt)[0, -1]) @ clip.text.proj
        texts.append(text / text.norm())
    pairs = [abs((a @ b).item()) for i, a in enumerate(texts) for j, b in enumerate(texts) if i != j]
    return sum(pairs) / len(pairs)


def test_gradients_are_those_of_the_slow_bound():
    g = stream(3, "random")
    image, texts = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((4, 6), (5, 3, 6)))
    texts = F.normalize(texts, dim=-1).requires_grad_()
    labels, scale = torch.tensor([0, 2, 1, 1]), torch.tensor(3.0, dtype=torch.float64)
    ours, theirs = upper_bound(image[None], texts, labels, scale), slow_bound(image, texts, labels, 3.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    found = [torch.autograd.grad(F.cross_entropy(one, labels), texts)[0] for one in (ours, theirs)]
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_it_bounds_the_expected_cross_entropy_from_above():
    """Class texts drawn from a normal distribution with independent channels, half a million times."""
    g, scale, classes, dim = stream(2, "draws"), 4.0, 3, 5
    mean, spread = (torch.randn(classes, dim, generator=g) for _ in range(2))
    spread = 0.3 * spread.abs()
    f, y = F.normalize(torch.randn(dim, generator=g), dim=0), 1
    drawn = mean + spread * torch.randn(500_000, classes, dim, generator=g)
    expected = -(scale * drawn @ f).log_softmax(-1)[:, y].mean().item()
    apart = (f**2 * (spread**2 + spread[y] ** 2)).sum(-1)
    apart[y] = 0
    bound = -(scale * mean @ f + scale**2 / 2 * apart).log_softmax(-1)[y].item()
    plain = -(scale * mean @ f).log_softmax(-1)[y].item()
    assert plain < expected < bound
    texts = drawn[:20_000]  # what a bound of many prompts comes to
    ours = upper_bound(f[None, None], texts, torch.tensor([y]), torch.tensor(scale))
    assert F.cross_entropy(ours, torch.tensor([y])).item() == pytest.approx(bound, rel=0.02)


def test_prompts_that_say_the_same_leave_plain_cross_entropy(tiny_clip: Clip):
    method = Proda(tiny_clip, SMALL)
    with torch.no_grad():
        method.ctx.copy_(method.ctx[:1].expand_as(method.ctx))
    method.positions = ("end",) * 8
    method.set_classes(NAMES)
    coop = as_coop(method, 0)
    losses = training_losses(method, batch())
    torch.testing.assert_close(losses["ce"], training_losses(coop, batch())["ce"], rtol=1e-4, atol=1e-4)
    assert losses["orthogonal"].item() == pytest.approx(0.1)  # each the same as each other


def test_all_prompts_have_their_turn_in_an_order_of_the_seeds_own(tiny_clip: Clip):
    method = Proda(tiny_clip, SMALL)
    turns = [[method.prompts_of(step) for step in range(4 * turn, 4 * turn + 4)] for turn in range(3)]
    for turn in turns:
        assert sorted(number for some in turn for number in some) == list(range(8))
    assert turns[0] != turns[1]
    assert Proda(tiny_clip, SMALL).prompts_of(6) == turns[1][2]
    other = Proda(tiny_clip, SMALL, stream(7, "init"))
    assert [other.prompts_of(step) for step in range(4)] != turns[0]


def test_gradients_reach_the_prompts_and_nothing_else(proda: Proda):
    chosen = proda.prompts_of(0)
    training_losses(proda, batch())["ce"].backward()
    moved = proda.ctx.grad.abs().amax((1, 2)) > 0
    assert [i for i in range(8) if moved[i]] == sorted(chosen)
    proda.ctx.grad = None
    training_losses(proda, batch())["orthogonal"].backward()
    assert (proda.ctx.grad.abs().amax((1, 2)) > 0).all()
    assert all(p.grad is None for p in proda.clip.parameters())


def test_a_loss_reads_the_prompts_of_its_step_and_the_nameless_ones(
    proda: Proda, texts_read: list[TokenRows]
):
    training_losses(proda, batch())
    assert [len(rows.lengths) for rows in texts_read] == [3, 3, 8]
    texts_read.clear()
    with torch.no_grad():
        for _ in range(2):
            proda.text_features()
    assert len(texts_read) == 8  # once each, and then kept


def test_parameter_counts():
    with torch.device("meta"):
        clip = Clip(ClipConfig())
    learned = Proda(clip).learned()
    assert {name: list(p.shape) for name, p in learned.items()} == {"ctx": [32, 16, 512]}
    assert math.prod(learned["ctx"].shape) == 262_144


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompts": 1}, "proda: prompts is 1"),
        ({"batch": 1}, "proda: batch is 1"),
        ({"batch": 33}, "give 2 to 32"),
        ({"tokens": 0}, "proda: tokens is 0"),
        ({"weight": -1.0}, "proda: weight is -1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], said: str):
    with pytest.raises(InputError, match=said):
        ProdaConfig(**settings)


def test_names_must_be_set_first(tiny_clip: Clip):
    with pytest.raises(RuntimeError, match="set_classes first"):
        Proda(tiny_clip, SMALL).encode_text()


def test_the_recipe():
    recipe = recipe_for("proda")
    assert (recipe.epochs, recipe.batch_size, recipe.optimiser, recipe.lr) == (100, 4, "sgd", 0.001)
