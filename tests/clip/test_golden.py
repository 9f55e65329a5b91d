"""Our towers against numbers the authors' released code computed (tests/golden/README.md)."""

import torch
from torch.nn.functional import normalize

from foveate.clip.rows import encode_names

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def test_golden_token_ids(official):
    texts = [official.settings["template"].replace("{}", name) for name in official.read_names]
    assert torch.equal(official.clip.tokenizer(texts), official.tensors["clip/tokens"].long())


def test_golden_image_features(official):
    features = official.clip.vision(official.images)
    torch.testing.assert_close(features, official.tensors["clip/image_features"], **TOLERANCE)


def test_golden_text_features(official):
    features = encode_names(official.clip, official.names, official.settings["template"])
    torch.testing.assert_close(features, official.tensors["clip/text_features"], **TOLERANCE)


def test_golden_logits(official):
    images = normalize(official.clip.vision(official.images), dim=-1)
    texts = normalize(encode_names(official.clip, official.names, official.settings["template"]), dim=-1)
    logits = official.clip.scale * images @ texts.T
    # Logits are cosines times 100: so is what rounding does to them.
    scale = float(official.clip.scale)
    torch.testing.assert_close(logits, official.tensors["clip/logits"], rtol=1e-5, atol=1e-6 * scale)
