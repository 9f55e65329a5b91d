"""Grounding DINO and SAM 2 on tiny random weights, saved and loaded the way the published ones are."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from foveate.errors import InputError
from foveate.foreground.cleanup import tidy
from foveate.foreground.proposers import registry
from foveate.foreground.proposers.base import Proposal, Request
from foveate.foreground.proposers.gdino_sam2 import Detector, GroundedSam, Segmenter, sentence
from foveate.foreground.proposers.hub_models import HubModel
from foveate.foreground.proposers.hub_pixels import Instances, Pixels, read_pixels, union
from foveate.foreground.proposers.registry import open_proposer

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "a", "the", "cat", "dog", "car", "st", "bernard"]
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with the files that the published Grounding DINO has."""
    place = tmp_path_factory.mktemp("dino")
    text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    swin = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [1] * 4, "num_heads": [1, 2, 2, 4]}
    layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    config = transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(
            window_size=4, out_features=["stage2", "stage3", "stage4"], **swin
        ),
        text_config=transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **text),
        num_queries=10,
        d_model=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_feature_levels=4,
        max_text_len=32,
        disable_custom_kernels=True,
        **layers,
    )
    torch.manual_seed(0)
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(place)
    (place / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(vocab=str(place / "vocab.txt")).save_pretrained(place)
    size = {"shortest_edge": 64, "longest_edge": 96}
    transformers.GroundingDinoImageProcessorPil(size=size).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as the published SAM 2.1 is one: it says that it is for videos, and has more weights."""
    place = tmp_path_factory.mktemp("sam2")
    hiera = {
        "hidden_size": 16,
        "num_attention_heads": 1,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1],
    }
    hiera |= {"embed_dim_per_stage": [16, 32, 64, 128], "num_attention_heads_per_stage": [1, 1, 2, 2]}
    hiera |= {"window_size_per_stage": [4] * 4, "global_attention_blocks": [3]}
    memory = {"memory_attention_hidden_size": 32, "memory_attention_feed_forward_hidden_size": 32}
    memory |= {"memory_attention_num_layers": 1, "memory_attention_num_attention_heads": 1}
    memory |= {"memory_encoder_hidden_size": 32, "memory_encoder_output_channels": 8}
    memory |= {"mask_downsampler_embed_dim": 32, "memory_fuser_embed_dim": 32}
    memory |= {"memory_fuser_intermediate_dim": 32, "memory_fuser_num_layers": 1}
    config = transformers.Sam2VideoConfig(
        vision_config=transformers.Sam2VisionConfig(
            backbone_config=transformers.Sam2HieraDetConfig(
                window_positional_embedding_background_size=[4, 4], **hiera
            ),
            backbone_channel_list=[128, 64, 32, 16],
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
            fpn_hidden_size=32,
        ),
        prompt_encoder_config={
            "hidden_size": 32,
            "image_size": 64,
            "patch_size": 16,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            **{"hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 2},
            **{"num_attention_heads": 4, "iou_head_hidden_dim": 16},
        },
        image_size=64,
        memory_attention_rope_feat_sizes=[4, 4],
        **memory,
    )
    torch.manual_seed(1)
    transformers.Sam2VideoModel(config).save_pretrained(place)
    settings = {"size": {"height": 64, "width": 64}, "resample": 2, **IMAGENET}
    (place / "preprocessor_config.json").write_text(json.dumps(settings))
    return place


@pytest.fixture
def made(detector: Path, segmenter: Path) -> GroundedSam:
    """With thresholds that some of the random boxes pass."""
    return GroundedSam(str(detector), str(segmenter), box_threshold=0.0, text_threshold=0.0)


def picture(width: int = 90, height: int = 120, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def asked(label: str = "a cat", seed: int = 0, size: tuple[int, int] = (90, 120)) -> Request:
    return Request(f"{label}/{seed}.jpg", picture(*size, seed=seed), label)


def same(one: Proposal, other: Proposal) -> bool:
    if one.mask.shape != other.mask.shape:
        return False
    near = np.abs(one.heat - 0.5) < 1e-4  # where rounding decides
    boxes = np.allclose(one.meta["boxes"], other.meta["boxes"], atol=0.2)
    return (
        boxes and np.array_equal(one.mask | near, other.mask | near) and abs(one.score - other.score) < 1e-5
    )


def scores_by_token(detector: Path, photo: Image.Image, text: str) -> tuple[object, object, torch.Tensor]:
    """What transformers itself makes of it: the processor, its inputs, and the model's answer."""
    processor = transformers.GroundingDinoProcessor(
        transformers.GroundingDinoImageProcessorPil.from_pretrained(detector),
        transformers.BertTokenizer.from_pretrained(detector),
    )
    inputs = processor(images=photo, text=text, return_tensors="pt")
    model = transformers.GroundingDinoForObjectDetection.from_pretrained(detector)
    with torch.no_grad():
        return processor, inputs, model(**inputs)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("size", [(90, 120), (150, 64)])
def test_the_boxes_are_those_of_transformers_that_have_words(
    detector: Path, share: float, size: tuple[int, int]
):
    photo, text = picture(*size), "the dog."
    processor, inputs, answer = scores_by_token(detector, photo, text)
    best = answer.logits.sigmoid().amax(-1).flatten()
    words = answer.logits.sigmoid()[0, :, 1:3].amax(-1)  # behind [CLS], before the full stop
    thresholds = float(best.quantile(share)) * 0.999, float(words.quantile(share)) * 0.999
    (theirs,) = processor.post_process_grounded_object_detection(
        answer, inputs["input_ids"], *thresholds, target_sizes=[photo.size[::-1]]
    )
    spoken = torch.tensor(
        [any(word in label for word in text[:-1].split()) for label in theirs["text_labels"]]
    )
    ours = Detector(HubModel("", detector), "cpu", "float32").find([photo], [text], thresholds, 1)[0]
    assert 0 < len(ours[1]) <= len(best)
    torch.testing.assert_close(ours[0], theirs["boxes"][spoken], atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(ours[1], theirs["scores"][spoken], atol=1e-5, rtol=1e-4)


def test_a_box_that_answers_to_no_word_is_none(detector: Path, segmenter: Path):
    _, _, answer = scores_by_token(detector, picture(), "a cat.")
    words = answer.logits.sigmoid()[0, :, 1:3].amax(-1)
    for text_threshold, expected in ((0.0, 10), (float(words.median()), 5), (float(words.max()), 0)):
        proposer = GroundedSam(
            str(detector), str(segmenter), box_threshold=0.0, text_threshold=text_threshold
        )
        assert abs(len(proposer.propose([asked()])[0].meta["scores"]) - expected) <= 1


def test_the_masks_are_those_of_transformers_put_together(detector: Path, segmenter: Path):
    photo = picture(100, 70)
    boxes = torch.tensor([[10.0, 10, 80, 60], [5, 5, 20, 20], [40, 0, 100, 70]])
    model = transformers.Sam2Model.from_pretrained(segmenter)
    ours = Segmenter(HubModel("", segmenter), "cpu", "float32")
    with torch.no_grad():
        (logits,) = ours.cut([photo], [boxes])
        scale = torch.tensor([64 / 100, 64 / 70, 64 / 100, 64 / 70])
        answer = model(
            pixel_values=ours.pixels.tensor(photo)[None],
            input_boxes=(boxes * scale)[None],
            multimask_output=False,
        )
    np.testing.assert_allclose(logits, answer.pred_masks[0, :, 0], atol=1e-5)
    large = torch.nn.functional.interpolate(answer.pred_masks[0], (70, 100), mode="bilinear")[:, 0].numpy()
    proposal = union(Instances(torch.tensor([0.3, 0.9, 0.5]), boxes, logits), photo.size, 0.0, logits=True)
    np.testing.assert_allclose(proposal.heat, 1 / (1 + np.exp(-large.max(axis=0))), atol=1e-5)
    sure = np.abs(large.max(axis=0)) > 1e-4
    np.testing.assert_array_equal(proposal.mask[sure], (large > 0).any(axis=0)[sure])
    assert (np.abs(proposal.score - 0.9) < 1e-6, proposal.meta["boxes"]) == (True, boxes.tolist())


def test_the_processor_of_sam2_agrees_on_boxes_and_pixels(segmenter: Path):
    pytest.importorskip("torchvision")
    processor = transformers.Sam2Processor(
        transformers.Sam2ImageProcessor(
            size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16}
        )
    )
    for size in ((90, 120), (200, 50), (64, 64), (40, 30)):
        theirs = processor(images=picture(*size), input_boxes=[[[1, 2, 33, 24]]], return_tensors="pt")
        ours = read_pixels(segmenter, Pixels((1, 1))).tensor(picture(*size))
        # They resize in whole numbers too, but round here and there to the next: a 255th, in deviations.
        np.testing.assert_allclose(ours, theirs["pixel_values"][0], atol=1.01 / 255 / 0.224)
        scale = torch.tensor([64 / size[0], 64 / size[1]]).repeat(2)
        torch.testing.assert_close(torch.tensor([1.0, 2, 33, 24]) * scale, theirs["input_boxes"][0, 0])


@pytest.mark.parametrize("size", [(90, 120), (200, 64), (64, 64), (31, 250), (500, 375)])
def test_our_pixels_are_the_detectors_processors(detector: Path, size: tuple[int, int]):
    processor = transformers.GroundingDinoImageProcessorPil.from_pretrained(detector)
    theirs = processor(picture(*size), return_tensors="pt")["pixel_values"][0]
    ours = read_pixels(detector, Pixels((1, 1))).tensor(picture(*size))
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@given(
    width=st.integers(2, 4000),
    height=st.integers(2, 4000),
    short=st.integers(2, 900),
    more=st.integers(0, 900),
)
def test_sizes_are_the_librarys_whatever_the_picture(width: int, height: int, short: int, more: int):
    from transformers.image_transforms import get_size_with_aspect_ratio

    down, across = get_size_with_aspect_ratio((height, width), short, short + more)
    ours = Pixels((short, short + more), keeps_shape=True).target((width, height))
    assert ours == (max(1, across), max(1, down))  # of a very thin picture they would leave nothing


@pytest.mark.parametrize("size", [(90, 120), (200, 64), (64, 64)])
def test_mask_and_heat_are_of_the_pictures_size(made: GroundedSam, size: tuple[int, int]):
    (proposal,) = made.propose([asked(size=size)])
    assert proposal.mask.shape == proposal.heat.shape == size[::-1]
    sure = np.abs(proposal.heat - 0.5) > 1e-5
    np.testing.assert_array_equal(proposal.mask[sure], proposal.heat[sure] > 0.5)
    assert proposal.score == pytest.approx(max(proposal.meta["scores"]), abs=1e-4)
    assert len(proposal.meta["boxes"]) == len(proposal.meta["scores"]) > 0
    assert json.loads(json.dumps(proposal.meta)) == proposal.meta


def test_a_batch_answers_as_its_pictures_do_one_by_one(detector: Path, segmenter: Path):
    sizes = [(90, 120), (120, 90), (90, 120), (90, 120), (64, 100)]
    labels = ["a cat", "a dog", "the dog", "a dog", "the dog car"]
    requests = [asked(labels[n], seed=n, size=sizes[n]) for n in range(5)]
    options = {"box_threshold": 0.0, "text_threshold": 0.0}
    together = GroundedSam(str(detector), str(segmenter), batch=5, **options).propose(requests)
    assert not same(together[0], together[2])
    for batch in (1, 2):
        alone = GroundedSam(str(detector), str(segmenter), batch=batch, **options).propose(requests)
        assert all(same(*pair) for pair in zip(together, alone, strict=True))


def test_pictures_of_one_size_go_together_and_those_without_boxes_go_no_further(
    detector: Path, segmenter: Path, monkeypatch: pytest.MonkeyPatch
):
    proposer = GroundedSam(str(detector), str(segmenter), box_threshold=0.0, text_threshold=0.0)
    seen: list[int] = []
    cut: list[int] = []
    ask, encode = proposer._detector._ask, proposer._segmenter.model.get_image_embeddings
    monkeypatch.setattr(
        proposer._detector, "_ask", lambda some, ids: (seen.append(len(some)), ask(some, ids))[1]
    )
    monkeypatch.setattr(
        proposer._segmenter.model,
        "get_image_embeddings",
        lambda some: (cut.append(len(some)), encode(some))[1],
    )
    requests = [asked(seed=n, size=(120, 90) if n == 1 else (90, 120)) for n in range(4)]
    proposer.propose(requests)
    assert (seen, cut) == ([3, 1], [4])
    proposer.propose([asked("zebra")])
    assert cut == [4]


def test_where_nothing_is_found_the_whole_picture_is_taken(detector: Path, segmenter: Path):
    request = asked("zebra")  # no word this tokenizer knows
    proposal, other = GroundedSam(str(detector), str(segmenter)).propose([request, asked()])
    assert other.mask.any()
    assert proposal.mask.shape == (120, 90)
    assert not proposal.mask.any()
    assert (proposal.score, proposal.heat, proposal.meta) == (0.0, None, {"boxes": [], "scores": []})
    tidied = tidy(request.picture, proposal, coarse=GroundedSam.coarse)
    assert (tidied.fallback, tidied.score, tidied.area) == (True, 0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", "a cat."),
        ("The St. Bernard ", "the st bernard."),
        ("a cat.", "a cat."),
        ("A\nDog..", "a dog."),
    ],
)
def test_a_text_becomes_one_phrase(text: str, expected: str):
    assert sentence(text) == expected


