"""Every source `load_clip` takes, and one clear line for everything it does not."""

import json
import os
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import errors
from safetensors import safe_open
from safetensors.torch import save_file

import foveate.clip
from foveate.clip import checkpoints
from foveate.clip.checkpoints import read_tensors
from foveate.clip.layouts import HUGGING_FACE, LAYOUTS, OPENAI, to_layout
from foveate.clip.model import Clip
from foveate.clip.precision import precision_on
from foveate.clip.weights import load_clip, save_clip
from foveate.errors import InputError

MEAN, STD = [0.5, 0.25, 0.125], [0.5, 0.5, 0.25]


@pytest.fixture
def ours(tiny_clip, tmp_path) -> Path:
    save_clip(tiny_clip, tmp_path / "ours")
    return tmp_path / "ours"


@pytest.fixture
def face(tiny_clip, tmp_path) -> Path:
    """A folder as transformers saves it: plain GELU, heads of 32, pixel statistics of its own."""
    folder = tmp_path / "face"
    folder.mkdir()
    save_file(to_layout(tiny_clip.state_dict(), HUGGING_FACE), folder / "model.safetensors")
    towers = {
        "vision_config": {"hidden_act": "gelu", "num_attention_heads": 4},
        "text_config": {"hidden_act": "quick_gelu", "num_attention_heads": 7},
        "text_config_dict": {"hidden_act": "gelu", "num_attention_heads": 2},
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", **towers}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    tiny_clip.tokenizer.save(folder / "tokenizer.json")
    return folder


@pytest.fixture
def open_clip_folder(tiny_clip, tmp_path) -> Path:
    folder = tmp_path / "open_clip"
    folder.mkdir()
    save_file(to_layout(tiny_clip.state_dict(), OPENAI), folder / "open_clip_model.safetensors")
    model = {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {"width": 128, "layers": 3, "head_width": 32, "patch_size": 8, "image_size": 32},
        "text_cfg": {"width": 64, "heads": 4, "layers": 2},
    }
    settings = {"model_cfg": model, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    tiny_clip.tokenizer.save(folder / "tokenizer.json")
    return folder


def assert_same(clip: Clip, other: Clip) -> None:
    assert {n: t.tolist() for n, t in clip.state_dict().items()} == {
        n: t.tolist() for n, t in other.state_dict().items()
    }


def assert_refused(source: Path | str, says: str, names: Path | str | None = None) -> None:
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        load_clip(source)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(names or source))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_our_folder_comes_back_to_the_bit(tiny_clip, ours):
    clip = load_clip(ours)
    assert clip.config == tiny_clip.config
    assert clip.fingerprint() == tiny_clip.fingerprint()
    assert torch.equal(clip.tokenizer(["a photo of a cat"]), tiny_clip.tokenizer(["a photo of a cat"]))
    assert sorted(path.name for path in ours.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_half_precision_folder_loads_in_float32(tiny_clip, tmp_path):
    save_clip(tiny_clip, tmp_path / "half", dtype=torch.float16)
    assert {t.dtype for t in read_tensors(tmp_path / "half/model.safetensors").values()} == {torch.float16}
    clip = load_clip(tmp_path / "half")
    assert {p.dtype for p in clip.parameters()} == {torch.float32}
    torch.testing.assert_close(clip.vision.pos, tiny_clip.vision.pos, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        tiny_clip.logit_scale.fill_(1e5)
    with pytest.raises(InputError, match=r"logit_scale does not fit into torch\.float16"):
        save_clip(tiny_clip, tmp_path / "half", dtype=torch.float16)


def test_dtype_and_device_are_asked_for(ours):
    clip = load_clip(ours, dtype=torch.bfloat16, device=torch.device("cpu"))
    towers = {p.dtype for name, p in clip.named_parameters() if name != "logit_scale"}
    assert towers == {torch.bfloat16}
    assert torch.equal(clip.logit_scale, load_clip(ours).logit_scale)  # bfloat16 would make 100 of it 99


@pytest.mark.parametrize("source", ["ours", "face", "saved"])
def test_weights_load_straight_into_a_precision(
    request: pytest.FixtureRequest,
    tiny_clip: Clip,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
):
    if source == "saved":
        path = tmp_path / "tuned.pt"
        torch.save(to_layout(tiny_clip.state_dict(), OPENAI), path)
        place, whole = f"{path}#gelu", load_clip(f"{path}#gelu")
    else:
        place = request.getfixturevalue(source)
        whole = load_clip(place)
    opened: list[int] = []
    monkeypatch.setattr(checkpoints, "_PART", 20_000)  # several parts, and tensors of more than one
    monkeypatch.setattr(checkpoints, "safe_open", lambda *given: opened.append(1) or safe_open(*given))
    half = load_clip(place, dtype="bfloat16")
    assert (len(opened) > 3) == (source != "saved")
    scale = whole.logit_scale.clone()
    whole.to(torch.bfloat16).logit_scale.data = scale
    assert_same(half, whole)
    assert half.fingerprint() == whole.fingerprint()
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in half.state_dict().values()}
    assert sum(held.values()) == sum(
        t.nbytes for t in half.state_dict().values()
    )  # nothing of the file is held


def test_a_number_that_a_precision_cannot_hold(tiny_clip: Clip, tmp_path: Path):
    with torch.no_grad():
        tiny_clip.vision.pos[1, 1] = 1e5
    save_clip(tiny_clip, tmp_path / "large")
    with pytest.raises(
        InputError, match=r"large.*vision\.pos does not fit into torch\.float16: load it in float32"
    ):
        load_clip(tmp_path / "large", dtype="float16")
    assert load_clip(tmp_path / "large", dtype="bfloat16").precision == "bfloat16"
    with pytest.raises(InputError, match="there is no precision 'int8'"):
        load_clip(tmp_path / "large", dtype="int8")


@pytest.mark.parametrize(
    ("device", "has", "found"),
    [
        ("cpu", {"avx512_bf16": True}, "bfloat16"),
        ("cpu", {"amx_bf16": True}, "bfloat16"),
        ("cpu", {"avx512_bf16": False, "avx2": True}, "float32"),
        ("cpu", None, "float32"),
        ("cuda:1", {}, "float16"),
        ("mps", {"avx512_bf16": True}, "float32"),
    ],
)
def test_auto_is_what_the_machine_computes_in_hardware(
    monkeypatch: pytest.MonkeyPatch, device: str, has: dict[str, bool] | None, found: str
):
    if has is None:  # as in older PyTorch
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert precision_on(device, "auto") == found
    assert precision_on(device, "float64") == "float64"


def test_hugging_face_folder_with_its_settings(tiny_clip, face):
    clip = load_clip(face)
    assert_same(clip, tiny_clip)
    assert (clip.config.vision.heads, clip.config.text.heads, clip.config.quick_gelu) == (4, 2, False)
    assert (list(clip.config.mean), list(clip.config.std)) == (MEAN, STD)
    assert clip.tokenizer.vocab == tiny_clip.config.vocab
    # The file alone cannot tell its activation; beside its settings it is read with them.
    assert load_clip(face / "model.safetensors").config == clip.config


def test_open_clip_folder_with_its_settings(tiny_clip, open_clip_folder):
    clip = load_clip(open_clip_folder)
    assert_same(clip, tiny_clip)
    assert (clip.config.vision.heads, clip.config.text.heads, clip.config.quick_gelu) == (4, 4, True)
    assert (list(clip.config.mean), list(clip.config.std)) == (MEAN, STD)
    settings = json.loads((open_clip_folder / "open_clip_config.json").read_text())
    del settings["model_cfg"]["quick_gelu"]
    (open_clip_folder / "open_clip_config.json").write_text(json.dumps(settings))
    assert load_clip(open_clip_folder / "open_clip_model.safetensors").config.quick_gelu is False
    # A timm checkpoint's own config beside it does not disturb.
    (open_clip_folder / "config.json").write_text(json.dumps({"architecture": "vit_base_patch16_clip_224"}))
    assert_same(load_clip(open_clip_folder), tiny_clip)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_lone_files(tiny_clip, tmp_path, layout, wrapper):
    tensors = to_layout(tiny_clip.state_dict(), layout)
    torch.save({wrapper: tensors, "epoch": 3} if wrapper else tensors, tmp_path / "weights.pt")
    with pytest.warns(UserWarning, match=r"weights.pt does not say its activation.*weights.pt#gelu"):
        assert load_clip(tmp_path / "weights.pt").fingerprint() == tiny_clip.fingerprint()
    assert load_clip(f"{tmp_path / 'weights.pt'}#quick_gelu").fingerprint() == tiny_clip.fingerprint()
    assert load_clip(f"{tmp_path / 'weights.pt'}#gelu").config.quick_gelu is False
    if not wrapper:
        save_file(tensors, tmp_path / "weights.safetensors")
        clip = load_clip(f"{tmp_path / 'weights.safetensors'}#quick_gelu")
        assert clip.fingerprint() == tiny_clip.fingerprint()
        with pytest.raises(InputError, match="no tokenizer for a vocabulary of"):
            _ = clip.tokenizer


def test_shards_and_old_vocabulary_files(tiny_clip, face):
    tensors = to_layout(tiny_clip.state_dict(), HUGGING_FACE)
    shards = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(tensors)}
    for shard in set(shards.values()):
        torch.save({n: t for n, t in tensors.items() if shards[n] == shard}, face / shard)
    (face / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
    (face / "model.safetensors").unlink()
    vocabulary = json.loads((face / "tokenizer.json").read_text())["model"]
    (face / "tokenizer.json").unlink()
    (face / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
    merges = [m if isinstance(m, str) else " ".join(m) for m in vocabulary["merges"]]
    (face / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    clip = load_clip(face)
    assert_same(clip, tiny_clip)
    texts = ["A photo of a  cat's Café.", "of cats"]
    assert torch.equal(clip.tokenizer(texts), tiny_clip.tokenizer(texts))
    (face / "pytorch_model-1.bin").unlink()
    assert_refused(face, "no such file", face / "pytorch_model-1.bin")
    edit(face / "pytorch_model.bin.index.json", weight_map={"a": "../other.bin"})
    assert_refused(face, "names the shard ../other.bin, outside its folder", face)
    edit(face / "pytorch_model.bin.index.json", weight_map=None)
    assert_refused(face, "has no weight_map", face)


class Hub:
    """`snapshot_download` over a local folder."""

    def __init__(self, remote: Path, cache: Path):
        self.remote, self.cache, self.asked = remote, cache, []

    def __call__(self, name, *, revision, allow_patterns):
        self.asked.append((name, revision))
        self.cache.mkdir(exist_ok=True)
        for path in self.remote.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, self.cache)
        return str(self.cache)


def test_from_the_hub_only_what_is_needed(tiny_clip, face, open_clip_folder, tmp_path, monkeypatch):
    # As LAION's repositories are: the same weights three times over.
    shutil.copy(open_clip_folder / "open_clip_config.json", face)
    shutil.copy(open_clip_folder / "open_clip_model.safetensors", face)
    torch.save({}, face / "pytorch_model.bin")
    hub = Hub(face, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    clip = load_clip("ViT-B/16", revision="abc")
    assert_same(clip, tiny_clip)
    assert clip.config.quick_gelu is False
    assert set(hub.asked) == {("openai/clip-vit-base-patch16", "abc")}
    assert [path.name for path in hub.cache.iterdir() if path.suffix in (".safetensors", ".bin")] == [
        "model.safetensors"
    ]
    # A repository without transformers' weights: open_clip's are taken.
    (face / "model.safetensors").unlink()
    (face / "pytorch_model.bin").unlink()
    hub.cache = tmp_path / "cache2"
    assert load_clip("hf-hub:laion/some-CLIP").config.quick_gelu is True
    assert hub.asked[-1] == ("laion/some-CLIP", None)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.LocalEntryNotFoundError("long\nexplanation"), "the hub does not answer"),
        (errors.OfflineModeIsEnabled("offline"), "hf download no/such"),
        (OSError("unreachable"), "the hub does not answer"),
        (errors.HFValidationError("bad id"), "the hub does not answer"),
    ],
)
def test_no_hub(monkeypatch, error, says):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert_refused("no/such", says)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (errors.RepositoryNotFoundError, "nor on the hub"),
        (errors.RevisionNotFoundError, "no revision None"),
        (errors.GatedRepoError, "nor on the hub"),
    ],
)
def test_not_on_the_hub(monkeypatch, kind, says):
    def download(*_, **__):
        raise kind.__new__(kind)  # its __init__ wants an answer of the hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert_refused("no/such", says)


