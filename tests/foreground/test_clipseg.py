"""CLIPSeg on tiny random weights, saved and loaded the way the published ones are."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import errors
from PIL import Image

from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.foreground.cleanup import resized
from foveate.foreground.proposers import registry
from foveate.foreground.proposers.base import Proposal, Request
from foveate.foreground.proposers.clipseg import ClipSeg
from foveate.foreground.proposers.hub_pixels import Pixels, read_pixels
from foveate.foreground.proposers.registry import open_proposer

transformers = pytest.importorskip("transformers")

SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: ClipTokenizer) -> Path:
    """A model folder with the files that the published one has."""
    place = tmp_path_factory.mktemp("clipseg")
    words = small_tokenizer.bpe.get_vocab()
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    ends = {"bos_token_id": small_tokenizer.sot, "eos_token_id": small_tokenizer.eot}
    config = transformers.CLIPSegConfig(
        text_config=tower | ends | {"vocab_size": len(words), "num_hidden_layers": 2, "pad_token_id": 0},
        vision_config=tower | {"num_hidden_layers": 3, "image_size": 32, "patch_size": 16},
        projection_dim=32,
        extract_layers=[1, 2],
        reduce_dim=16,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=32,
    )
    torch.manual_seed(0)
    model = transformers.CLIPSegForImageSegmentation(config)
    with torch.no_grad():  # as they are drawn, all heats lie close to one half
        model.decoder.transposed_convolution.weight.mul_(2)
    model.save_pretrained(place)
    merges = json.loads(small_tokenizer.bpe.to_str())["model"]["merges"]
    (place / "vocab.json").write_text(json.dumps(words))
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]))
    transformers.ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(place)
    return place


def picture(width: int = 90, height: int = 120, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def asked(label: str = "cat", prompt: str = "", seed: int = 0, size: tuple[int, int] = (90, 120)) -> Request:
    return Request(f"{label}/{seed}.jpg", picture(*size, seed=seed), label, prompt)


def same(one: Proposal, other: Proposal) -> bool:
    if one.heat.shape != other.heat.shape:
        return False
    near = np.abs(one.heat - 0.5) < 1e-5  # where rounding decides
    return np.allclose(one.heat, other.heat, atol=1e-5) and np.array_equal(one.mask | near, other.mask | near)


def test_the_mask_is_where_the_models_own_heat_is_above_the_threshold(folder: Path):
    request = asked("of cat")
    (proposal,) = ClipSeg(str(folder)).propose([request])
    processor = transformers.CLIPSegProcessor(
        transformers.ViTImageProcessorPil.from_pretrained(folder),
        transformers.CLIPTokenizer.from_pretrained(folder),
    )
    model = transformers.CLIPSegForImageSegmentation.from_pretrained(folder)
    inputs = processor(text=["of cat"], images=[request.picture], return_tensors="pt")
    with torch.no_grad():
        heat = model(**inputs).logits.sigmoid().reshape(1, 1, SIDE, SIDE)
    heat = torch.nn.functional.interpolate(heat, (120, 90), mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(proposal.heat, heat, atol=2e-5)
    assert heat.std() > 0.01
    np.testing.assert_array_equal(proposal.mask, proposal.heat > 0.5)
    assert 0 < proposal.mask.mean() < 1


@pytest.mark.parametrize("size", [(90, 120), (200, 64), (17, 230), (64, 64), (3, 2)])
def test_mask_and_heat_are_of_the_pictures_size(folder: Path, size: tuple[int, int]):
    (proposal,) = ClipSeg(str(folder)).propose([asked(size=size)])
    assert proposal.mask.shape == proposal.heat.shape == size[::-1]
    assert 0 <= proposal.heat.min() <= proposal.heat.max() <= 1
    assert 0 <= proposal.score <= 1


def test_a_batch_answers_as_its_pictures_do_one_by_one(folder: Path):
    requests = [
        asked(label, seed=n, size=(40 + 9 * n, 90)) for n, label in enumerate(["cat", "of", "cat ph"])
    ]
    together = ClipSeg(str(folder), batch=3).propose(requests)
    for batch in (1, 2):
        alone = ClipSeg(str(folder), batch=batch).propose(requests)
        assert all(same(*pair) for pair in zip(together, alone, strict=True))


def test_where_the_memory_is_full_fewer_pictures_go_together(folder: Path, monkeypatch: pytest.MonkeyPatch):
    requests = [asked(seed=n) for n in range(5)]
    expected = ClipSeg(str(folder), batch=1).propose(requests)
    proposer = ClipSeg(str(folder), batch=4)
    forward = proposer._model.forward

    def small(pixel_values: torch.Tensor, **rest: object) -> object:
        if len(pixel_values) > 2:
            raise torch.OutOfMemoryError
        return forward(pixel_values=pixel_values, **rest)

    monkeypatch.setattr(proposer._model, "forward", small)
    assert all(same(*pair) for pair in zip(expected, proposer.propose(requests), strict=True))


def test_a_phrase_is_encoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    proposer = ClipSeg(str(folder), batch=2)
    passes: list[int] = []
    encode = proposer._model.clip.get_text_features
    monkeypatch.setattr(
        proposer._model.clip,
        "get_text_features",
        lambda ids, **rest: (passes.append(len(ids)), encode(ids, **rest))[1],
    )
    proposer.propose([asked(label, seed=n) for n, label in enumerate(["cat", "cat", "of", "cat", "of"])])
    proposer.propose([asked("dog", prompt="cat")])
    assert passes == [1, 1]


def test_the_prompt_goes_before_the_class_name(folder: Path):
    proposer = ClipSeg(str(folder))
    by_prompt, by_label, other = proposer.propose([asked("dog", "cat"), asked("cat"), asked("dog")])
    assert same(by_prompt, by_label)
    assert not same(by_prompt, other)


def test_a_higher_threshold_gives_a_smaller_mask_and_at_last_none(folder: Path):
    heat = ClipSeg(str(folder)).propose([asked()])[0].heat
    for threshold in (0.0, float(np.median(heat)), float(heat.max())):
        (proposal,) = ClipSeg(str(folder), threshold=threshold).propose([asked()])
        np.testing.assert_array_equal(proposal.mask, heat > threshold)
    assert not proposal.mask.any()
    assert proposal.score == 0


def test_our_pixels_are_the_processors(folder: Path):
    ours = read_pixels(folder, Pixels((1, 1))).tensor(picture())
    theirs = transformers.ViTImageProcessorPil.from_pretrained(folder)(picture(), return_tensors="pt")
    np.testing.assert_allclose(ours, theirs["pixel_values"][0], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": 48}, Pixels((48, 48))),
        (
            {"size": {"height": 30, "width": 40}, "resample": 3},
            Pixels((40, 30), resample=Image.Resampling.BICUBIC),
        ),
        ({"size": {"shortest_edge": 8, "longest_edge": 12}}, Pixels((8, 12), keeps_shape=True)),
        ({"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}, Pixels((5, 5), mean=(0.0,) * 3, std=(1.0,) * 3)),
    ],
)
def test_settings_for_pictures_are_read_wherever_they_are(tmp_path: Path, settings: dict, expected: Pixels):
    assert read_pixels(tmp_path, Pixels((5, 5))) == Pixels((5, 5))
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert read_pixels(tmp_path, Pixels((5, 5))) == expected
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | {"resample": 2}))
    assert read_pixels(tmp_path, Pixels((5, 5))).resample == Image.Resampling.BILINEAR


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": {"shortest_edge": 8}}, "neither height and width"),
        ({"do_normalize": False}, "do_normalize = false is not supported"),
        ({"image_mean": [0.5]}, "not three numbers"),
        ({"resample": 17}, "no filter"),
    ],
)
def test_settings_for_pictures_that_we_cannot_follow_are_refused(tmp_path: Path, settings: dict, said: str):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=said) as refusal:
        read_pixels(tmp_path, Pixels((5, 5)))
    assert str(tmp_path) in str(refusal.value)


def test_the_key_is_the_files_and_settings_and_not_the_place(folder: Path, tmp_path: Path):
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    key = ClipSeg(str(folder)).key
    assert json.loads(json.dumps(key)) == key == ClipSeg(str(copy), batch=3).key
    assert key != ClipSeg(str(folder), threshold=0.4).key
    assert key["transformers"] == transformers.__version__
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert key["model"]["files"] != ClipSeg(str(copy)).key["model"]["files"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_answers_alike(folder: Path, dtype: str):
    (full,) = ClipSeg(str(folder)).propose([asked()])
    (half,) = ClipSeg(str(folder), dtype=dtype).propose([asked()])
    assert half.heat.dtype == np.float32
    assert np.abs(half.heat - full.heat).mean() < 0.01


def test_nothing_is_printed_and_transformers_is_left_as_it_was(
    folder: Path, capfd: pytest.CaptureFixture[str]
):
    before = transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    ClipSeg(str(folder)).propose([asked()])
    assert capfd.readouterr() == ("", "")
    assert before == (
        transformers.utils.logging.get_verbosity(),
        transformers.utils.logging.is_progress_bar_enabled(),
    )
    assert logging.getLogger("transformers").level == before[0]


def test_it_opens_by_its_name_and_closes(folder: Path):
    proposer = open_proposer("clipseg", model=str(folder))
    assert (proposer.name, proposer.reads_text, proposer.coarse, proposer.batch) == ("clipseg", True, True, 8)
    proposer.close()
    assert {p.device.type for p in proposer._model.parameters()} == {"meta"}


def test_without_a_class_or_a_prompt_it_does_not_know_what_to_look_for(folder: Path):
    with pytest.raises(InputError, match=r"/0.jpg: clipseg must be told what to look for"):
        ClipSeg(str(folder)).propose([asked(" ")])


def test_a_prompt_too_long_is_refused(folder: Path):
    with pytest.raises(InputError, match=r"prompt 'cat cat .*' has 102 tokens, the model reads 77"):
        ClipSeg(str(folder)).propose([asked(prompt="cat " * 100)])


def test_a_threshold_out_of_range_is_refused(folder: Path):
    with pytest.raises(InputError, match=r"threshold is 1\.0: give a number from 0 to below 1"):
        ClipSeg(str(folder), threshold=1.0)


def test_without_the_extra_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"clipseg needs transformers.*pip install 'foveate\[transformers\]'"
    ):
        ClipSeg("nowhere")


def refused(source: object) -> str:
    with pytest.raises(InputError) as refusal:
        ClipSeg(str(source))
    message = str(refusal.value)
    assert "\n" not in message
    return message


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    said = refused(tmp_path / "nowhere")
    assert said.startswith(f"{tmp_path}/nowhere: no such folder")
    assert "--clipseg.model" in said


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda place: (place / "config.json").unlink(), "there is no config.json"),
        (
            lambda place: (place / "config.json").write_text('{"model_type": "clip"}'),
            "of type clip, not clipseg",
        ),
        (lambda place: (place / "model.safetensors").unlink(), "settings but no weights"),
        (
            lambda place: (place / "model.safetensors").rename(place / "pytorch_model.bin"),
            "a pickle, which is never",
        ),
        (
            lambda place: (place / "model.safetensors").write_bytes(b"version https://git-lfs"),
            "Git LFS pointer",
        ),
        (lambda place: (place / "model.safetensors").write_bytes(b"\0" * 99), "transformers cannot load it"),
        (lambda place: (place / "vocab.json").write_text("no"), "its tokenizer cannot be loaded"),
        (lambda place: (place / "preprocessor_config.json").write_text("no"), "not valid JSON"),
    ],
)
def test_a_spoilt_folder_is_one_line(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
):
    place = tmp_path / "spoilt"
    shutil.copytree(folder, place)
    spoil(place)
    message = refused(place)
    assert str(place) in message
    assert said in message


def test_weights_that_would_be_drawn_at_random_are_refused(folder: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "part")
    tensors = load_file(folder / "model.safetensors")
    del tensors["decoder.film_add.weight"]
    save_file(tensors, tmp_path / "part" / "model.safetensors", {"format": "pt"})
    assert "lack 1 tensors of CLIPSegForImageSegmentation (first: decoder.film_add.weight)" in refused(
        tmp_path / "part"
    )


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (
            errors.GatedRepoError,
            "ask for access at https://huggingface.co/a/b and run `hf auth login`",
        ),
        (errors.RepositoryNotFoundError, "nor on the hub"),
        (errors.RevisionNotFoundError, "has no revision v9"),
        (errors.LocalEntryNotFoundError, "`hf download a/b`) and give its folder as --clipseg.model"),
        (OSError, "the hub does not answer"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    trouble: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
):
    def download(name: str, **_: object) -> str:
        raise trouble.__new__(trouble)  # the hub's own want a web page's answer to be made from

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    message = refused("a/b@v9")
    assert message.startswith("a/b: ")
    assert said in message


def test_a_hub_model_is_called_by_its_commit_and_fetched_without_pickles(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked_for: dict[str, object] = {}
    snapshot = tmp_path / "snapshots" / "0123abcd"
    shutil.copytree(folder, snapshot)

    def download(name: str, **options: object) -> str:
        asked_for.update(options, name=name)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    key = ClipSeg("a/b@refs/pr/6").key["model"]
    assert (key["name"], key["commit"]) == ("a/b", "0123abcd")
    assert (asked_for["name"], asked_for["revision"]) == ("a/b", "refs/pr/6")
    assert all(
        Path(pattern).suffix in (".json", ".txt", ".safetensors") for pattern in asked_for["allow_patterns"]
    )


WITHOUT_TORCHVISION = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.startswith("torchvision") else real(name, *rest)
sys.modules["torchvision"] = None
import numpy as np
from PIL import Image
from foveate.foreground.proposers.base import Request
from foveate.foreground.proposers.clipseg import ClipSeg
mask = ClipSeg(sys.argv[1]).propose([Request("a", Image.new("RGB", (9, 8)), "cat")])[0].mask
print(mask.shape, [name for name in sys.modules if name.startswith("torchvision.")])
"""


@pytest.mark.slow
def test_it_runs_where_there_is_no_torchvision(folder: Path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCHVISION, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "(8, 9) []\n", done.stderr
    assert done.stderr == ""


def test_a_heat_of_the_models_size_is_not_resampled():
    heat = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    assert resized(heat, (SIDE, SIDE)) is heat
