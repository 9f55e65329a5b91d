"""SAM 3 on tiny random weights, saved and loaded the way the published ones are."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.foreground.cleanup import tidy
from foveate.foreground.proposers import registry
from foveate.foreground.proposers.base import Proposal, Request
from foveate.foreground.proposers.hub_pixels import HALF, Pixels, read_pixels
from foveate.foreground.proposers.registry import open_proposer
from foveate.foreground.proposers.sam3 import Sam3

transformers = pytest.importorskip("transformers")

SIDE, CONTEXT = 112, 32


@pytest.fixture(scope="module")
def settings(small_tokenizer: ClipTokenizer) -> dict[str, object]:
    """A tiny detector's configuration."""
    layer = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    vit = {
        "model_type": "sam3_vit_model",
        "num_hidden_layers": 2,
        "window_size": 4,
        "global_attn_indexes": [1],
    }
    vit |= {"image_size": SIDE, "patch_size": 14, "pretrain_image_size": SIDE}
    words = {"vocab_size": len(small_tokenizer.bpe.get_vocab()), "max_position_embeddings": CONTEXT}
    words |= {"bos_token_id": small_tokenizer.sot, "eos_token_id": small_tokenizer.eot, "pad_token_id": 0}
    text = {"model_type": "clip_text_model", "projection_dim": 32, "num_hidden_layers": 2}
    return {
        "vision_config": {
            "backbone_config": layer | vit,
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        "text_config": layer | text | words,
        "geometry_encoder_config": layer | {"num_layers": 1},
        "detr_encoder_config": layer | {"num_layers": 1},
        "detr_decoder_config": layer | {"num_layers": 1, "num_queries": 10},
        "mask_decoder_config": {"hidden_size": 32, "num_upsampling_stages": 2, "num_attention_heads": 2},
    }


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, settings: dict[str, object], small_tokenizer: ClipTokenizer
) -> Path:
    """A model folder as the published one is: for videos, with the detector as one part of it."""
    place = tmp_path_factory.mktemp("sam3")
    torch.manual_seed(0)
    detector = transformers.Sam3Model(transformers.Sam3Config(**settings))
    transformers.Sam3VideoConfig(detector_config=settings).save_pretrained(place)
    tensors = {f"detector_model.{name}": value.contiguous() for name, value in detector.state_dict().items()}
    tensors["tracker_model.of_no_interest"] = torch.zeros(3)
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    merges = json.loads(small_tokenizer.bpe.to_str())["model"]["merges"]
    (place / "vocab.json").write_text(json.dumps(small_tokenizer.bpe.get_vocab()))
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]))
    pixels = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (place / "processor_config.json").write_text(json.dumps({"image_processor": pixels | {"resample": 2}}))
    return place


