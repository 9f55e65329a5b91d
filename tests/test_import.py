"""Checkpoints as the authors' code writes them become classifiers that give the same answers."""

import json
import math
import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from foveate.classifier import Classifier
from foveate.clip.layouts import OPENAI, to_layout
from foveate.clip.model import Clip
from foveate.clip.templates import DATASET_TEMPLATES
from foveate.clip.tokenizer import ClipTokenizer
from foveate.clip.weights import load_clip, save_clip
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.capabilities import OfficialCheckpoint
from foveate.methods.registry import backbones, build
from foveate.official.files import find_checkpoint, read_checkpoint
from foveate.official.names import (
    METHODS,
    TOLERANCE,
    candidates,
    check_clip,
    difference,
    name_of,
    names_behind,
    names_within,
    read_sentences,
    tidy,
)

Call = Callable[..., object]
State = dict[str, Tensor]
NAMES = ["face", "Leopard", "sea horse", "wild cat", "old phone"]


class ConstantWarmupScheduler:
    """As Dassl's: it pickles the schedule that follows it, and through it the optimiser."""

    def __init__(self, successor: object):
        self.successor, self.cons_lr, self.last_epoch = successor, 1e-5, 9


def dassl(state: Mapping[str, Tensor], path: Path, epoch: int = 10, *, zipped: bool = True) -> Path:
    """Save as Dassl does: the model, the optimiser, the schedule, and a NumPy number."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9)
    schedule = ConstantWarmupScheduler(torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10))
    content = {
        "state_dict": OrderedDict(state),
        "epoch": epoch,
        "optimizer": optimiser.state_dict(),
        "scheduler": vars(schedule) | {"itself": schedule},
        "val_result": np.float64(81.25),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


# --- what the authors' code would have in memory ---


def embedded(clip: Clip, sentences: list[str]) -> Tensor:
    return clip.text.token(clip.tokenizer(sentences)).detach()


def buffers(clip: Clip, names: list[str], tokens: int, prefix: str | None = None) -> State:
    """The embedded prompts around the vectors: `prefix name.`, its first tokens cut out."""
    words = prefix or " ".join(["X"] * tokens)
    rows = embedded(clip, [f"{words} {name.replace('_', ' ')}." for name in names])
    return {"token_prefix": rows[:, :1], "token_suffix": rows[:, 1 + tokens :]}


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def towers(clip: Clip) -> State:
    """All of CLIP, as a model that keeps it in `image_encoder` and `text_encoder` saves it."""
    found: State = {}
    for name, tensor in to_layout(clip.state_dict(), OPENAI).items():
        if name.startswith("visual."):
            found["image_encoder." + name.removeprefix("visual.")] = tensor
        elif name != "token_embedding.weight":  # the text encoder has no table
            found[name if name == "logit_scale" else f"text_encoder.{name}"] = tensor
    return found


def frozen_copy(clip: Clip) -> State:
    """The second image tower that PromptSRC keeps."""
    inside = {n: t for n, t in towers(clip).items() if n.startswith("image_encoder.")}
    return {f"prompt_learner.ZS_{name}": tensor for name, tensor in inside.items()}


def learned_by(method: Method) -> State:
    """Our learned tensors under the authors' names; stacked ones apart."""
    state: State = {}
    for ours, theirs in method.official_names().items():
        tensor = method.learned()[ours].detach()
        pairs = [(theirs, tensor)] if isinstance(theirs, str) else list(zip(theirs, tensor, strict=True))
        state |= {name: part.clone() for name, part in pairs}
    return state


def made(method: str, clip: Clip, **settings: object) -> Method:
    """A method of ours whose learned tensors are all random."""
    own = build(method, clip, {method: settings})
    generator = torch.Generator().manual_seed(5)
    for parameter in own.learned().values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return own


def official_state(
    method: str, own: Method, clip: Clip, names: list[str], prefix: str | None = None
) -> State:
    """A whole checkpoint of the authors' code of a method."""
    state = learned_by(own)
    if method in ("ivlp", "promptsrc", "maple", "vpt", "mmrl", "hicropl"):
        state |= towers(clip)
    if method == "mmrl":
        state["prompt_embeddings"] = embedded(
            clip, [(prefix or "a photo of a {}.").format(name) for name in names]
        )
        return state
    if method in ("promptsrc", "hicropl"):
        state |= frozen_copy(clip)
    if method == "hicropl":  # the first block's tokens are there under two names
        state["prompt_learner.ctx"] = state["prompt_learner.cross_prompts_text.0"]
    if method != "vpt":
        state |= under("prompt_learner.", buffers(clip, names, len(own.ctx), prefix))
    if method == "kgcoop":
        width = own.ctx.shape[1]
        state["prompt_learner.bias_vectors"] = torch.zeros(1, width)
        state |= under(
            "prompt_learner.meta_net.linear1.", {"weight": torch.eye(width), "bias": torch.zeros(width)}
        )
    if method in ("coop", "kgcoop", "prograd", "cocoop"):  # the prompt learner is saved by itself
        state = {name.removeprefix("prompt_learner."): tensor for name, tensor in state.items()}
    return state


def answers(method: Method, images: Tensor, names: list[str], branch: str = "base") -> Tensor:
    method.set_classes(names, method.template)
    with torch.no_grad():
        return method.logits(method.features(images), branch)


# --- the golden numbers ---


