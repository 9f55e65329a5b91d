"""VPT: its sizes, its sentences, and that FVG-PT will not have it."""

import pytest
import torch
from torch import Tensor

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.clip.rows import TokenRows, encode_names
from foveate.errors import InputError
from foveate.methods.frozen import training_losses
from foveate.methods.fvgpt import FvgPt
from foveate.methods.registry import build
from foveate.methods.vpt import Vpt, VptConfig
from foveate.train.recipe import recipe_for
from foveate.types import Batch

NAMES = ["cat", "dog", "phone"]


@pytest.fixture
def vpt(tiny_clip: Clip) -> Vpt:
    method = Vpt(tiny_clip)
    method.set_classes(NAMES)
    return method


@pytest.mark.parametrize(
    ("config", "shapes", "total"),
    [
        (VptConfig(), {"vision_ctx": [8, 768], "deep_vision": [11, 8, 768]}, 73_728),
        (VptConfig(4, 9), {"vision_ctx": [4, 768], "deep_vision": [8, 4, 768]}, 27_648),
        (VptConfig(depth=1), {"vision_ctx": [8, 768]}, 6_144),
    ],
)
def test_parameter_counts(config: VptConfig, shapes: dict[str, list[int]], total: int):
    with torch.device("meta"):
        clip = Clip(ClipConfig())
    learned = Vpt(clip, config).learned()
    assert {name: list(p.shape) for name, p in learned.items()} == shapes
    assert sum(p.numel() for p in learned.values()) == total


def test_the_recipe_is_the_authors():
    recipe = recipe_for("vpt")
    assert (recipe.epochs, recipe.batch_size, recipe.optimiser, recipe.lr) == (5, 4, "sgd", 0.0025)
    assert recipe.average_mean is None


@pytest.mark.parametrize("tokens", [0, -1])
def test_no_tokens_are_refused(tiny_clip: Clip, tokens: int):
    with pytest.raises(InputError, match=f"vpt: tokens is {tokens}"):
        Vpt(tiny_clip, VptConfig(tokens=tokens))


def test_texts_are_clips_own_in_the_sentence_that_counts(tiny_clip: Clip):
    """A setting of one's own first, then the data set's sentence, then the authors'."""
    own = "art of a {}."
    for config, template, sentence in (
        (VptConfig(template=own), "{} texture.", own),
        (VptConfig(), "{} texture.", "{} texture."),
        (VptConfig(), None, "a photo of a {}."),
    ):
        method = Vpt(tiny_clip, config)
        method.set_classes(NAMES, template)
        assert torch.equal(method.encode_text(), encode_names(tiny_clip, NAMES, sentence))


def test_texts_are_encoded_once_per_class_list(vpt: Vpt, texts_read: list[TokenRows]):
    batch = Batch(torch.randn(3, 3, 32, 32), torch.arange(3))
    for _ in range(3):
        training_losses(vpt, batch)["ce"].backward()
    assert [len(rows.lengths) for rows in texts_read] == [3]
    vpt.set_classes(NAMES[:2])
    vpt.features(batch.images)
    assert [len(rows.lengths) for rows in texts_read] == [3, 2]


def test_a_name_too_long_leaves_the_classes_as_they_were(vpt: Vpt):
    before = vpt.encode_text()
    with pytest.raises(InputError, match="shorten the name"):
        vpt.set_classes(["cat", "x" * 100])
    assert vpt.names == tuple(NAMES)
    assert torch.equal(vpt.encode_text(), before)


def test_guidance_over_it_is_refused(vpt: Vpt, tiny_clip: Clip):
    said = "fvgpt: (V|v)pt tunes the image tower alone.* take one that learns texts too"
    with pytest.raises(InputError, match=said):
        FvgPt(vpt)
    with pytest.raises(InputError, match=said):
        build("fvgpt+vpt", tiny_clip)


def test_a_checkpoint_of_the_authors_code_is_taken_over(tiny_clip: Clip):
    state: dict[str, Tensor] = {
        "image_encoder.VPT": torch.full((8, 128), 1.0),
        "logit_scale": torch.zeros(()),
    }
    for k in (1, 2):
        state[f"image_encoder.transformer.resblocks.{k}.VPT_shallow"] = torch.full((8, 128), 10.0 + k).half()
    method = Vpt(tiny_clip)
    method.load_official({"state_dict": state})
    assert (method.vision_ctx == 1).all()
    assert method.deep_vision.dtype == torch.float32
    assert method.deep_vision.flatten(1).mean(1).tolist() == [11, 12]
    state.pop("image_encoder.transformer.resblocks.2.VPT_shallow")
    with pytest.raises(InputError, match=r"lacks image_encoder.transformer.resblocks.2.VPT_shallow"):
        method.load_official(state)