@pytest.mark.parametrize("source", ["nothing", "./nothing", "some/weights.pt", "/no/such/folder", "RN50", ""])
def test_no_such_source(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    if source:
        assert_refused(source, "no such file or folder, and no hub id")
    assert_refused("empty", "no CLIP's folder: no config.json")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty: download it again"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"just some text, longer than eight bytes", "no safetensors file|no file of weights|code that"),
        (bytes(range(256)) * 9, "no safetensors file|no file of weights"),
    ],
)
def test_files_that_hold_no_weights(tmp_path, suffix, content, says):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        load_clip(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_files_cut_short(tiny_clip, tmp_path, suffix, share):
    path = tmp_path / f"weights{suffix}"
    tensors = dict(tiny_clip.state_dict())
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert_refused(path, "cut short" if suffix == ".safetensors" else "damaged", path)


def test_files_of_other_things(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    assert_refused(tmp_path / "list.pt", "holds a list, not tensors by name")
    torch.save({"state_dict": {"head.weight": torch.ones(2)}}, tmp_path / "head.pt")
    assert_refused(tmp_path / "head.pt", "holds no CLIP in OpenAI's")
    (tmp_path / "weights.ckpt").write_bytes(b"weights")
    assert_refused(tmp_path / "weights.ckpt", "no file of weights")
    os.mkfifo(tmp_path / "pipe.pt")
    assert_refused(tmp_path / "pipe.pt", "is a pipe or a device, no file")


class Settings:
    """Beside the weights in a checkpoint: of no use, and no hindrance."""

    lr = 0.1


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["a.ckpt", "a.pth.tar", "a"])
@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("_orig_mod.", "state_dict"),
        ("module._orig_mod.", "model"),
        ("clip_model.", "module"),
        ("module.model.", "anything"),
        ("", "network"),
    ],
)
def test_wrapped_weights(tiny_clip, tmp_path, name, prefix, key, zipped):
    tensors = {prefix + n: tensor for n, tensor in tiny_clip.state_dict().items()}
    content = {key: tensors, "best": np.float64(0.5), "args": Settings(), "optimizer": {"state": {}}}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert load_clip(f"{tmp_path / name}#quick_gelu").fingerprint() == tiny_clip.fingerprint()


