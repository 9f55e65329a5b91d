"""Texts to features: chunks, precision, templates."""

import copy
import re

import pytest
import torch

from foveate.clip.rows import encode_names, encode_texts
from foveate.clip.templates import DATASET_TEMPLATES, DEFAULT_TEMPLATE, KGCOOP_TEMPLATES, fill
from foveate.errors import InputError

NAMES = ["cat", "sea_horse", "an airplane of a rather long name", "dog", "x"]


@pytest.mark.parametrize("chunk", [1, 20, 40, 2048])
def test_chunks_change_nothing(tiny_clip, chunk):
    texts = [f"a photo of a {name}." for name in NAMES]
    features = encode_texts(tiny_clip, texts, chunk)
    torch.testing.assert_close(features, tiny_clip.text(tiny_clip.tokenizer(texts)), rtol=1e-5, atol=1e-5)
    assert features.shape == (5, 32)
    assert not features.requires_grad


def test_names_are_filled_into_the_template(tiny_clip):
    by_hand = encode_texts(tiny_clip, ["sea horse texture."])
    assert torch.equal(encode_names(tiny_clip, ["sea_horse"], "{} texture."), by_hand)
    assert torch.equal(encode_names(tiny_clip, ["cat"]), encode_texts(tiny_clip, ["a photo of a cat."]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_towers_give_float32_close_to_the_whole(tiny_clip, dtype):
    half = copy.deepcopy(tiny_clip).to(dtype)
    features, expected = encode_names(half, NAMES), encode_names(tiny_clip, NAMES)
    assert features.dtype == torch.float32
    assert torch.cosine_similarity(features, expected).min() > 0.999
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    cosines = torch.cosine_similarity(half.vision(images).float(), tiny_clip.vision(images))
    assert cosines.min() > 0.999


def test_double_towers_stay_double(tiny_clip):
    assert encode_names(copy.deepcopy(tiny_clip).double(), NAMES).dtype == torch.float64


def test_nothing_to_encode(tiny_clip):
    with pytest.raises(InputError, match="no texts to encode"):
        encode_names(tiny_clip, [])


def test_templates():
    assert fill("{} texture.", "polka_dotted") == "polka dotted texture."
    assert fill(DATASET_TEMPLATES["OxfordPets"], "pug") == "a photo of a pug, a type of pet."
    assert fill("set {x} of {}", "{}") == "set {x} of {}"
    assert len(DATASET_TEMPLATES) == 15
    assert [name for name in DATASET_TEMPLATES if KGCOOP_TEMPLATES[name] != DATASET_TEMPLATES[name]] == [
        "DescribableTextures"
    ]
    assert all(fill(template, "x") for template in (*DATASET_TEMPLATES.values(), DEFAULT_TEMPLATE))
    for template, times in (("a photo", 0), ("{} and {}", 2)):
        with pytest.raises(InputError, match=re.escape(f"has {times} times {{}}")):
            fill(template, "x")
