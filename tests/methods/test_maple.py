"""MaPLe: its sizes, its start, how text tokens become image tokens, and checkpoints of its authors' code."""

import pytest
import torch
from torch import Tensor

from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.frozen import training_losses
from foveate.methods.maple import Maple, MapleConfig
from foveate.seeds import stream
from foveate.train.recipe import recipe_for
from foveate.types import Batch

NAMES = ["cat", "dog", "phone"]


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=stream(0, "pictures"))


@pytest.fixture
def deep_clip(small_tokenizer, small_config) -> Clip:
    """Four blocks in the image tower, three in the text tower."""
    towers = {"vision": TowerConfig(128, 4, 2), "text": TowerConfig(64, 3, 1)}
    clip = Clip(small_config(small_tokenizer.vocab, **towers), small_tokenizer)
    return clip.initialise(torch.Generator().manual_seed(0)).eval()


@pytest.fixture
def maple(deep_clip: Clip) -> Maple:
    method = Maple(deep_clip, MapleConfig(depth=3))
    method.set_classes(NAMES)
    return method


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (MapleConfig(), 3_555_072),
        (MapleConfig(depth=3), 3 * 2 * 512 + 3 * (512 * 768 + 768)),
        (MapleConfig(depth=1), 2 * 512 + 512 * 768 + 768),
    ],
)
def test_parameter_counts(config: MapleConfig, total: int):
    with torch.device("meta"):
        clip = Clip(ClipConfig())
    learned = Maple(clip, config).learned()
    assert sum(p.numel() for p in learned.values()) == total
    assert all(p.numel() > 0 for p in learned.values())


def test_shapes(maple: Maple):
    linear = {"weight": [128, 64], "bias": [128]}
    assert {name: list(p.shape) for name, p in maple.learned().items()} == {
        "ctx": [2, 64],
        "deep_text": [2, 2, 64],
        **{
            f"{one}.{part}": shape
            for one in ("map", "deep_maps.0", "deep_maps.1")
            for part, shape in linear.items()
        },
    }


def test_the_recipe_is_the_authors():
    recipe = recipe_for("maple")
    assert (recipe.epochs, recipe.batch_size, recipe.optimiser, recipe.lr) == (5, 4, "sgd", 0.0035)
    assert recipe.average_mean is None


def test_deeper_maps_start_equal_and_learn_apart(maple: Maple):
    first, second = maple.deep_maps
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert not torch.equal(maple.map.weight, first.weight)
    training_losses(maple, Batch(images(), torch.arange(3)))["ce"].backward()
    assert not torch.equal(first.weight.grad, second.weight.grad)
    assert not torch.equal(maple.deep_text.grad[0], maple.deep_text.grad[1])


def test_words_reach_pictures(maple: Maple):
    """What is learned in text moves pictures too: through the map, and only through it."""
    with torch.no_grad():
        before = maple.encode_images(images())
        maple.ctx[0] += torch.randn(64, generator=stream(0, "word"))
        assert not torch.allclose(maple.encode_images(images()), before, atol=1e-3)
        for layer in (maple.map, *maple.deep_maps):
            layer.weight.zero_()
        fixed = maple.encode_images(images())
        maple.ctx.normal_(generator=stream(1, "word"))
        maple.deep_text.normal_(generator=stream(2, "word"))
        assert torch.equal(maple.encode_images(images()), fixed)


def test_image_tokens_are_the_maps_of_the_same_blocks_text_tokens(maple: Maple):
    with torch.no_grad():
        maple.deep_maps[0].weight.fill_(0.5)
        maple.deep_maps[0].bias.fill_(1.0)
        maple.deep_maps[1].weight.zero_()
        maple.deep_maps[1].bias.fill_(-3.0)
        maple.deep_text[0] = torch.tensor([1.0, 2.0])[:, None] / 64
        deeper = maple.deep_vision()
    assert deeper.shape == (2, 2, 128)
    assert deeper[0, :, 0].tolist() == pytest.approx([1.5, 2.0])  # 64 · 0.5 · t/64 + 1
    assert (deeper[1] == -3).all()


def test_it_starts_from_the_words_and_keeps_the_rest(tiny_clip: Clip):
    words = tiny_clip.tokenizer.words("a photo of a")
    method = Maple(tiny_clip)
    assert torch.equal(method.ctx, tiny_clip.text.token.weight[words[:2]])
    assert list(method.words) == words[2:]
    assert Maple(tiny_clip, MapleConfig(init=None)).words == ()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (MapleConfig(tokens=0), "maple: tokens is 0"),
        (MapleConfig(tokens=60), "maple: tokens is 60, but init 'a photo of a' has"),
        (MapleConfig(depth=4), "maple: depth is 4, but the tower has 3 blocks"),  # the text tower's
    ],
)
def test_settings_that_make_no_sense_are_refused(deep_clip: Clip, config: MapleConfig, said: str):
    with pytest.raises(InputError, match=said):
        Maple(deep_clip, config)


def test_a_checkpoint_of_the_authors_code_is_taken_over(maple: Maple):
    learner = "prompt_learner"
    state: dict[str, Tensor] = {
        f"{learner}.ctx": torch.full((2, 64), 1.0),
        f"{learner}.proj.weight": torch.full((128, 64), 2.0),
        f"{learner}.proj.bias": torch.full((128,), 3.0),
        f"{learner}.token_suffix": torch.zeros(3, 74, 64),
        "image_encoder.proj": torch.zeros(128, 32),
    }
    for k in range(2):
        state[f"{learner}.compound_prompts_text.{k}"] = torch.full((2, 64), 10.0 + k)
        state[f"{learner}.compound_prompt_projections.{k}.weight"] = torch.full((128, 64), 20.0 + k)
        state[f"{learner}.compound_prompt_projections.{k}.bias"] = torch.full((128,), 30.0 + k).half()
    maple.load_official({"state_dict": state, "epoch": 5})
    assert maple.deep_text.flatten(1).mean(1).tolist() == [10, 11]
    values = {name: tensor.mean().item() for name, tensor in maple.learned().items() if name != "deep_text"}
    assert values == {
        "ctx": 1,
        "map.weight": 2,
        "map.bias": 3,
        "deep_maps.0.weight": 20,
        "deep_maps.1.weight": 21,
        "deep_maps.0.bias": 30,
        "deep_maps.1.bias": 31,
    }
    state.pop(f"{learner}.compound_prompts_text.1")
    with pytest.raises(InputError, match=r"lacks prompt_learner.compound_prompts_text.1"):
        maple.load_official(state)