def test_wrappers_that_cannot_be_told_apart(tiny_clip, tmp_path):
    tensors = tiny_clip.state_dict()
    torch.save({"teacher": tensors, "student": tensors}, tmp_path / "a.pt")
    assert_refused(tmp_path / "a.pt", "holds tensors under 'teacher' and under 'student'", tmp_path / "a.pt")
    beside = {f"model.{n}": tensor for n, tensor in tensors.items()} | {"loss.weight": torch.ones(1)}
    torch.save(beside, tmp_path / "b.pt")
    assert_refused(tmp_path / "b.pt", "holds a CLIP under the prefix 'model.', and loss.weight beside it")
    torch.save(dict(tensors) | {"module.vision.cls": tensors["vision.cls"]}, tmp_path / "c.pt")
    assert_refused(tmp_path / "c.pt", "has vision.cls twice")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: torch.full_like(t, torch.nan), "not finite"),
        (lambda t: t.index_fill(0, torch.tensor([0]), torch.inf), "not finite"),
        (lambda t: t.long(), "torch.int64, not real numbers"),
        (lambda t: t > 0, "torch.bool, not real numbers"),
        (lambda t: t.to(torch.complex64), "torch.complex64, not real numbers"),
    ],
    ids=["nan", "infinity", "integers", "truth values", "complex"],
)
def test_numbers_that_no_weights_are(tiny_clip, ours, tmp_path, spoil, says):
    name = "vision.blocks.1.fc.weight"
    tensors = dict(tiny_clip.state_dict())
    tensors[name] = spoil(tensors[name])
    save_file(tensors, ours / "model.safetensors")
    assert_refused(ours, f"{name} h", ours / "model.safetensors")
    torch.save({"state_dict": tensors}, tmp_path / "weights.pt")
    assert_refused(tmp_path / "weights.pt", says, tmp_path / "weights.pt")


