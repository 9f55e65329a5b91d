"""ProGrad: the projection by hand, the zero-shot target, the start, and what a step does."""

import pytest
import torch
from torch.nn import functional as F

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.clip.rows import TokenRows
from foveate.errors import InputError
from foveate.methods.coop import CoOp, CoOpConfig
from foveate.methods.frozen import training_losses
from foveate.methods.fvgpt import FvgPt
from foveate.methods.prograd import ProGrad, ProGradConfig, aligned_gradient
from foveate.methods.zeroshot import ZeroShot, ZeroShotConfig
from foveate.seeds import stream
from foveate.train.together import backward
from foveate.types import Batch

NAMES = ["cat", "dog", "phone"]


def batch(number: int = 3) -> Batch:
    g = stream(0, "pictures")
    images = torch.randn(number, 3, 32, 32, generator=g)
    masks = (torch.rand(number, 1, 32, 32, generator=g) > 0.5).float()
    return Batch(images, torch.arange(number) % len(NAMES), masks, masks.mean((1, 2, 3)))


def made(clip: Clip, **settings: object) -> ProGrad:
    method = ProGrad(clip, ProGradConfig(**settings))
    method.set_classes(NAMES)
    return method


def test_vit_b16_has_8192_parameters():
    with torch.device("meta"):
        clip = Clip(ClipConfig())
    assert sum(p.numel() for p in ProGrad(clip).learned().values()) == 8_192


# --- the projection ---


@pytest.mark.parametrize(
    ("task", "general", "weight", "expected"),
    [
        ([3.0, 4.0], [-2.0, 0.0], 1.0, [0.0, 4.0]),  # against the first axis: what lies on it goes
        ([3.0, 4.0], [-2.0, 0.0], 0.5, [1.5, 4.0]),  # half of it
        ([3.0, 4.0], [-2.0, 0.0], 0.0, [3.0, 4.0]),
        ([3.0, 4.0], [2.0, 0.0], 1.0, [3.0, 4.0]),  # they agree
        ([3.0, 4.0], [-4.0, 3.0], 1.0, [3.0, 4.0]),  # at a right angle
        ([3.0, 4.0], [0.0, 0.0], 1.0, [3.0, 4.0]),  # nothing to keep
        ([3.0, 4.0], [-3.0, -4.0], 1.0, [0.0, 0.0]),  # straight against it: no step
        ([1.0, 0.0], [-3.0, 4.0], 1.0, [0.64, 0.48]),  # u = (-0.6, 0.8), <g, u> = -0.6
    ],
)
def test_the_projection_by_hand(
    task: list[float], general: list[float], weight: float, expected: list[float]
):
    mended = aligned_gradient(torch.tensor(task), torch.tensor(general), weight)
    torch.testing.assert_close(mended, torch.tensor(expected))


def test_a_mended_gradient_is_at_a_right_angle_to_the_general_one():
    for seed in range(20):
        task, general = torch.randn(2, 16, 64, generator=stream(seed, "gradients"), dtype=torch.float64)
        mended, along = aligned_gradient(task, general), (task * general).sum()
        if along < 0:
            assert (mended * general).sum().abs() < 1e-9 * task.norm() * general.norm()
            assert not torch.equal(mended, task)
        else:
            assert torch.equal(mended, task)
        torch.testing.assert_close(aligned_gradient(task, 1e-3 * general), mended)  # its length is nothing


