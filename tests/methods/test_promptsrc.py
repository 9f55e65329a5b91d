"""PromptSRC against the authors' code, and on its own: sizes, frozen targets, terms."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.config import ClipConfig
from foveate.clip.model import Block, Clip
from foveate.clip.rows import CHUNK, TokenRows, encode_names
from foveate.clip.templates import IMAGENET_TEMPLATES
from foveate.errors import InputError
from foveate.methods.base import align
from foveate.methods.frozen import extract, training_losses
from foveate.methods.promptsrc import PromptSRC, PromptSRCConfig
from foveate.seeds import stream
from foveate.train.recipe import recipe_for
from foveate.types import Batch, Features

NAMES = ["cat", "dog", "old phone"]


def close(mine: Tensor, theirs: Tensor, rel: float = 1e-4) -> None:
    """Compare relative to the largest entry."""
    assert mine.shape == theirs.shape
    assert (mine.detach() - theirs).abs().max() <= rel * theirs.abs().max()


# --- against the authors' code ---


@pytest.fixture
def whole(official) -> Batch:
    return Batch(official.images, official.labels)


@pytest.fixture
def golden(official) -> PromptSRC:
    s = official.settings
    config = PromptSRCConfig(
        tokens=int(s["promptsrc_text_tokens"]),
        vision_tokens=int(s["promptsrc_vision_tokens"]),
        text_depth=int(s["promptsrc_depth"]),
        vision_depth=int(s["promptsrc_depth"]),
        text_weight=float(s["promptsrc_text_weight"]),
        image_weight=float(s["promptsrc_image_weight"]),
    )
    method = PromptSRC(official.clip, config)
    names, prefix = official.tensors, "promptsrc/param/"
    method.load_official({key.removeprefix(prefix): names[key] for key in names if key.startswith(prefix)})
    method.set_classes(official.names)
    return method


def losses_of(method: PromptSRC, batch: Batch) -> Tensor:
    return torch.stack(list(training_losses(method, batch).values())).sum()


def test_golden_logits_and_terms(official, golden: PromptSRC, whole: Batch):
    n = official.tensors
    close(golden.logits(golden.features(whole.images)), n["promptsrc/logits"])
    clip = Features(extract(golden, whole)["clip"], golden.clip_text())
    close(align(clip, golden.clip.scale), n["promptsrc/zero_shot_logits"])
    losses = training_losses(golden, whole)
    assert list(losses) == ["ce", "text", "image", "logits"]
    for name, theirs in (
        ("ce", "ce"),
        ("text", "scl_text"),
        ("image", "scl_image"),
        ("logits", "scl_logits"),
    ):
        close(losses[name], n[f"promptsrc/{theirs}"])
    close(losses_of(golden, whole), n["promptsrc/loss"])


def test_golden_gradients(official, golden: PromptSRC, whole: Batch):
    losses_of(golden, whole).backward()
    compared = 0
    for ours, theirs in golden.official_names().items():
        gradient = golden.learned()[ours].grad
        for k, name in enumerate([theirs] if isinstance(theirs, str) else theirs):
            close(
                gradient if isinstance(theirs, str) else gradient[k],
                official.tensors[f"promptsrc/grad/{name}"],
                1e-3,
            )
            compared += 1
    assert compared == sum(key.startswith("promptsrc/grad/") for key in official.tensors)


def test_golden_three_steps(official, golden: PromptSRC, whole: Batch):
    _, lr, momentum, decay = official.numbers("sgd")
    optimiser = torch.optim.SGD(golden.trainable().values(), lr=lr, momentum=momentum, weight_decay=decay)
    losses = []
    for _ in official.tensors["promptsrc/sgd3_losses"]:
        loss = losses_of(golden, whole)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    close(torch.stack(losses), official.tensors["promptsrc/sgd3_losses"], 1e-3)
    close(golden.logits(golden.features(whole.images)), official.tensors["promptsrc/sgd3_logits"], 1e-3)


# --- sizes and recipe ---


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (PromptSRCConfig(), 46_080),
        (PromptSRCConfig(text_depth=3, vision_depth=3), 15_360),
        (PromptSRCConfig(text_depth=1, vision_depth=0), 2_048),
    ],
)
def test_parameter_counts(config: PromptSRCConfig, total: int):
    with torch.device("meta"):
        clip = Clip(ClipConfig())
    learned = PromptSRC(clip, config).learned()
    assert sum(p.numel() for p in learned.values()) == total
    assert all(p.numel() > 0 for p in learned.values())


def test_the_recipe_is_the_protocols():
    recipe = recipe_for("promptsrc")
    assert (recipe.epochs, recipe.batch_size, recipe.optimiser, recipe.lr) == (10, 32, "sgd", 0.0025)
    assert (recipe.average_mean, recipe.average_std) == (15, 1)


@pytest.mark.parametrize("name", ["text_weight", "image_weight", "logit_weight"])
def test_a_weight_below_zero_is_refused(name: str):
    with pytest.raises(InputError, match=f"promptsrc: {name} is -1.0: give zero or more"):
        PromptSRCConfig(**{name: -1.0})


# --- what it is pulled towards ---


@pytest.fixture
def method(tiny_clip: Clip) -> PromptSRC:
    method = PromptSRC(tiny_clip)
    method.set_classes(NAMES)
    return method


@pytest.fixture
def batch() -> Batch:
    return Batch(torch.randn(4, 3, 32, 32, generator=stream(0, "pictures")), torch.tensor([0, 1, 2, 0]))


def test_there_are_sixty_sentences():
    assert len(set(IMAGENET_TEMPLATES)) == len(IMAGENET_TEMPLATES) == 60
    assert all(template.count("{}") == 1 for template in IMAGENET_TEMPLATES)


def test_class_texts_are_averaged_as_they_come(method: PromptSRC, tiny_clip: Clip):
    raw = torch.stack([encode_names(tiny_clip, NAMES, template) for template in IMAGENET_TEMPLATES])
    torch.testing.assert_close(method.clip_text(), raw.mean(0), rtol=1e-5, atol=1e-6)
    unit = F.normalize(raw, dim=-1).mean(0)  # the other order, which is another direction
    angle = F.cosine_similarity(method.clip_text(), unit, dim=-1)
    assert (angle < 1 - 1e-6).all()


def test_the_sentences_are_encoded_at_the_first_loss_and_once_per_class_list(
    method: PromptSRC, batch: Batch, texts_read: list[TokenRows]
):
    with torch.no_grad():
        method.features(batch.images)
    assert [len(rows.lengths) for rows in texts_read] == [3]  # a prediction needs none of them
    for _ in range(3):
        training_losses(method, batch)
    assert len(texts_read) == 1 + 3 + 60
    method.set_classes(["zebra", "okapi", "owl", "cat"])
    training_losses(method, batch)
    assert len(texts_read) == 2 * (1 + 60) + 3
    assert [len(rows.lengths) for rows in texts_read[-60:]] == [4] * 60


def test_many_classes_are_encoded_a_bounded_number_of_tokens_at_a_time(
    few_sentences: None, method: PromptSRC, texts_read: list[TokenRows], tokens_read: dict[Block, list[int]]
):
    method.set_classes([f"{i} things" for i in range(300)])
    assert method.clip_text().shape == (300, 32)
    assert [len(rows.lengths) for rows in texts_read] == [300] * 3
    assert min(sum(rows.lengths) for rows in texts_read) > CHUNK  # too many for once
    assert max(max(calls) for calls in tokens_read.values()) <= CHUNK
    assert sum(tokens_read[method.clip.text.blocks[-1]]) == 3 * 300  # all the same, an EOT each


def test_a_name_too_long_for_the_longest_sentence_is_refused_at_once(tiny_clip: Clip):
    method = PromptSRC(tiny_clip, PromptSRCConfig(tokens=1, init=None))
    method.set_classes(NAMES)
    name = "x" * 70  # a token a letter: it fits behind one vector, but not into every sentence
    assert len(tiny_clip.tokenizer.words(name)) == 70
    with pytest.raises(InputError, match="shorten the name"):
        method.set_classes(["cat", name])
    assert method.names == tuple(NAMES)


def test_a_name_that_is_taken_fits_into_every_sentence(tiny_clip: Clip):
    method, tokenizer = PromptSRC(tiny_clip, PromptSRCConfig(tokens=1, init=None)), tiny_clip.tokenizer
    for letters in range(77, 0, -1):
        try:
            method.set_classes(["x" * letters])
        except InputError:
            continue
        break
    lengths = [len(tokenizer.words(template.format("x" * letters))) for template in IMAGENET_TEMPLATES]
    assert max(lengths) + 2 == 77  # with SOT and EOT: not a letter more than there is room for


def test_clips_own_answer_is_of_the_untouched_towers(method: PromptSRC, batch: Batch, tiny_clip: Clip):
    with torch.no_grad():
        for tensor in method.learned().values():
            tensor.normal_(generator=stream(0, "far"))
        assert torch.equal(extract(method, batch)["clip"][0], tiny_clip.vision(batch.images))
        assert not torch.allclose(
            method.encode_images(batch.images)[0], extract(method, batch)["clip"][0], atol=1e-3
        )


# --- terms ---


def test_terms_by_hand(method: PromptSRC, batch: Batch):
    config = PromptSRCConfig(text_weight=2.0, image_weight=3.0, logit_weight=5.0)
    weighted = PromptSRC(method.clip, config)
    weighted.load_learned(method.learned())
    weighted.set_classes(NAMES)
    with torch.no_grad():
        losses = {name: loss.item() for name, loss in training_losses(weighted, batch).items()}
        f, f0, g, g0 = (
            (x / x.norm(dim=-1, keepdim=True)).double()
            for x in (
                method.encode_images(batch.images)[0],
                method.clip.vision(batch.images),
                method.encode_text(),
                method.clip_text(),
            )
        )
    p, p0 = ((method.clip.logit_scale.double().exp() * a @ b.T).softmax(-1) for a, b in ((f, g), (f0, g0)))
    assert losses["ce"] == pytest.approx(-p[range(4), batch.labels].log().mean().item(), rel=1e-4)
    assert losses["text"] == pytest.approx(2 * (g - g0).abs().sum().item() / (3 * 32), rel=1e-4)
    assert losses["image"] == pytest.approx(3 * (f - f0).abs().sum().item() / (4 * 32), rel=1e-4)
    assert losses["logits"] == pytest.approx(5 * (p0 * (p0 / p).log()).sum().item() / (4 * 3), rel=1e-3)


def test_a_weight_of_zero_leaves_a_term_without_pull(method: PromptSRC, batch: Batch):
    off = replace(PromptSRCConfig(), text_weight=0.0, image_weight=0.0, logit_weight=0.0)
    plain = PromptSRC(method.clip, off)
    plain.load_learned(method.learned())
    plain.set_classes(NAMES)
    losses = training_losses(plain, batch)
    assert [losses[name].item() for name in ("text", "image", "logits")] == [0, 0, 0]
    assert losses["ce"].item() == training_losses(method, batch)["ce"].item()


def test_no_gradient_reaches_the_targets(method: PromptSRC, batch: Batch):
    sum(training_losses(method, batch).values()).backward()
    assert not method.clip_text().requires_grad
    assert not extract(method, batch)["clip"].requires_grad
    assert all(p.grad is None for p in method.clip.parameters())
    assert all(p.grad.abs().sum() > 0 for p in method.learned().values())


def test_left_alone_pictures_have_nothing_to_be_pulled_towards(tiny_clip: Clip, batch: Batch):
    """At the words it starts from, one block deep, texts and pictures are CLIP's own."""
    method = PromptSRC(tiny_clip, PromptSRCConfig(text_depth=1, vision_depth=0))
    method.set_classes(NAMES)
    losses = training_losses(method, batch)
    assert losses["image"].item() == 0
    sentence = encode_names(tiny_clip, NAMES, "a photo of a {}.")
    torch.testing.assert_close(method.encode_text(), sentence, rtol=1e-5, atol=1e-5)
    assert losses["text"].item() > 0  # one sentence is not the average of sixty
    held = Batch(batch.images, batch.labels, frozen=extract(method, batch))
    torch.testing.assert_close(training_losses(method, held)["ce"], losses["ce"])


def test_a_single_class_leaves_nothing_to_decide(tiny_clip: Clip, batch: Batch):
    method = PromptSRC(tiny_clip)
    method.set_classes(["cat"])
    losses = training_losses(method, Batch(batch.images, torch.zeros(4, dtype=torch.long)))
    assert losses["ce"].item() == losses["logits"].item() == 0
    assert losses["text"].item() > 0