def test_settings_that_do_not_fit(ours, face, open_clip_folder):
    edit(ours / "config.json", version=2)
    assert_refused(ours, "is of version 2, this foveate reads 1: update it", ours / "config.json")
    edit(ours / "config.json", version=1, colour="red")
    assert_refused(ours, "is not as save_clip wrote it", ours / "config.json")
    edit(face / "config.json", vision_config={"hidden_act": "gelu_new"})
    assert_refused(face, "activations gelu_new and gelu are not supported", face / "config.json")
    edit(face / "config.json", vision_config={"layer_norm_eps": 1e-6})
    assert_refused(face, "layer_norm_eps of 1e-06 is not supported", face / "config.json")
    edit(face / "config.json", vision_config=[1])
    assert_refused(face, "vision_config holds no settings", face / "config.json")
    edit(face / "config.json", vision_config={"hidden_act": "gelu", "num_attention_heads": "many"})
    assert_refused(face, "num_attention_heads is 'many'", face / "config.json")
    edit(face / "config.json", model_type="siglip")
    assert_refused(face, "no CLIP's folder: its config.json is of a model of type 'siglip', not 'clip'", face)
    (face / "config.json").write_text("{")
    assert_refused(face, "not valid JSON", face / "config.json")
    (face / "config.json").write_text("[" * 100_000)
    assert_refused(face, "nested too deeply", face / "config.json")
    (face / "config.json").write_text("[]")
    assert_refused(face, "holds no settings, but a list", face / "config.json")
    config = open_clip_folder / "open_clip_config.json"
    for changes, says in (
        ({"vision_cfg": {"timm_model_name": "vit"}}, "timm_model_name = vit is not supported"),
        ({"vision_cfg": {"layers": [3, 4, 6, 3]}}, "its image tower is a ResNet"),
        ({"text_cfg": {"no_causal_mask": True}}, "no_causal_mask = True is not supported"),
        ({"text_cfg": {"pool_type": "last"}}, "pool_type = last is not supported"),
    ):
        edit(config, model_cfg=changes)
        assert_refused(open_clip_folder, says, config)
    edit(config, model_cfg={}, preprocess_cfg={"mean": [0.5]})
    assert_refused(open_clip_folder, "mean is [0.5], not three numbers", config)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *(((tower, name), value) for tower in ("vision", "text") for name in ("width", "layers", "heads")
          for value in (None, 0, -1, 1.5, True, "12", [3], 10**15)),
        *(((name,), value) for name in ("image_size", "patch_size", "context", "vocab", "embed")
          for value in (None, 0, "8", 10**15)),
        *(((name,), value) for name in ("mean", "std")
          for value in (None, 0.5, [1, 2], ["a", 1, 1], [True] * 3)),
        *(((name,), value) for name in ("vision", "text") for value in (None, 5, [], {"colour": 1})),
        (("quick_gelu",), 1), (("std",), [0, 1, 1]), (("vision", "hidden"), 0), (("vision", "heads"), 3),
        (("patch_size",), 64), (("format",), 5), (("version",), None), (("colour",), "red"),
    ],
)  # fmt: skip
def test_a_setting_of_ours_that_cannot_be(ours, place, value):
    settings = json.loads((ours / "config.json").read_text())
    *above, name = place
    inner = settings
    for part in above:
        inner = inner[part]
    inner[name] = value
    (ours / "config.json").write_text(json.dumps(settings))
    assert_refused(ours, "no CLIP's folder" if name == "format" else name, ours)