def gradients(method: ProGrad, losses: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [torch.autograd.grad(loss, method.ctx, retain_graph=True)[0] for loss in losses.values()]


def conflicting(clip: Clip) -> tuple[ProGrad, Batch]:
    """A method and a batch whose two gradients point apart, by labels that zero-shot CLIP finds unlikely."""
    method, whole = made(clip), batch()
    unlikely = method.prior_logits(method.encode_images(whole.images)).argmin(dim=-1)
    return method, Batch(whole.images, unlikely)


def test_a_step_takes_the_mended_gradient(tiny_clip: Clip):
    method, whole = conflicting(tiny_clip)
    losses = training_losses(method, whole)
    g_ce, g_kl = gradients(method, losses)
    assert (g_ce * g_kl).sum() < 0
    unit = g_kl / g_kl.norm()
    expected = g_ce - (g_ce * unit).sum() * unit
    backward(method, losses)
    torch.testing.assert_close(method.ctx.grad, expected, rtol=1e-4, atol=1e-6)
    backward(method, training_losses(method, whole))  # gradients add up, as those of any backward pass
    torch.testing.assert_close(method.ctx.grad, 2 * expected, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in method.clip.parameters())


def test_where_they_agree_the_step_is_that_of_coop(tiny_clip: Clip):
    method, whole = made(tiny_clip), batch()
    likely = method.prior_logits(method.encode_images(whole.images)).argmax(dim=-1)
    losses = training_losses(method, Batch(whole.images, likely))
    g_ce, g_kl = gradients(method, losses)
    assert (g_ce * g_kl).sum() > 0
    backward(method, losses)
    torch.testing.assert_close(method.ctx.grad, g_ce)


def test_the_divergence_itself_is_not_minimised(tiny_clip: Clip):
    """Without the projection nothing of it is left: the step is CoOp's, whatever the divergence is."""
    method = made(tiny_clip, weight=0.0)
    coop = CoOp(tiny_clip, CoOpConfig(tokens=16))
    coop.load_learned({"ctx": method.ctx.detach()})
    coop.set_classes(NAMES)
    for one in (method, coop):
        backward(one, training_losses(one, batch()))
    torch.testing.assert_close(method.ctx.grad, coop.ctx.grad)


# --- the two terms ---


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_terms_by_another_road(tiny_clip: Clip, temperature: float):
    method, plain, whole = made(tiny_clip, temperature=temperature), ZeroShot(tiny_clip), batch()
    plain.set_classes(NAMES)
    losses = training_losses(method, whole)
    assert list(losses) == ["ce", "kl"]
    with torch.no_grad():
        own = method.logits(method.features(whole.images))
        target = (plain.logits(plain.features(whole.images)) / temperature).softmax(dim=-1)
    torch.testing.assert_close(losses["ce"].detach(), F.cross_entropy(own, whole.labels))
    expected = F.kl_div((own / temperature).log_softmax(dim=-1), target, reduction="batchmean")
    assert expected > 1e-3
    torch.testing.assert_close(losses["kl"].detach(), expected, rtol=1e-4, atol=1e-6)


def test_the_divergence_is_zero_where_it_answers_as_zero_shot_clip(tiny_clip: Clip):
    words = len(tiny_clip.tokenizer.words("a photo of a"))
    losses = training_losses(
        made(tiny_clip, tokens=words), batch()
    )  # no vector but the words: the plain sentence
    assert losses["kl"].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("own", "given", "used"),
    [(None, None, "a photo of a {}."), (None, "one {}.", "one {}."), ("two {}.", "one {}.", "two {}.")],
)
def test_whose_sentence_is_the_target(tiny_clip: Clip, own: str | None, given: str | None, used: str):
    method, plain = ProGrad(tiny_clip, ProGradConfig(template=own)), ZeroShot(tiny_clip, ZeroShotConfig(used))
    for one in (method, plain):
        one.set_classes(NAMES, given)
    features = plain.features(batch().images)
    assert torch.equal(method.prior_logits(features.image), plain.logits(features))


def test_the_target_is_encoded_once_and_only_for_a_loss(tiny_clip: Clip, texts_read: list[TokenRows]):
    method = made(tiny_clip)
    method.logits(method.features(batch().images))
    assert len(texts_read) == 1
    training_losses(method, batch())
    training_losses(method, batch())
    assert len(texts_read) == 1 + 2 + 1
    learned = [(rows.slots >= 0).any().item() for rows in texts_read]
    assert learned.count(True) == 1 + 2
    method.set_classes(["cat", "zebra"])
    assert method.prior_logits(method.encode_images(batch().images)).shape == (3, 2)


# --- the start ---


def test_the_words_stand_last_and_zeros_before_them(tiny_clip: Clip):
    words = tiny_clip.tokenizer.words("a photo of a")
    ctx = ProGrad(tiny_clip).ctx.detach()
    assert ctx.shape == (16, 64)
    assert torch.equal(ctx[-len(words) :], tiny_clip.text.token.weight[words])
    assert not ctx[: -len(words)].any()


def test_a_random_start_has_its_own_seed(tiny_clip: Clip):
    config = ProGradConfig(init=None)
    first, again, other = (ProGrad(tiny_clip, config, stream(s, "init")).ctx for s in (1, 1, 2))
    assert first.shape == (16, 64)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokens": 2}, "prograd: init 'a photo of a' has .* tokens, but tokens is 2"),
        ({"tokens": 0, "init": None}, "prograd: tokens is 0"),
        ({"init": " "}, "prograd: init has no words"),
        ({"weight": -1.0}, "prograd: weight is -1.0: give zero or more"),
        ({"temperature": 0.0}, "prograd: temperature is 0.0: give a number above zero"),
    ],
)
def test_settings_out_of_range_are_refused(tiny_clip: Clip, settings: dict[str, object], said: str):
    with pytest.raises(InputError, match=said):
        ProGrad(tiny_clip, ProGradConfig(**settings))


def test_a_name_too_long_for_the_target_is_refused_at_once(tiny_clip: Clip):
    method = made(tiny_clip)
    before = method.encode_text().detach()
    name = "x" * (tiny_clip.config.context - 40)  # a token a letter
    method.set_classes([name])
    method.set_classes(NAMES)
    with pytest.raises(InputError, match=r"makes a sentence of .* shorten the name"):
        method.set_classes([name], "a sentence that takes much more room than sixteen vectors, {}.")
    assert method.names == tuple(NAMES)
    assert torch.equal(method.encode_text(), before)


# --- beside others ---


def test_a_plugin_over_it_trains_on_the_sum_of_its_own_terms(tiny_clip: Clip):
    guided = FvgPt(made(tiny_clip))
    losses = training_losses(guided, batch())
    expected = torch.autograd.grad(
        sum(losses.values()), list(guided.trainable().values()), retain_graph=True, allow_unused=True
    )
    backward(guided, losses)
    for parameter, gradient in zip(guided.trainable().values(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert guided.backbone.ctx.grad is None


def test_a_checkpoint_of_the_authors(tiny_clip: Clip):
    method, vectors = ProGrad(tiny_clip), torch.randn(16, 64, generator=stream(0, "theirs"))
    method.load_official({"state_dict": {"ctx": vectors, "token_prefix": torch.zeros(3, 1, 64)}})
    assert torch.equal(method.ctx, vectors)