def test_a_prompt_too_long_is_refused(made: GroundedSam):
    with pytest.raises(InputError, match="has 43 tokens, the model reads 32: shorten it"):
        made.propose([asked("cat " * 40)])


def test_without_a_class_or_a_prompt_it_does_not_know_what_to_look_for(made: GroundedSam):
    with pytest.raises(InputError, match="gdino-sam2 must be told what to look for"):
        made.propose([asked("")])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_answers_alike(made: GroundedSam, detector: Path, segmenter: Path, dtype: str):
    (full,) = made.propose([asked()])
    low = GroundedSam(str(detector), str(segmenter), dtype=dtype, box_threshold=0.0, text_threshold=0.0)
    (half,) = low.propose([asked()])
    assert half.heat.dtype == np.float32
    assert np.abs(half.heat - full.heat).mean() < 0.05


def test_the_key_names_both_models_and_every_threshold(made: GroundedSam, detector: Path, segmenter: Path):
    key = made.key
    assert json.loads(json.dumps(key)) == key
    assert key["detector"]["files"] != key["segmenter"]["files"]
    assert key["transformers"] == transformers.__version__
    for other in ({"box_threshold": 0.1}, {"text_threshold": 0.1}, {"dtype": "float16"}):
        options = {"box_threshold": 0.0, "text_threshold": 0.0} | other
        assert GroundedSam(str(detector), str(segmenter), **options).key != key