def picture(width: int = 90, height: int = 120, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def asked(label: str = "cat", seed: int = 0, size: tuple[int, int] = (90, 120)) -> Request:
    return Request(f"{label}/{seed}.jpg", picture(*size, seed=seed), label)


def same(one: Proposal, other: Proposal) -> bool:
    if one.mask.shape != other.mask.shape or not np.allclose(one.heat, other.heat, atol=1e-5):
        return False
    near = np.abs(one.heat - 0.5) < 1e-5  # where rounding decides
    return np.array_equal(one.mask | near, other.mask | near) and abs(one.score - other.score) < 1e-5


def test_instances_are_those_of_transformers_put_together(folder: Path, small_tokenizer: ClipTokenizer):
    pytest.importorskip("torchvision")
    request = asked("of cat")
    model = transformers.Sam3Model.from_pretrained(folder)
    ids = [small_tokenizer.sot, *small_tokenizer.words("of cat"), small_tokenizer.eot]
    padded = torch.tensor([ids + [small_tokenizer.eot] * (CONTEXT - len(ids))])
    mask = torch.tensor([[1] * len(ids) + [0] * (CONTEXT - len(ids))])
    pixels = read_pixels(folder, Pixels((1, 1))).tensor(request.picture)[None]
    with torch.no_grad():
        answer = model(pixel_values=pixels, input_ids=padded, attention_mask=mask)
    scores = answer.pred_logits.sigmoid() * answer.presence_logits.sigmoid()
    for threshold in (0.0, float(scores.median())):
        (theirs,) = transformers.Sam3ImageProcessor().post_process_instance_segmentation(
            answer, threshold=threshold, mask_threshold=0.5, target_sizes=[(120, 90)]
        )
        (ours,) = Sam3(str(folder), threshold=threshold).propose([request])
        sure = np.abs(ours.heat - 0.5) > 1e-4
        np.testing.assert_array_equal(ours.mask[sure], theirs["masks"].numpy().any(axis=0)[sure])
        assert ours.score == pytest.approx(float(theirs["scores"].max()), abs=1e-5)
        np.testing.assert_allclose(ours.meta["scores"], theirs["scores"], atol=1e-4)
        np.testing.assert_allclose(ours.meta["boxes"], theirs["boxes"], atol=0.1)
    assert 0 < len(theirs["scores"]) < 10


@pytest.mark.parametrize("size", [(90, 120), (200, 64), (112, 112), (17, 230), (3, 2)])
def test_mask_and_heat_are_of_the_pictures_size(folder: Path, size: tuple[int, int]):
    (proposal,) = Sam3(str(folder), threshold=0.0).propose([asked(size=size)])
    assert proposal.mask.shape == proposal.heat.shape == size[::-1]
    np.testing.assert_array_equal(proposal.mask, proposal.heat > 0.5)
    assert len(proposal.meta["scores"]) == 10
    assert json.loads(json.dumps(proposal.meta)) == proposal.meta


def test_a_higher_mask_threshold_gives_a_smaller_mask(folder: Path):
    heat = Sam3(str(folder), threshold=0.0).propose([asked()])[0].heat
    for share in (0.0, 0.5, 1.0):
        limit = float(np.quantile(heat, share))
        (proposal,) = Sam3(str(folder), threshold=0.0, mask_threshold=limit).propose([asked()])
        np.testing.assert_array_equal(proposal.mask, heat > limit)


def test_a_batch_answers_as_its_pictures_do_one_by_one(folder: Path):
    requests = [
        asked(label, seed=n, size=(60 + 30 * n, 90)) for n, label in enumerate(["cat", "of", "cat ph"])
    ]
    together = Sam3(str(folder), threshold=0.0, batch=3).propose(requests)
    for batch in (1, 2):
        alone = Sam3(str(folder), threshold=0.0, batch=batch).propose(requests)
        assert all(same(*pair) for pair in zip(together, alone, strict=True))


def test_the_answer_depends_on_the_text(folder: Path):
    one, other = Sam3(str(folder), threshold=0.0).propose([asked("cat"), asked("of ph")])
    assert not same(one, other)


def test_a_phrase_is_encoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    proposer = Sam3(str(folder), threshold=0.0, batch=2)
    passes: list[int] = []
    forward = proposer._model.text_encoder.forward
    monkeypatch.setattr(
        proposer._model.text_encoder, "forward", lambda **inputs: (passes.append(1), forward(**inputs))[1]
    )
    proposer.propose([asked(label, seed=n) for n, label in enumerate(["cat", "cat", "of", "cat", "of"])])
    proposer.propose([asked("cat", seed=9)])
    assert passes == [1, 1]


def test_a_release_that_reads_text_features_directly_is_served_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    proposer = Sam3(str(folder), threshold=0.0)
    given: list[torch.Tensor] = []
    real = proposer._model.forward
    monkeypatch.setattr(
        proposer._model, "forward", lambda **inputs: (given.append(inputs["text_embeds"]), real(**inputs))[1]
    )
    proposer.propose([asked()])
    assert given[0].shape == (1, CONTEXT, 32)
    torch.testing.assert_close(given[0], given[0].pooler_output)


def test_our_pixels_are_the_processors(folder: Path):
    pytest.importorskip("torchvision")
    processor = transformers.Sam3ImageProcessor(size={"height": SIDE, "width": SIDE})
    assert read_pixels(folder, Pixels((1, 1))) == Pixels((SIDE, SIDE), mean=HALF, std=HALF)
    for size in ((90, 120), (300, 50), (112, 112)):
        theirs = processor(picture(*size), return_tensors="pt")["pixel_values"][0]
        ours = read_pixels(folder, Pixels((1, 1))).tensor(picture(*size))
        # They resize in whole numbers too, but round here and there to the next: a 255th, in deviations.
        np.testing.assert_allclose(ours, theirs, atol=1.01 / 255 / 0.5)


def test_where_nothing_is_found_the_whole_picture_is_taken(folder: Path):
    request = asked()
    (proposal,) = Sam3(str(folder), threshold=0.9999).propose([request])
    assert not proposal.mask.any()
    assert (proposal.score, proposal.heat, proposal.meta) == (0.0, None, {"boxes": [], "scores": []})
    tidied = tidy(request.picture, proposal, coarse=Sam3.coarse)
    assert (tidied.fallback, tidied.score, tidied.area) == (True, 0.0, 1.0)


def test_a_model_for_pictures_alone_loads_too(folder: Path, settings: dict[str, object], tmp_path: Path):
    model = transformers.Sam3Model.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt", "processor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sam3"
    one, other = (Sam3(str(place), threshold=0.0).propose([asked()])[0] for place in (folder, tmp_path))
    assert same(one, other)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_answers_alike(folder: Path, dtype: str):
    (full,) = Sam3(str(folder), threshold=0.0).propose([asked()])
    (half,) = Sam3(str(folder), threshold=0.0, dtype=dtype).propose([asked()])
    assert half.heat.dtype == np.float32
    assert np.abs(half.heat - full.heat).mean() < 0.05


def test_the_key_has_the_files_and_both_thresholds(folder: Path):
    key = Sam3(str(folder)).key
    assert json.loads(json.dumps(key)) == key == Sam3(str(folder), batch=4).key
    assert key["transformers"] == transformers.__version__
    for other in ({"threshold": 0.4}, {"mask_threshold": 0.4}, {"dtype": "bfloat16"}):
        assert Sam3(str(folder), **other).key != key


def test_it_opens_by_its_name_and_closes(folder: Path):
    proposer = open_proposer("sam3", model=str(folder))
    assert (proposer.name, proposer.reads_text, proposer.coarse, proposer.batch) == ("sam3", True, False, 1)
    proposer.close()
    assert {p.device.type for p in proposer._model.parameters()} == {"meta"}


def test_a_text_longer_than_it_reads_is_refused(folder: Path):
    with pytest.raises(InputError, match="has 42 tokens, the model reads 32: shorten it"):
        Sam3(str(folder)).propose([asked("cat " * 40)])


def test_a_release_without_it_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    old = types.ModuleType("transformers")
    old.__spec__, old.utils = transformers.__spec__, transformers.utils
    old.CLIPTokenizer = transformers.CLIPTokenizer
    monkeypatch.setitem(sys.modules, "transformers", old)
    with pytest.raises(InputError, match=r"transformers cannot give Sam3Model .*: update transformers"):
        Sam3(str(folder))


def test_without_the_extra_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"sam3 needs transformers.*pip install 'foveate\[transformers\]'"):
        Sam3("nowhere")
