"""Names and sizes: the three layouts turn into each other, and sizes of the published CLIPs are read off."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.layouts import HUGGING_FACE, LAYOUTS, OPENAI, OURS, to_layout, to_ours
from foveate.clip.model import Clip
from foveate.clip.sizes import infer_config
from foveate.errors import InputError

L14 = ClipConfig(TowerConfig(1024, 24, 16), TowerConfig(768, 12, 12), patch_size=14, embed=768)
H14 = ClipConfig(
    TowerConfig(1280, 32, 16), TowerConfig(1024, 24, 16), patch_size=14, embed=1024, quick_gelu=False
)
PUBLISHED = {
    "ViT-B-32": ClipConfig(patch_size=32),
    "ViT-B-16": ClipConfig(),
    "ViT-L-14": L14,
    "ViT-L-14-336": replace(L14, image_size=336),
    "ViT-H-14": H14,
    "ViT-g-14": replace(H14, vision=TowerConfig(1408, 40, 16, 6144)),
    "ViT-bigG-14": replace(
        H14, vision=TowerConfig(1664, 48, 16, 8192), text=TowerConfig(1280, 32, 20), embed=1280
    ),
    "TinyCLIP-ViT-8M-16": ClipConfig(TowerConfig(256, 10, 4), TowerConfig(256, 3, 4)),
    "TinyCLIP-ViT-39M-16": ClipConfig(TowerConfig(512, 12, 8), TowerConfig(512, 6, 8)),
}


def shapes(config: ClipConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return Clip(config).state_dict()


def assert_refused(mapping: dict, says: str, **given) -> None:
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        Clip.from_state_dict(mapping, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_of_published_models(name, layout):
    found, tensors = to_ours(to_layout(shapes(PUBLISHED[name]), layout))
    assert found is layout
    assert infer_config(tensors, layout) == PUBLISHED[name]


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "Tiny" not in name])
def test_sizes_equal_open_clips(name):
    open_clip = pytest.importorskip("open_clip")
    with torch.device("meta"):
        settings = open_clip.get_model_config(name)
        theirs = open_clip.model.CLIP(
            **{k: settings[k] for k in ("embed_dim", "vision_cfg", "text_cfg")}
        ).state_dict()
    with torch.device("meta"):
        clip = Clip.from_state_dict(theirs)
    assert clip.config == PUBLISHED[name]
    vision = settings["vision_cfg"]
    assert clip.config.vision.heads == vision["width"] // vision.get("head_width", 64)
    assert clip.config.text.heads == settings["text_cfg"]["heads"]


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-L-14-336", "ViT-H-14", "TinyCLIP-ViT-8M-16"])
def test_sizes_equal_transformers(name):
    transformers = pytest.importorskip("transformers")
    size = PUBLISHED[name]
    towers = {
        f"{part}_config": {
            "hidden_size": tower.width,
            "num_hidden_layers": tower.layers,
            "num_attention_heads": tower.heads,
            "intermediate_size": 4 * tower.width,
            "image_size": size.image_size,
            "patch_size": size.patch_size,
        }
        for part, tower in (("vision", size.vision), ("text", size.text))
    }
    with torch.device("meta"):
        theirs = transformers.CLIPModel(transformers.CLIPConfig(**towers, projection_dim=size.embed))
        clip = Clip.from_state_dict(theirs.state_dict())
    assert clip.config == size


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_round_trip_to_the_bit(tiny_clip, layout):
    there = to_layout(tiny_clip.state_dict(), layout)
    back = Clip.from_state_dict({f"module.{name}": tensor for name, tensor in there.items()}, heads=(2, 1))
    for name, tensor in tiny_clip.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    assert back.fingerprint() == tiny_clip.fingerprint()


def test_arrays_custom_text_towers_and_leftovers_are_understood(tiny_clip):
    theirs = to_layout(tiny_clip.state_dict(), OPENAI)
    arrays = {
        name if name.startswith(("visual.", "logit")) else f"text.{name}": tensor.numpy()
        for name, tensor in theirs.items()
    }
    arrays |= {
        "input_resolution": np.int64(32),
        "vocab_size": np.int64(9),
        "text.attn_mask": np.zeros((7, 7)),
    }
    arrays["logit_scale"] = arrays["logit_scale"].reshape(1)
    for array in arrays.values():
        array.setflags(write=False)
    assert Clip.from_state_dict(arrays).fingerprint() == tiny_clip.fingerprint()


def test_precision_on_loading(tiny_clip):
    state = tiny_clip.state_dict()
    half = Clip.from_state_dict({name: tensor.half() for name, tensor in state.items()}, heads=(2, 1))
    double = Clip.from_state_dict({name: tensor.double() for name, tensor in state.items()}, heads=(2, 1))
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    assert not half.training
    assert not any(p.requires_grad for p in half.parameters())


def test_given_settings_win(tiny_clip):
    third = (0.1, 0.2, 0.3)
    clip = Clip.from_state_dict(
        tiny_clip.state_dict(), heads=(8, 4), quick_gelu=False, mean=third, std=third[::-1]
    )
    assert (clip.config.vision.heads, clip.config.text.heads) == (8, 4)
    assert (clip.config.quick_gelu, clip.config.mean, clip.config.std) == (False, third, third[::-1])


def test_what_is_no_plain_clip_is_refused_in_one_line(tiny_clip):
    openai = to_layout(tiny_clip.state_dict(), OPENAI)
    face = to_layout(tiny_clip.state_dict(), HUGGING_FACE)
    tensor = torch.zeros(3)
    assert_refused(openai | {"visual.layer1.0.conv1.weight": tensor}, "a ResNet, which is not supported")
    assert_refused({"visual.trunk.blocks.0.norm1.weight": tensor}, "a timm model, which is not supported")
    assert_refused({n: t for n, t in openai.items() if "class_embedding" not in n}, "SigLIP and the like")
    assert_refused({n: t for n, t in face.items() if "class_embedding" not in n}, "SigLIP and the like")
    assert_refused(openai | {"visual.transformer.resblocks.0.ls_1.gamma": tensor}, "its architecture differs")
    assert_refused({"encoder.weight": tensor}, "holds no CLIP in OpenAI's")
    assert_refused({}, "but nothing")
    assert_refused(openai | {"visual.proj": [1.0]}, "visual.proj is a list, not a tensor")
    assert_refused(openai | {"visual.proj": tensor.to(torch.int8)}, "quantised weights are not supported")


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_missing_or_misshapen_tensor_is_named_as_the_file_names_it(tiny_clip, layout):
    theirs = to_layout(tiny_clip.state_dict(), layout)
    for name in theirs:
        if name != layout.theirs("vision.cls"):
            assert_refused({n: t for n, t in theirs.items() if n != name}, "is missing", heads=(2, 1))
    wrong = layout.theirs("vision.blocks.1.fc.bias")
    assert_refused(theirs | {wrong: torch.zeros(7)}, f"{wrong} is (7,) where the other tensors ask")
    gap = layout.theirs("vision.blocks.1.ln_1.bias")
    assert_refused({n: t for n, t in theirs.items() if n != gap}, f"{gap} is missing")


def test_impossible_sizes_are_refused(tiny_clip):
    ours = dict(tiny_clip.state_dict())
    assert_refused(ours | {"vision.pos": torch.zeros(18, 128)}, "vision.pos has 18 rows: no square grid")
    assert_refused(ours | {"vision.pos": torch.zeros(18)}, "vision.pos is (18,), where a CLIP has 2 axes")
    assert_refused(ours, "3 heads do not divide the vision tower's width of 128", heads=(3, 1))
    assert_refused(ours, "0 heads do not divide the text tower's width", heads=(2, 0))
    narrow = replace(tiny_clip.config, text=TowerConfig(48, 2, 3))
    whole = Clip(narrow).initialise(torch.Generator().manual_seed(0))
    assert_refused(dict(whole.state_dict()), "48 wide, no multiple of 64: give heads=(vision, text)")
    face = to_layout(ours, HUGGING_FACE)
    name = HUGGING_FACE.theirs("text.blocks.0.qkv.bias")
    assert_refused(face | {name: torch.zeros(7)}, "another shape than its keys and values")
    assert OURS.theirs("vision.cls") == "vision.cls"