def test_it_opens_by_its_name_and_closes(detector: Path, segmenter: Path):
    proposer = open_proposer("gdino-sam2", detector=str(detector), segmenter=str(segmenter), batch=2)
    assert (proposer.name, proposer.reads_text, proposer.coarse, proposer.batch) == (
        "gdino-sam2",
        True,
        False,
        2,
    )
    proposer.close()
    assert {p.device.type for p in proposer._segmenter.model.parameters()} == {"meta"}


def test_models_in_each_others_place_are_refused(detector: Path, segmenter: Path, tmp_path: Path):
    with pytest.raises(InputError, match="is a model of type sam2_video, not grounding-dino"):
        GroundedSam(str(segmenter), str(segmenter))
    with pytest.raises(InputError, match="is a model of type grounding-dino, not sam2 or sam2_video"):
        GroundedSam(str(detector), str(detector))
    with pytest.raises(InputError, match=r"nowhere: no such folder.*--gdino-sam2.segmenter"):
        GroundedSam(str(detector), str(tmp_path / "nowhere"))
    shutil.copytree(detector, tmp_path / "dino")
    (tmp_path / "dino" / "vocab.txt").unlink()
    (tmp_path / "dino" / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="dino: its tokenizer cannot be loaded"):
        GroundedSam(str(tmp_path / "dino"), str(segmenter))


def test_without_the_extra_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"gdino-sam2 needs transformers.*pip install 'foveate\[transformers\]'"
    ):
        GroundedSam("nowhere")