@pytest.fixture(scope="session")
def golden_clip(official, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden-clip")
    save_clip(official.clip, folder)
    return folder


def golden(official, method: str) -> State:
    """The checkpoint that the authors' code had when the golden numbers were computed."""
    clip, names, numbers = official.clip, official.read_names, official.tensors
    if method in ("coop", "kgcoop"):
        ctx = numbers[f"{method}/ctx"]
        prefix = "a photo of a" if method == "kgcoop" else None
        state = {"ctx": ctx, **buffers(clip, names, len(ctx), prefix)}
        if method == "kgcoop":
            state |= {"bias_vectors": torch.zeros(1, 512), "meta_net.linear1.weight": torch.zeros(512, 512)}
        return state
    start = f"{method}/param/"
    state = {n.removeprefix(start): t for n, t in numbers.items() if n.startswith(start)} | towers(clip)
    if method == "mmrl":
        sentence = official.settings["dataset_template"]
        return state | {"prompt_embeddings": embedded(clip, [sentence.format(name) for name in names])}
    tokens = int(official.settings["promptsrc_text_tokens"])
    return state | frozen_copy(clip) | under("prompt_learner.", buffers(clip, names, tokens, "a photo of a"))


@pytest.mark.parametrize("method", ["coop", "kgcoop", "promptsrc", "mmrl"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_golden_logits_through_a_checkpoint(
    foveate: Call, official, golden_clip: Path, tmp_path: Path, method: str, zipped: bool
):
    path = dassl(golden(official, method), tmp_path / "model.pth.tar-10", zipped=zipped)
    asked = {
        "coop": ["--method", "coop"],  # the others are known by their tensors
        "mmrl": ["--template", official.settings["dataset_template"]]
        + [word for name, value in official.mmrl.items() for word in (f"--mmrl.{name}", str(value))],
    }.get(method, [])
    if official.told_names:
        (tmp_path / "names.txt").write_text("\n".join(official.told_names))
        asked += ["--classes", str(tmp_path / "names.txt")]
    said = foveate("import", path, "--clip", golden_clip, "--out", tmp_path / "out", *asked)
    assert (said.code, said.err) == (0, "")
    assert f"{len(official.names)} classes: {', '.join(official.read_names)}\n" in said.out
    assert said.out.startswith(f"{method} of {path} (model.pth.tar-10, epoch 10): ")
    classifier = Classifier.from_pretrained(tmp_path / "out")
    assert classifier.config.names == official.read_names
    tuned = classifier.method
    logits = {"base": answers(tuned, official.images, official.names)}
    expected = {"base": official.tensors[f"{method}/logits"]}
    if method == "mmrl":
        logits["new"] = answers(tuned, official.images, official.names, "new")
        expected = {"base": official.tensors["mmrl/logits_fusion"], "new": official.tensors["mmrl/logits"]}
        assert {name: getattr(tuned.config, name) for name in official.mmrl} == official.mmrl
    for branch, numbers in expected.items():
        torch.testing.assert_close(logits[branch], numbers, rtol=1e-4, atol=1e-4)


def test_golden_checkpoints_in_half_precision(official):
    for method in ("coop", "kgcoop", "promptsrc", "mmrl"):
        state = {name: tensor.half() for name, tensor in golden(official, method).items()}
        told: dict = {"method": method, "names": official.told_names}
        if method == "mmrl":
            told |= {"template": official.settings["dataset_template"], "settings": {"mmrl": official.mmrl}}
        found = Classifier.from_official(state, official.clip, **told)
        assert found.config.names == official.read_names
        rounded = {n: t.half().float() for n, t in golden(official, method).items()}
        expected = Classifier.from_official(rounded, official.clip, **told)
        for name, tensor in expected.method.learned().items():
            assert torch.equal(found.method.learned()[name], tensor), name


# --- every method, from our own tensors ---

SHAPES = {
    "coop": {"tokens": 3},
    "kgcoop": {},
    "prograd": {"tokens": 9},
    "cocoop": {},
    "ivlp": {"text_depth": 2, "vision_depth": 3, "vision_tokens": 3},
    "promptsrc": {"text_depth": 1, "vision_depth": 2},
    "vpt": {"tokens": 3, "depth": 3},
    "maple": {"depth": 2},
    "mmrl": {"tokens": 3, "width": 16, "first_block": 2, "last_block": 2, "alpha": 0.4},
    "hicropl": {"tokens": 5, "depth": 2, "cross_layer": 1},
}
INITS = {"hicropl": None, "coop": None, "prograd": "X X a photo of a", "vpt": None}


def noted(method: str) -> AbstractContextManager[object]:
    """What an import always says of a method."""
    return pytest.warns(UserWarning, match="have those of") if method == "hicropl" else nullcontext()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_method_answers_as_before(tiny_clip: Clip, tmp_path: Path, method: str, dtype: torch.dtype):
    own = made(method, tiny_clip, **SHAPES[method])
    prefix = INITS.get(method, "a photo of a") if method != "mmrl" else None
    state = official_state(method, own, tiny_clip, NAMES, prefix)
    if dtype != torch.float32:
        for parameter in own.learned().values():
            parameter.data = parameter.data.to(dtype).float()
    path = dassl({name: tensor.to(dtype) for name, tensor in state.items()}, tmp_path / "model-best.pth.tar")
    told = {"mmrl": {"alpha": 0.4, "last_block": 2}} if method == "mmrl" else {}
    with noted(method):
        found = Classifier.from_official(
            path,
            tiny_clip,
            method=method if method in ("coop", "prograd") else None,
            names=NAMES if method == "vpt" else None,
            settings=told,
        )
    assert found.method_name == method
    assert [name.casefold() for name in found.config.names] == [name.casefold() for name in NAMES]
    for name, value in SHAPES[method].items():
        assert found.settings[method][name] == value, name
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for branch in ("base", "new"):
        assert torch.equal(answers(found.method, images, NAMES, branch), answers(own, images, NAMES, branch))


def test_a_model_of_several_gpus(tiny_clip: Clip):
    own = made("ivlp", tiny_clip)
    state = under("module.", official_state("ivlp", own, tiny_clip, NAMES, "a photo of a"))
    found = Classifier.from_official({"state_dict": state, "epoch": 3}, tiny_clip)
    assert found.method_name == "ivlp"
    assert found.config.imported == "a state dict in memory, epoch 3"


def test_class_specific_context_keeps_its_order(tiny_clip: Clip, tmp_path: Path):
    own = made("coop", tiny_clip, class_specific=True, tokens=2)
    own.ctx.data = torch.randn(len(NAMES), 2, own.ctx.shape[-1]) * 0.1
    state = {"ctx": own.ctx.detach(), **buffers(tiny_clip, NAMES, 2)}
    found = Classifier.from_official(
        dassl(state, tmp_path / "model.pth.tar-50"), tiny_clip
    )  # no other has this
    assert found.settings["coop"]["class_specific"] is True
    images = torch.randn(2, 3, 32, 32)
    expected = answers(own, images, NAMES)
    assert torch.equal(answers(found.method, images, found.config.names), expected)
    with pytest.warns(UserWarning, match="class 1 was given as 'a', but the checkpoint calls it 'face'"):
        named = Classifier.from_official(state, tiny_clip, names=["a", "b", "c", "d", "e"])
    assert torch.equal(named.method.ctx, own.ctx)
    assert named.method.ctx_names == ("a", "b", "c", "d", "e")
    with pytest.raises(InputError, match="was trained on 5 classes, but 3 names were given"):
        Classifier.from_official({"ctx": own.ctx.detach()}, tiny_clip, names=["a", "b", "c"])


@pytest.mark.parametrize("position", ["middle", "front"])
def test_the_place_of_the_name_is_for_the_person_to_say(tiny_clip: Clip, position: str):
    own = made("coop", tiny_clip, position=position)
    state = official_state("coop", own, tiny_clip, NAMES)  # what is saved is the same for all places
    found = Classifier.from_official(
        state, tiny_clip, method="coop", settings={"coop": {"position": position}}
    )
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(answers(found.method, images, NAMES), answers(own, images, NAMES))


# --- which words stay between the vectors and the name ---


@pytest.mark.parametrize("method", ["ivlp", "maple", "kgcoop", "cocoop", "promptsrc", "hicropl"])
@pytest.mark.parametrize(
    ("tokens", "prefix", "init"),
    [(n, "a photo of a", "a photo of a") for n in (1, 4, 6, 7)]
    + [(2, "X X", None), (8, "X " * 7 + "X", None)],
)
def test_the_words_behind_the_vectors(
    tiny_clip: Clip, method: str, tokens: int, prefix: str, init: str | None
):
    assert len(tiny_clip.tokenizer.words("a photo of a")) == 7
    own = made(method, tiny_clip, tokens=tokens, init=init)
    with noted(method):
        found = Classifier.from_official(official_state(method, own, tiny_clip, NAMES, prefix), tiny_clip)
    assert found.settings[method]["init"] == init
    assert list(found.method.words) == (tiny_clip.tokenizer.words(prefix)[tokens:] if init else [])
    assert found.config.names == [name.casefold() for name in NAMES]
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(answers(found.method, images, NAMES), answers(own, images, NAMES))


def test_words_that_a_person_names(tiny_clip: Clip):
    own = made("maple", tiny_clip, init="some picture of the")
    state = official_state("maple", own, tiny_clip, NAMES, "some picture of the")
    settings = {"maple": {"init": "some picture of the"}}
    found = Classifier.from_official(state, tiny_clip, settings=settings)
    assert found.config.names == [name.casefold() for name in NAMES]
    with pytest.raises(InputError, match=r"other words before the names than --maple\.init 'a b c d' leaves"):
        Classifier.from_official(state, tiny_clip, settings={"maple": {"init": "a b c d"}})
    with pytest.warns(UserWarning, match="every class name begins with 'me'"):
        found = Classifier.from_official(state, tiny_clip)
    images = torch.randn(2, 3, 32, 32)  # the names then have the words, and the answers are the same
    assert found.config.names[2] == "me picture of the sea horse"
    assert torch.equal(answers(found.method, images, found.config.names), answers(own, images, NAMES))


def test_what_is_taken_for_granted_is_told(tiny_clip: Clip):
    own = made("ivlp", tiny_clip)
    state = official_state("ivlp", own, tiny_clip, NAMES, "a photo of a")
    bare = {name: tensor for name, tensor in state.items() if "token_" not in name}
    with pytest.raises(InputError, match="has no class names in it"):
        Classifier.from_official(bare, tiny_clip)
    with pytest.warns(UserWarning, match="took it that '.* of a' stays before the names"):
        found = Classifier.from_official(bare, tiny_clip, names=NAMES)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(answers(found.method, images, NAMES), answers(own, images, NAMES))
    four = made("ivlp", tiny_clip, tokens=8, init=None)  # more than "a photo of a" has: nothing can stay
    bare = learned_by(four) | towers(tiny_clip)
    assert Classifier.from_official(bare, tiny_clip, names=NAMES).settings["ivlp"]["init"] is None
    state = official_state("mmrl", made("mmrl", tiny_clip), tiny_clip, NAMES)
    del state["prompt_embeddings"]
    settings = {"mmrl": {"last_block": 2}}
    with pytest.warns(UserWarning, match=r"took the sentence 'a photo of a {}\.': if it was another"):
        Classifier.from_official(state, tiny_clip, names=NAMES, settings=settings)
    Classifier.from_official(state, tiny_clip, names=NAMES, template="an {}", settings=settings)


def test_given_names_make_up_for_sentences_that_cannot_be_read(tiny_clip: Clip):
    own = made("maple", tiny_clip, tokens=7)
    state = official_state("maple", own, tiny_clip, NAMES, "a photo of a")
    spoilt = state | {"prompt_learner.token_suffix": state["prompt_learner.token_suffix"] + 0.01}
    with pytest.raises(InputError, match="class names in tokens that this CLIP has not"):
        Classifier.from_official(spoilt, tiny_clip)
    assert Classifier.from_official(spoilt, tiny_clip, names=NAMES).config.names == NAMES
    rows = embedded(tiny_clip, [f"a photo of a {name}, a kind of thing" for name in NAMES])  # no full stop
    other = state | {"prompt_learner.token_suffix": rows[:, 8:]}
    with pytest.raises(InputError, match="not in a name: give the names with --classes"):
        Classifier.from_official(other, tiny_clip)
    with pytest.warns(UserWarning, match="not those that foveate makes of names"):
        assert Classifier.from_official(other, tiny_clip, names=NAMES).config.names == NAMES


# --- class names ---

HARD = [
    "Boeing 737-200",
    "crêpe flambée",
    "F-16A/B",
    "bird's nest",
    "rock 'n' roll",
    "St. Bernard",
    "Mt.",
    "日本 cat",
    "salt & pepper (new), red",
    "2 7 1",
    "über…",
    "ain't",
    "7-up!",
    "a photo of a cat.",
    "100% cotton",
    "x" * 40,
]


@pytest.fixture(scope="session")
def words_of_clip() -> ClipTokenizer:
    return ClipTokenizer.openai()


@pytest.mark.parametrize("name", HARD)
def test_names_come_back_token_by_token(words_of_clip: ClipTokenizer, name: str):
    back = name_of(words_of_clip.words(f"{name}."), words_of_clip)
    assert words_of_clip.words(f"{back}.") == words_of_clip.words(f"{name}.")
    if name not in ("2 7 1", "rock 'n' roll", "F-16A/B"):  # spaces that the tokens do not tell of
        assert back == name.lower()


def test_spaces_that_are_guessed_are_told_of(tiny_clip: Clip):
    names = ["A300B4", "ATR-42"]
    state = official_state("maple", made("maple", tiny_clip), tiny_clip, names, "a photo of a")
    with pytest.warns(UserWarning, match="beside numbers and signs are guessed, as in 'a 300 b 4'"):
        found = Classifier.from_official(state, tiny_clip)
    assert found.config.names == ["a 300 b 4", "atr-42"]
    assert Classifier.from_official(state, tiny_clip, names=names).config.names == names  # without a note


@pytest.mark.parametrize("template", sorted(set(DATASET_TEMPLATES.values())))
def test_names_and_sentence_out_of_whole_sentences(words_of_clip: ClipTokenizer, template: str):
    names = ["sea horse", "Boeing 737-200", "photo", "St. Bernard", "a type of pet"]
    sentences = [words_of_clip.words(template.format(name)) for name in names]
    found, sentence = names_within(sentences, None, words_of_clip)
    assert (found, sentence) == ([name.lower() for name in names], template)


def test_an_unknown_sentence_is_what_all_share(words_of_clip: ClipTokenizer):
    template, names = "look, a well-known {}, of 3 kinds!", ["sea horse", "wild cat", "owl"]
    sentences = [words_of_clip.words(template.format(name)) for name in names]
    found, sentence = names_within(sentences, None, words_of_clip)
    assert found == names
    assert [words_of_clip.words(sentence.format(name)) for name in names] == sentences
    assert names_within(sentences, template, words_of_clip) == (names, template)
    with pytest.raises(InputError, match="has sentences such as 'look, a"):
        names_within(sentences, "a {} here", words_of_clip)
    with pytest.raises(InputError, match="has sentences such as"):  # of one sentence, all is shared
        names_within(sentences[:1], None, words_of_clip)


def test_sentences_without_a_name_are_refused(words_of_clip: ClipTokenizer):
    for text in ("cat", ".", ""):
        with pytest.raises(InputError, match="give the names with --classes"):
            name_of(words_of_clip.words(text), words_of_clip)


def test_spaces_nobody_would_type():
    assert tidy("7 3 7 - 2 0 0") == "737-200"
    assert tidy("bird 's nest ( old ) , red") == "bird's nest (old), red"
    assert tidy("level 4 2 b") == "level 42 b"


def test_tokens_of_another_table_are_refused(tiny_clip: Clip):
    state = buffers(tiny_clip, NAMES, 4)
    assert names_behind(read_sentences(state, tiny_clip), [], tiny_clip.tokenizer)[0] == "face"
    moved = state | {"token_suffix": state["token_suffix"] + 0.01}
    with pytest.raises(InputError, match="class names in tokens that this CLIP has not"):
        read_sentences(moved, tiny_clip)
    endless = state | {"token_suffix": state["token_suffix"][:, :1]}
    with pytest.raises(InputError, match="sentences without an end"):
        read_sentences(endless, tiny_clip)


# --- the CLIP it was tuned on ---


def averaged(state: State, epochs: int, mean: float, std: float) -> State:
    """PromptSRC's Gaussian average over epochs, in the precision of each tensor, of a still model."""
    weights = np.array([math.exp(-0.5 * ((e - mean) / std) ** 2) for e in range(1, epochs + 1)])
    weights = weights / weights.sum()
    total: State = {}
    for weight in weights:
        for name, tensor in state.items():
            total[name] = total[name] + tensor * weight if name in total else tensor * weight
    return total


@pytest.mark.parametrize(
    ("epochs", "mean", "std"), [(20, 15, 1), (10, 15, 1), (50, 30, 30), (50, 45, 5), (5, 6, 10)]
)
def test_the_average_of_promptsrc_is_no_other_clip(official, epochs: int, mean: float, std: float):
    half = {name: tensor.half() for name, tensor in golden(official, "promptsrc").items()}
    state = averaged(half, epochs, mean, std)
    apart = [difference(state[name], tensor) for name, tensor in towers(official.clip).items()]
    assert 0 < max(apart) < TOLERANCE / 4
    found = Classifier.from_official(state, official.clip, names=official.told_names)
    assert (found.method_name, found.config.names) == ("promptsrc", official.read_names)


@pytest.fixture(scope="session")
def other_clip(official, golden_state_dict) -> Clip:
    return Clip.from_state_dict(golden_state_dict(int(official.settings["seed"]) + 1))


@pytest.mark.parametrize("method", ["coop", "kgcoop", "promptsrc", "mmrl"])
def test_another_clip_is_refused(official, other_clip: Clip, method: str):
    with pytest.raises(InputError, match="was tuned on another CLIP than this one: its start token"):
        Classifier.from_official(golden(official, method), other_clip, method=method)


def test_another_clip_with_the_same_words_is_refused(official, golden_state_dict):
    clip = Clip.from_state_dict(golden_state_dict(int(official.settings["seed"])))
    state = {name: tensor.half() for name, tensor in golden(official, "promptsrc").items()}
    check_clip(read_checkpoint(state).tensors, clip)
    with torch.no_grad():
        clip.vision.blocks[11].ln_2.weight *= 1.1
    with pytest.raises(
        InputError, match=r"its image_encoder\.transformer\.resblocks\.11\.ln_2\.weight differs"
    ):
        check_clip(read_checkpoint(state).tensors, clip)


def test_a_clip_of_other_sizes_is_refused(official, tiny_clip: Clip, small_config, small_tokenizer):
    wide = Clip(small_config(small_tokenizer.vocab, embed=64), small_tokenizer)
    deep = build("vpt", tiny_clip, {"vpt": {"depth": 3}})
    own = made("cocoop", tiny_clip)
    for state, clip, says in (
        (
            {"ctx": torch.zeros(4, 768)},
            tiny_clip,
            "a CLIP with text width 768, this one has 64: give that one",
        ),
        ({"image_encoder.VPT": torch.zeros(4, 1024)}, tiny_clip, "image width 1024, this one has 128"),
        (official_state("cocoop", own, tiny_clip, NAMES), wide, "feature width 32, this one has 64"),
        (golden(official, "mmrl"), wide, "start token"),
        (official_state("vpt", deep, tiny_clip, NAMES), official.clip, "image_encoder"),
    ):
        with pytest.raises(
            InputError, match=says if says != "image width 128|text width 64" else "another CLIP"
        ):
            Classifier.from_official(
                state, clip, method="coop" if set(state) == {"ctx"} else None, names=NAMES
            )


# --- whose it is ---


def test_every_method_is_known_by_its_tensors(tiny_clip: Clip):
    for method in METHODS:
        state = official_state(method, made(method, tiny_clip, **SHAPES[method]), tiny_clip, NAMES)
        found = candidates(read_checkpoint(state).tensors)
        assert found[0] == method if method not in ("prograd",) else "prograd" in found
        assert len(found) == (3 if method in ("coop", "prograd") else 1)


def test_what_is_clearly_another_method_is_refused(tiny_clip: Clip):
    state = official_state("promptsrc", made("promptsrc", tiny_clip), tiny_clip, NAMES)
    for asked in ("ivlp", "coop", "mmrl"):
        with pytest.raises(InputError, match=f"looks like a checkpoint of promptsrc, not of {asked}"):
            Classifier.from_official(state, tiny_clip, method=asked)


def test_the_same_learned_tensors_may_be_of_either(tiny_clip: Clip):
    own = made("promptsrc", tiny_clip)
    bare = learned_by(own) | under("prompt_learner.", buffers(tiny_clip, NAMES, 4))  # no frozen tensors
    for method in ("promptsrc", "ivlp"):
        assert Classifier.from_official(bare, tiny_clip, method=method).method_name == method
    with pytest.raises(InputError, match="could be of ivlp or promptsrc"):
        Classifier.from_official(bare, tiny_clip)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("cop", "did you mean 'coop'"),
        ("fvgpt+coop", "import the backbone, with --method coop"),
        ("zeroshot", "there are no checkpoints of zeroshot to import; there are coop, kgcoop"),
    ],
)
def test_methods_nobody_has_checkpoints_of(tiny_clip: Clip, asked: str, says: str):
    with pytest.raises(InputError) as caught:
        Classifier.from_official({"ctx": torch.zeros(4, 64)}, tiny_clip, method=asked)
    assert says in str(caught.value)


def test_what_is_of_nobody(tiny_clip: Clip):
    tcp = {"ctx": torch.zeros(4, 64), "meta_net.linear2.weight": torch.zeros(256, 8)}
    plus = {"representation_learner.compound_rep_tokens": torch.zeros(5, 32), "proj_rep_A": torch.zeros(2)}
    for state in (tcp, plus, {"fc.weight": torch.zeros(2, 2)}):
        with pytest.raises(InputError, match="is of no method that foveate can import"):
            Classifier.from_official(state, tiny_clip)
    with pytest.raises(InputError, match="holds CLIP's own weights and nothing tuned"):
        Classifier.from_official(to_layout(tiny_clip.state_dict(), OPENAI), tiny_clip)


def test_whatever_the_authors_published_can_be_imported(tiny_clip: Clip):
    for method in backbones():
        published = isinstance(build(method, tiny_clip), OfficialCheckpoint)
        assert published == (method in METHODS)


# --- settings ---


def test_settings_that_the_tensors_contradict(tiny_clip: Clip):
    state = official_state("ivlp", made("ivlp", tiny_clip), tiny_clip, NAMES)
    with pytest.raises(InputError, match=r"has tokens = 2, but --ivlp.tokens is 5"):
        Classifier.from_official(state, tiny_clip, settings={"ivlp": {"tokens": 5}})
    with pytest.raises(InputError, match=r"has text_depth = 2, but --ivlp.text-depth is 1"):
        Classifier.from_official(state, tiny_clip, settings={"ivlp": {"text_depth": 1}})
    with pytest.raises(InputError, match="settings for 'coop', but the method is 'ivlp'"):
        Classifier.from_official(state, tiny_clip, settings={"coop": {"position": "end"}})


def test_the_blocks_of_mmrl(official):
    state, template = golden(official, "mmrl"), official.settings["dataset_template"]
    first, last = official.mmrl["first_block"], official.mmrl["last_block"]
    blocks, top = last - first + 1, len(official.clip.text.blocks)

    def read(tensors: State, **given: int) -> tuple[int, int]:
        found = Classifier.from_official(
            tensors,
            official.clip,
            template=template,
            names=official.told_names,
            settings={"mmrl": given},
        ).method
        return found.first_block, found.config.last_block

    assert read(state, first_block=first) == read(state, last_block=last) == (first, last)
    assert read(state, first_block=first, last_block=last) == (first, last)
    assert read(state, first_block=first - 1) == read(state, last_block=last - 1) == (first - 1, last - 1)
    with pytest.raises(InputError, match=f"has tokens for {blocks} blocks: give as many"):
        read(state, first_block=first, last_block=first)
    with pytest.raises(InputError, match=f"both towers have blocks 1 to {top}"):
        read(state, first_block=top - blocks + 2)
    left = next(number for number in (blocks - 1, blocks - 2) if number != 7)  # 7 is what it has by default
    fewer = {n: t for n, t in state.items() if not (m := re.search(r"proj\.(\d+)\.", n)) or int(m[1]) < left}
    with pytest.warns(UserWarning, match=f"took blocks {top - left + 1} to {top}"):
        read(fewer)


# --- folders ---


def test_the_checkpoint_of_a_folder(tmp_path: Path):
    folder = tmp_path / "seed1" / "prompt_learner"
    for number in (5, 50, 9):
        dassl({"ctx": torch.zeros(4, 64)}, folder / f"model.pth.tar-{number}")
    assert find_checkpoint(folder).name == "model.pth.tar-50"  # by number, not by letters
    (folder / "checkpoint").write_text("model.pth.tar-9\n")
    assert find_checkpoint(folder).name == "model.pth.tar-9"
    assert find_checkpoint(tmp_path / "seed1") == folder / "model.pth.tar-9"
    (folder / "checkpoint").write_text("../../elsewhere\n")
    assert find_checkpoint(folder).name == "model.pth.tar-50"
    dassl({"ctx": torch.zeros(4, 64)}, tmp_path / "best" / "model-best.pth.tar")
    assert find_checkpoint(tmp_path / "best").name == "model-best.pth.tar"
    dassl({"ctx": torch.zeros(4, 64)}, tmp_path / "seed1" / "other" / "model.pth.tar-1")
    with pytest.raises(InputError, match="has checkpoints in other and in prompt_learner: say which"):
        find_checkpoint(tmp_path / "seed1")


def test_a_folder_says_which_it_took(foveate: Call, clip_folder: Path, tmp_path: Path):
    clip = load_clip(clip_folder)
    state = official_state("maple", made("maple", clip), clip, NAMES, "a photo of a")
    for number in (2, 10):
        dassl(state, tmp_path / "run" / "MultiModalPromptLearner" / f"model.pth.tar-{number}", number)
    said = foveate("import", tmp_path / "run", "--clip", clip_folder, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert "run/MultiModalPromptLearner/model.pth.tar-10 (model.pth.tar-10, epoch 10)" in said.out


# --- from the command line to answers ---


@pytest.fixture
def imported(foveate: Call, clip_folder: Path, tmp_path: Path) -> Path:
    """PromptSRC of three classes of drawn shapes, imported."""
    clip = load_clip(clip_folder)
    own = made("promptsrc", clip)
    state = official_state("promptsrc", own, clip, ["red disc", "Blue_Box", "green disc"], "a photo of a")
    path = dassl(state, tmp_path / "model.pth.tar-20", 20)
    said = foveate("import", path, "--clip", clip_folder, "--out", tmp_path / "out")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[1:] == [
        "settings: tokens 4, vision_tokens 4, text_depth 2, vision_depth 2, init a photo of a, text_weight"
        " 25.0, image_weight 10.0, logit_weight 1.0",
        "3 classes: red disc, blue box, green disc",
        f"saved in {tmp_path / 'out'}",
    ]
    return tmp_path / "out"


def test_an_imported_model_is_as_a_fitted_one(foveate: Call, imported: Path, shapes: Callable[..., Path]):
    photos = shapes() / "photos"
    said = foveate("predict", imported, photos / "red disc" / "0.png", "--json")
    assert said.code == 0, said.err
    assert set(json.loads(said.out)[0]["scores"]) == {"red disc", "blue box", "green disc"}
    said = foveate("evaluate", imported, "--data", photos, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["promptsrc"]["base"]["classes"] == 3
    said = foveate("evaluate", imported)
    assert said.code == 2
    assert "say where the pictures are with --data" in said.err


def test_the_card_tells_where_it_comes_from(imported: Path):
    card = (imported / "README.md").read_text()
    assert "a checkpoint of the method authors' code (model.pth.tar-20, epoch 20)" in card
    assert "pictures of" not in card
    config = json.loads((imported / "config.json").read_text())
    assert (config["imported"], config["shots"], config["pictures"]) == ("model.pth.tar-20, epoch 20", 0, 0)


def test_towers_in_half_precision(foveate: Call, clip_folder: Path, tmp_path: Path):
    clip = load_clip(clip_folder)
    state = official_state("maple", made("maple", clip), clip, NAMES, "a photo of a")
    path = dassl(state, tmp_path / "model.pth.tar-5")
    said = foveate("import", path, "--clip", clip_folder, "--out", tmp_path / "out", "--dtype", "bfloat16")
    assert (said.code, said.err.count("\n")) == (0, 1)
    assert said.err.startswith("note: the towers compute in bfloat16; --dtype float32")
    classifier = Classifier.from_pretrained(tmp_path / "out")
    assert classifier.clip.text.proj.dtype == torch.bfloat16
    assert classifier.config.names == [name.casefold() for name in NAMES]


def test_given_names_keep_their_letters(
    foveate: Call, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clip = load_clip(clip_folder)
    state = official_state("coop", made("coop", clip), clip, ["Barn_Owl", "heron"])
    path = dassl(state, tmp_path / "model.pth.tar-1")
    (tmp_path / "names.txt").write_text("\ufeffBarn Owl\n\n heron \n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ("import", path, "--clip", clip_folder, "--method", "coop", "--classes", "~/names.txt")
    said = foveate(*words, "--out", "~/out")
    assert (said.code, said.err) == (0, "")
    assert f"2 classes: Barn Owl, heron\nsaved in {tmp_path}/out\n" in said.out
    (tmp_path / "names.txt").write_text("Barn Owl\nlynx\n")
    said = foveate(*words, "--out", tmp_path / "out2")
    assert said.code == 0
    assert said.err == "note: class 2 was given as 'lynx', but the checkpoint calls it 'heron'\n"


def test_the_folder_it_writes_to(foveate: Call, clip_folder: Path, tmp_path: Path, imported: Path):
    before = {path.name: path.read_bytes() for path in imported.iterdir()}
    said = foveate("import", tmp_path / "model.pth.tar-20", "--clip", clip_folder, "--out", imported)
    assert said.code == 2
    assert "choose another output folder" in said.err
    assert before == {path.name: path.read_bytes() for path in imported.iterdir()}


# --- nothing runs ---


class Call_:
    """A pickle of this calls a function."""

    def __init__(self, function: object, *arguments: object):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_malicious_checkpoint_does_nothing(foveate: Call, clip_folder: Path, tmp_path: Path, zipped: bool):
    clip, touched = load_clip(clip_folder), tmp_path / "touched"
    state = OrderedDict(official_state("maple", made("maple", clip), clip, NAMES, "a photo of a"))
    evil = [Call_(os.system, f"touch {touched}"), Call_(eval, f"open({str(touched)!r}, 'w')")]
    state["evil"], state["prompt_learner.evil"] = evil
    content = {"state_dict": state, "epoch": 5, "scheduler": {"successor": evil}, "val_result": evil[0]}
    path = tmp_path / "model.pth.tar-5"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    said = foveate("import", path, "--clip", clip_folder, "--out", tmp_path / "out")
    assert (said.code, said.err) == (0, "")
    state["prompt_learner.ctx"] = evil[0]  # in the place of what is needed
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    said = foveate("import", path, "--clip", clip_folder, "--out", tmp_path / "out2", "--method", "maple")
    assert said.code == 2
    torch.save(evil[0], path, _use_new_zipfile_serialization=zipped)
    said = foveate("import", path, "--clip", clip_folder, "--out", tmp_path / "out2")
    assert "its pickle asks for posix.system, code that weights never need: not loaded" in said.err
    assert not touched.exists()
    assert not (tmp_path / "out2").exists()


# --- what can be wrong ---


@pytest.fixture
def refused(foveate: Call, clip_folder: Path, tmp_path: Path) -> Call:
    """Import as told, and check that it is refused in one line with these words, and leaves nothing."""

    def check(checkpoint: Path, *words: object, says: str) -> None:
        said = foveate("import", checkpoint, "--clip", clip_folder, "--out", tmp_path / "refused", *words)
        assert (said.code, said.out) == (2, ""), said
        assert said.err.startswith("foveate: ")
        assert said.err.count("\n") == 1
        assert says in said.err, said.err
        assert not (tmp_path / "refused").exists()

    return check


def test_files_that_are_no_checkpoints(refused: Call, tmp_path: Path):
    path = tmp_path / "model.pth.tar-10"
    refused(path, says=f"{path}: no such file or folder; give model.pth.tar-N")
    for content, says in (
        (b"", "is empty: download it again"),
        (b"<!DOCTYPE html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"hello there", "is no file that PyTorch saved"),
        (b"\x80\x02]q\x00.", "cut short or damaged"),
    ):
        path.write_bytes(content)
        refused(path, says=f"{path}: {says}")
    torch.save([1, 2], path)
    refused(path, says="holds a list, not tensors by name: save its state_dict()")
    torch.save({"state_dict": {"a": 1}, "epoch": 2}, path)
    refused(path, says="holds no tensors by name: give a model.pth.tar-N")
    with zipfile.ZipFile(path, "w") as archive:  # as OpenAI published CLIP
        archive.writestr("model/constants.pkl", b"")
    refused(path, says="is an archive of CLIP's own weights: give it with --clip")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", says="has no model.pth.tar-N: give that file, or the folder that has it")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_cut_short(refused: Call, clip_folder: Path, tmp_path: Path, zipped: bool):
    clip = load_clip(clip_folder)
    state = official_state("maple", made("maple", clip), clip, NAMES)
    path = dassl(state, tmp_path / "model.pth.tar-5", zipped=zipped)
    intact = path.read_bytes()
    for share in (0.01, 0.3, 0.9, 0.999):
        path.write_bytes(intact[: int(len(intact) * share)])
        refused(path, says=f"{path}: cut short or damaged, or no file of weights")


def test_clip_in_the_place_of_a_checkpoint(refused: Call, clip_folder: Path):
    refused(clip_folder / "model.safetensors", says="holds CLIP's own weights and nothing tuned")


def test_missing_tensors_are_named(refused: Call, clip_folder: Path, tmp_path: Path):
    clip = load_clip(clip_folder)
    state = official_state("ivlp", made("ivlp", clip), clip, NAMES)
    del state["image_encoder.transformer.resblocks.1.VPT_shallow"]
    path = dassl(state, tmp_path / "model.pth.tar-5")
    refused(path, says="lacks image_encoder.transformer.resblocks.1.VPT_shallow")
    state = official_state("maple", made("maple", clip), clip, NAMES)
    del state["prompt_learner.proj.bias"]
    refused(dassl(state, path), says=f"{path}: the checkpoint lacks prompt_learner.proj.bias")
    state = {
        "compound_rep_tokens": torch.zeros(5, 32),
        "compound_rep_tokens_r2vproj.0.weight": torch.zeros(128, 32),
    }
    refused(dassl(state, path), says=f"{path}: lacks representation_learner.compound_rep_tokens: a part")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("prompt_learner.ctx", (4,)),
        ("prompt_learner.ctx", (0, 64)),
        ("prompt_learner.token_suffix", (5, 64)),
        ("prompt_learner.token_prefix", (0, 1, 64)),
        ("image_encoder.VPT", ()),
        ("image_encoder.transformer.resblocks.2.VPT_shallow", (3, 128)),
        ("text_encoder.transformer.resblocks.1.VPT_shallow", (64,)),
    ],
)
def test_tensors_of_other_forms(
    refused: Call, clip_folder: Path, tmp_path: Path, name: str, shape: tuple[int, ...]
):
    clip = load_clip(clip_folder)
    state = official_state("ivlp", made("ivlp", clip), clip, NAMES) | {name: torch.zeros(shape)}
    path = dassl(state, tmp_path / "model.pth.tar-5")
    refused(path, says=f"has {name.removeprefix('prompt_learner.')} of shape {list(shape)}: damaged")


def test_a_training_that_diverged(refused: Call, clip_folder: Path, tmp_path: Path):
    clip = load_clip(clip_folder)
    state = official_state("coop", made("coop", clip), clip, NAMES)
    path = tmp_path / "model.pth.tar-5"
    for name, says in (
        ("ctx", "has numbers in ctx that are not finite: its training diverged"),
        ("token_suffix", "class names in tokens that this CLIP has not"),
        ("token_prefix", "was tuned on another CLIP than this one: its start token"),
    ):
        refused(dassl(state | {name: state[name] * float("nan")}, path), "--method", "coop", says=says)


def test_names_that_are_missing_or_too_many(refused: Call, clip_folder: Path, tmp_path: Path):
    clip, path, names = load_clip(clip_folder), tmp_path / "model.pth.tar-5", tmp_path / "names.txt"
    dassl(official_state("vpt", made("vpt", clip), clip, NAMES), path)
    refused(path, says="has no class names in it: give them with --classes")
    refused(path, "--classes", names, says=f"--classes {names}: no such file")
    names.write_text("\n \n")
    refused(path, "--classes", names, says="has no names; write one a line")
    names.write_bytes(b"\xff\xfe\x00")
    refused(path, "--classes", names, says=f"--classes {names}: not UTF-8 text, but UTF-16")
    names.write_text("cat\nCat\n")
    refused(path, "--classes", names, says="class names 'cat' and 'Cat' are the same")
    dassl(official_state("coop", made("coop", clip), clip, NAMES), path)
    names.write_text("cat\ndog\n")
    refused(
        path, "--method", "coop", "--classes", names, says="was trained on 5 classes, but 2 names were given"
    )
    refused(
        path, says="could be of coop, prograd or kgcoop, which save the same tensors: say which with --method"
    )


def test_a_template_without_a_place(refused: Call, tmp_path: Path):
    path = dassl({"ctx": torch.zeros(4, 64)}, tmp_path / "model.pth.tar-5")
    refused(path, "--template", "a photo", says="template 'a photo' has 0 times {}")


def test_safetensors_with_the_authors_names(tiny_clip: Clip, tmp_path: Path):
    state = official_state("maple", made("maple", tiny_clip), tiny_clip, NAMES, "a photo of a")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "maple.safetensors")
    assert Classifier.from_official(tmp_path / "maple.safetensors", tiny_clip).method_name == "maple"


def test_a_checkpoint_is_the_backbone_of_a_fit(tmp_path: Path, clip_folder: Path):
    photos = tmp_path / "photos"
    names = ["blue box", "green disc", "red disc"]
    for number, name in enumerate(names):
        (photos / name).mkdir(parents=True)
        for row in range(2):
            Image.new("RGB", (32, 32), (80 * number, 60 * row, 20)).save(photos / name / f"{row}.png")
    masks = tmp_path / "masks"
    for picture in photos.rglob("*.png"):
        mask = masks / picture.relative_to(photos)
        mask.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((32, 32), np.uint8)
        pixels[8:24, 8:24] = 255
        Image.fromarray(pixels).save(mask)
    tuned = Classifier("coop", clip_folder).fit(photos, shots=1, recipe={"epochs": 1, "batch_size": 3})
    state = official_state("coop", tuned.method, tuned.clip, names)
    path = dassl(state, tmp_path / "output" / "prompt_learner" / "model.pth.tar-1", 1)
    found = [
        Classifier("fvgpt+coop", clip_folder).fit(
            photos, masks=masks, shots=1, backbone=given, recipe={"epochs": 1, "batch_size": 3}
        )
        for given in (path, tmp_path / "output")
    ]
    for over in found:
        assert torch.equal(over.method.host.ctx, tuned.method.ctx)
        assert over.config.names == names
