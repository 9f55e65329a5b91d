"""Features equal to open_clip's and transformers' on the same random weights."""

import pytest
import torch

from foveate.clip.model import Clip

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
# SOT and EOT, then padding: the end at different places, once at the very last.
IDS = torch.tensor([[98, 5, 7, 99, 0, 0, 0, 0], [98, 3, 1, 4, 1, 5, 9, 99], [98, 99, 0, 0, 0, 0, 0, 0]])
VISION = {"image_size": 32, "patch_size": 8, "width": 128, "layers": 3}
TEXT = {"context_length": 8, "vocab_size": 100, "width": 64, "layers": 2, "heads": 4}


def roughen(model: torch.nn.Module) -> torch.nn.Module:
    """Give every tensor, biases and norms too, something to get wrong."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model.eval()


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("custom_text", [True, False])
@pytest.mark.parametrize(("head_width", "mlp_ratio"), [(64, 4.0), (32, 4.3637)])
@torch.no_grad()
def test_equal_to_open_clip(quick_gelu, custom_text, head_width, mlp_ratio):
    pytest.importorskip("open_clip")
    from open_clip.model import CLIP, CustomTextCLIP

    vision = VISION | {"head_width": head_width, "mlp_ratio": mlp_ratio}
    theirs = roughen((CustomTextCLIP if custom_text else CLIP)(32, vision, TEXT, quick_gelu=quick_gelu))
    ours = Clip.from_state_dict(theirs.state_dict(), heads=(128 // head_width, 4), quick_gelu=quick_gelu)
    torch.testing.assert_close(ours.vision(IMAGES), theirs.encode_image(IMAGES), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.text(IDS), theirs.encode_text(IDS), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.scale, theirs.logit_scale.exp())


def hugging_face(activation: str = "quick_gelu") -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    shared = {"hidden_act": activation, "intermediate_size": 300}
    text = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "max_position_embeddings": 8,
        "bos_token_id": 98,
        "eos_token_id": 99,
    }
    vision = {
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "image_size": 32,
        "patch_size": 8,
    }
    config = transformers.CLIPConfig(
        text_config=text | shared, vision_config=vision | shared, projection_dim=32
    )
    return roughen(transformers.CLIPModel(config))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_equal_to_transformers(activation):
    theirs = hugging_face(activation)
    ours = Clip.from_state_dict(theirs.state_dict(), heads=(8, 4), quick_gelu=activation == "quick_gelu")
    answer = theirs(input_ids=IDS, pixel_values=IMAGES)
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(unit(ours.vision(IMAGES), dim=-1), answer.image_embeds, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(unit(ours.text(IDS), dim=-1), answer.text_embeds, rtol=1e-5, atol=1e-5)
    cosines = unit(ours.vision(IMAGES), dim=-1) @ unit(ours.text(IDS), dim=-1).T
    torch.testing.assert_close(ours.scale * cosines, answer.logits_per_image, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_folder_transformers_saved(tmp_path):
    from foveate.clip.weights import load_clip

    theirs = hugging_face("gelu")
    theirs.save_pretrained(tmp_path)
    ours = load_clip(tmp_path)
    assert ours.config.quick_gelu is False
    assert (ours.config.vision.heads, ours.config.text.heads) == (8, 4)
    expected = theirs.get_image_features(pixel_values=IMAGES)
    expected = getattr(expected, "pooler_output", expected)
    torch.testing.assert_close(ours.vision(IMAGES), expected, rtol=1e-5, atol=1e-5)
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert load_clip(tmp_path / "shards").fingerprint() == ours.fingerprint()
