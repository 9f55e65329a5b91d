"""IVLP: its sizes, its start, its settings, language prompting alone, checkpoints of its authors' code."""

import pytest
import torch
from torch import Tensor

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.frozen import extract, training_losses
from foveate.methods.fvgpt import FvgPt
from foveate.methods.ivlp import Ivlp, IvlpConfig
from foveate.methods.zeroshot import ZeroShot, ZeroShotConfig
from foveate.seeds import stream
from foveate.train.recipe import recipe_for
from foveate.types import Batch

NAMES = ["cat", "dog", "phone"]


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=stream(0, "pictures"))


def answer(method, names: list[str] = NAMES) -> Tensor:
    method.set_classes(names)
    with torch.no_grad():
        return method.logits(method.features(images()))


@pytest.fixture(scope="module")
def vit() -> Clip:
    """ViT-B/16 without numbers in it."""
    with torch.device("meta"):
        return Clip(ClipConfig())


@pytest.mark.parametrize(
    ("config", "shapes", "total"),
    [
        (
            IvlpConfig(),
            {"ctx": [2, 512], "deep_text": [11, 2, 512], "vision_ctx": [2, 768], "deep_vision": [11, 2, 768]},
            30_720,
        ),
        (
            IvlpConfig(tokens=4, vision_tokens=4, text_depth=9, vision_depth=9),
            {"ctx": [4, 512], "deep_text": [8, 4, 512], "vision_ctx": [4, 768], "deep_vision": [8, 4, 768]},
            46_080,
        ),
        (
            IvlpConfig(tokens=4, vision_tokens=0, vision_depth=0),
            {"ctx": [4, 512], "deep_text": [11, 4, 512]},
            24_576,
        ),
        (IvlpConfig(text_depth=1, vision_depth=1), {"ctx": [2, 512], "vision_ctx": [2, 768]}, 2_560),
    ],
)
def test_parameter_counts(vit: Clip, config: IvlpConfig, shapes: dict[str, list[int]], total: int):
    learned = Ivlp(vit, config).learned()
    assert {name: list(p.shape) for name, p in learned.items()} == shapes
    assert sum(p.numel() for p in learned.values()) == total


def test_the_recipe_is_the_authors():
    recipe = recipe_for("ivlp")
    assert (recipe.epochs, recipe.batch_size, recipe.optimiser, recipe.lr) == (5, 4, "sgd", 0.0035)
    assert recipe.average_mean is None


def test_it_starts_from_the_words_and_keeps_the_rest(tiny_clip: Clip):
    """The authors' two tokens of "a photo of a": "a photo" is learned, "of a" stays."""
    tokenizer, table = tiny_clip.tokenizer, tiny_clip.text.token.weight
    words = tokenizer.words("a photo of a")
    first = tokenizer.words("a photo")
    assert words[: len(first)] == first
    method = Ivlp(tiny_clip, IvlpConfig(tokens=len(first)))
    assert torch.equal(method.ctx, table[first])
    assert list(method.words) == words[len(first) :] == tokenizer.words("of a")


def test_without_its_deep_and_image_tokens_it_is_zero_shot_clip(tiny_clip: Clip):
    plain = answer(ZeroShot(tiny_clip, ZeroShotConfig("a photo of a {}.")))
    for tokens in (1, 2, 4):
        start = Ivlp(tiny_clip, IvlpConfig(tokens=tokens, text_depth=1, vision_depth=0))
        torch.testing.assert_close(answer(start), plain, rtol=1e-5, atol=1e-5)
    for more in (IvlpConfig(vision_depth=0), IvlpConfig(text_depth=1)):
        assert not torch.allclose(answer(Ivlp(tiny_clip, more)), plain, atol=1e-3)