@pytest.mark.parametrize("value", [0, -3, True, "8", 2.5, [12]])
def test_a_setting_of_theirs_that_cannot_be(face, open_clip_folder, value):
    for tower in ("vision_config", "text_config_dict"):
        kept = (face / "config.json").read_text()
        for name in ("num_attention_heads", "hidden_size", "image_size"):
            settings = json.loads(kept)
            settings[tower][name] = value
            (face / "config.json").write_text(json.dumps(settings))
            assert_refused(face, f"{name} is {value!r}", face / "config.json")
        (face / "config.json").write_text(kept)
    settings = json.loads((open_clip_folder / "open_clip_config.json").read_text())
    settings["model_cfg"]["text_cfg"]["heads"] = value
    (open_clip_folder / "open_clip_config.json").write_text(json.dumps(settings))
    assert_refused(open_clip_folder, f"heads is {value!r}", open_clip_folder / "open_clip_config.json")


def test_missing_weights_and_bad_tokenizers(ours, face):
    (face / "tokenizer.json").write_text("{}")
    assert_refused(face, "no CLIP tokenizer", face / "tokenizer.json")
    (face / "model.safetensors").unlink()
    assert_refused(face, "has settings but no weights (model.safetensors or pytorch_model.bin)", face)
    edit(ours / "config.json", vocab=100)
    assert_refused(ours, "tokens, the text tower 100", ours / "model.safetensors")
    (ours / "tokenizer.json").unlink()
    assert_refused(ours, "text.token.weight is (", ours / "model.safetensors")


def test_tiny_is_the_packaged_one():
    if not (Path(foveate.clip.__file__).parent / "tiny").is_dir():
        pytest.skip("the embedded CLIP is not trained yet")
    clip = load_clip("tiny")
    assert clip.tokenizer(["a photo of a cat"]).shape == (1, clip.config.context)