def test_a_random_start(tiny_clip: Clip):
    method = Ivlp(tiny_clip, IvlpConfig(tokens=16, init=None), stream(1, "init"))
    assert method.words == ()
    assert method.ctx.std().item() == pytest.approx(0.02, rel=0.1)
    assert not torch.equal(method.ctx, Ivlp(tiny_clip, method.config, stream(2, "init")).ctx)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (IvlpConfig(tokens=0), "ivlp: tokens is 0"),
        (IvlpConfig(tokens=50), "ivlp: tokens is 50, but init 'a photo of a' has"),
        (IvlpConfig(vision_tokens=0), "vision_tokens is 0: give at least one, or vision_depth=0"),
        (IvlpConfig(vision_tokens=-3), "vision_tokens is -3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny_clip: Clip, config: IvlpConfig, said: str):
    with pytest.raises(InputError, match=said):
        Ivlp(tiny_clip, config)


def test_more_tokens_than_a_text_has_room_for_are_refused(tiny_clip: Clip):
    method = Ivlp(tiny_clip, IvlpConfig(tokens=75, init=None))
    with pytest.raises(InputError, match="leave no room for a class name"):
        method.set_classes(NAMES)


def test_a_name_too_long_leaves_the_classes_as_they_were(tiny_clip: Clip):
    method = Ivlp(tiny_clip)
    before = answer(method)
    with pytest.raises(InputError, match="shorten the name"):
        method.set_classes(["cat", "x" * 100])
    assert method.names == tuple(NAMES)
    with torch.no_grad():
        assert torch.equal(method.logits(method.features(images())), before)


# --- language prompting alone ---


@pytest.fixture
def language(tiny_clip: Clip) -> Ivlp:
    method = Ivlp(tiny_clip, IvlpConfig(vision_depth=0))
    method.set_classes(NAMES)
    return method


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch, tiny_clip: Clip) -> list[int]:
    """How many pictures went through the image tower, pass by pass."""
    passes: list[int] = []
    encode = type(tiny_clip.vision).encode

    def counted(tower, tokens, *args, **more):
        passes.append(len(tokens))
        return encode(tower, tokens, *args, **more)

    monkeypatch.setattr(type(tiny_clip.vision), "encode", counted)
    return passes


def test_language_prompting_says_that_pictures_are_left_alone(language: Ivlp, tiny_clip: Clip):
    assert not language.tunes_vision
    assert language.tunes_text
    assert Ivlp(tiny_clip).tunes_vision  # the other one's own
    assert set(extract(language, Batch(images(), torch.arange(3)))) == {"image"}
    assert extract(Ivlp(tiny_clip), Batch(images(), torch.arange(3))) == {}


def test_language_prompting_learns_from_a_bank(language: Ivlp, looked: list[int]):
    batch = Batch(images(), torch.arange(3))
    held = Batch(batch.images, batch.labels, frozen=extract(language, batch))
    expected = training_losses(language, batch)["ce"]
    looked.clear()
    loss = training_losses(language, held)["ce"]
    assert looked == []
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert language.deep_text.grad.abs().sum() > 0


def test_guidance_asks_the_image_tower_once_where_pictures_are_left_alone(
    language: Ivlp, tiny_clip: Clip, looked: list[int]
):
    FvgPt(language).features(images())
    assert looked == [3]
    looked.clear()
    both = Ivlp(tiny_clip)
    both.set_classes(NAMES)
    features = FvgPt(both).features(images())
    assert looked == [3, 3]  # its own answer and CLIP's
    assert not torch.allclose(features.image, features.prior.image, atol=1e-3)


# --- checkpoints of the authors' code ---


def official_state(depth: int, tokens: int, texts: int, text_depth: int = 2) -> dict[str, Tensor]:
    """A checkpoint as the authors' code writes it, with tensors told apart by their first number."""
    state = {
        "prompt_learner.ctx": torch.full((texts, 64), 1.0),
        "prompt_learner.token_prefix": torch.zeros(3, 1, 64),
        "image_encoder.VPT": torch.full((tokens, 128), 2.0),
        "image_encoder.class_embedding": torch.zeros(128),
    }
    for k in range(1, depth):
        state[f"image_encoder.transformer.resblocks.{k}.VPT_shallow"] = torch.full((tokens, 128), 10.0 + k)
    for k in range(1, text_depth):
        state[f"text_encoder.transformer.resblocks.{k}.VPT_shallow"] = torch.full((texts, 64), 20.0 + k)
    return state


def test_a_checkpoint_of_the_authors_code_is_taken_over(tiny_clip: Clip):
    method = Ivlp(tiny_clip, IvlpConfig(tokens=2, vision_tokens=3, text_depth=2, vision_depth=3))
    method.load_official({"state_dict": official_state(3, 3, 2), "epoch": 5})
    values = {name: tensor.flatten(1)[:, 0].tolist() for name, tensor in method.learned().items()}
    assert values == {"ctx": [1, 1], "vision_ctx": [2, 2, 2], "deep_text": [21], "deep_vision": [11, 12]}
    assert all(tensor.dtype == torch.float32 for tensor in method.learned().values())


def test_a_checkpoint_of_another_depth_or_size_is_refused(tiny_clip: Clip):
    method = Ivlp(tiny_clip, IvlpConfig(tokens=2, vision_tokens=3))
    with pytest.raises(InputError, match=r"lacks image_encoder.transformer.resblocks.2.VPT_shallow"):
        method.load_official(official_state(2, 3, 2))
    with pytest.raises(InputError, match="another CLIP or other settings"):
        method.load_official(official_state(3, 4, 2))
    with pytest.raises(InputError, match=r"resblocks.2.VPT_shallow besides: it was tuned in more blocks"):
        method.load_official(official_state(3, 3, 2, text_depth=3))
