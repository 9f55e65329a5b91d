"""What an answer costs in passes and operations, and that what is kept between answers is never old."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip, Vision
from foveate.clip.rows import TokenRows
from foveate.methods.base import Method
from foveate.methods.capabilities import FrozenHost, TextPerImage, capability
from foveate.methods.exchange import Exchange
from foveate.methods.fvgpt import FvgPt
from foveate.methods.guidance import FvgPtConfig
from foveate.methods.hicropl import HiCroPL
from foveate.methods.proda import Proda
from foveate.methods.registry import backbones, build, pairs
from foveate.methods.tcp import Tcp
from foveate.methods.texts import Cache, tensors_of
from foveate.seeds import stream
from foveate.train.loop import fit
from foveate.train.recipe import Recipe
from foveate.types import Batch, Branch

pytestmark = pytest.mark.usefixtures("few_sentences")

BRANCHES: tuple[Branch, ...] = ("base", "new", "mixed")
HOSTS = ("coop", "cocoop", "mmrl", "hicropl")
"""One of each kind of texts and pictures that an answer may be made of."""
PAIRS = [name for name in pairs() if name.partition("+")[2] in HOSTS]
KEEPING = [name for name in (*backbones(), *PAIRS) if "cocoop" not in name]
"""Methods whose class texts do not follow the picture."""
NAMES = ["cat", "dog", "phone"]
TRAINED = ["cat", "phone"]


def readings(method: Method) -> int:
    """How often a method's own class texts go through the text tower, to be read once."""
    own = method.host if isinstance(method, FrozenHost) else method
    if isinstance(own, Proda):
        return own.config.prompts
    return 1 + any(isinstance(one, Tcp | HiCroPL) for one in own.modules())  # made of CLIP's own texts too


def images(number: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(number, 3, 32, 32, generator=stream(seed, "test"))


def built(name: str, clip: Clip, seed: int = 0) -> Method:
    method = build(name, clip, seed=seed).eval()
    method.set_classes(NAMES, trained=TRAINED)
    return method


@pytest.fixture(params=[*backbones(), *PAIRS])
def method(request: pytest.FixtureRequest, tiny_clip: Clip) -> Method:
    return built(request.param, tiny_clip)


@pytest.fixture(params=KEEPING)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def keeping(name: str, tiny_clip: Clip) -> Method:
    """Each method whose class texts do not follow the picture."""
    return built(name, tiny_clip)


@pytest.fixture
def pictures_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each pass through the image tower, how many pictures it had."""
    passes: list[int] = []
    tokens = Vision.tokens

    def recorded(tower: Vision, given: torch.Tensor) -> torch.Tensor:
        passes.append(len(given))
        return tokens(tower, given)

    monkeypatch.setattr(Vision, "tokens", recorded)
    return passes


@torch.no_grad()
def answer(method: Method, branch: Branch, told: bool = True) -> torch.Tensor:
    return method.logits(method.features(images(), branch if told else None), branch)


@torch.no_grad()
def texts(method: Method) -> tuple[torch.Tensor, ...]:
    """All class texts that answers are made of; no picture is read for them."""
    nothing = torch.zeros(len(method.head_weights), 1, method.clip.config.embed)
    own = method.pair(nothing).text
    known = method.plain if isinstance(method, Exchange | FvgPt) else []
    return (own, *(one.features() for one in known))


def read_anew(method: Method) -> tuple[torch.Tensor, ...]:
    return texts(copy.deepcopy(method))  # a copy keeps nothing


def equal(some: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(some, others, strict=True))


def test_an_answer_takes_one_image_pass_and_two_only_for_the_prior_of_a_tuned_tower(
    method: Method, pictures_read: list[int]
):
    blends_clip = any(isinstance(module, HiCroPL) for module in method.modules())
    for branch in BRANCHES:
        pictures_read.clear()
        answer(method, branch)
        asks_clip_apart = isinstance(method, FvgPt) and method.backbone.tunes_vision and branch != "base"
        assert pictures_read == [3] * (1 + asks_clip_apart + blends_clip), branch


def test_to_say_the_branch_beforehand_changes_no_answer(method: Method):
    for branch in BRANCHES:
        assert torch.equal(answer(method, branch), answer(method, branch, told=False)), branch


@pytest.mark.parametrize("branch", BRANCHES)
def test_trust_comes_with_the_features_of_its_branch(tiny_clip: Clip, branch: Branch):
    method = built("fvgpt+mmrl", tiny_clip)
    if branch == "base":
        with pytest.raises(ValueError, match="lack CLIP's own"):
            method.trust(method.features(images(), branch))
    else:
        assert torch.equal(
            method.trust(method.features(images(), branch)), method.trust(method.features(images()))
        )


def test_without_a_prior_branch_clip_is_never_asked(
    tiny_clip: Clip, pictures_read: list[int], texts_read: list[TokenRows]
):
    method = FvgPt(build("mmrl", tiny_clip), FvgPtConfig(prior_branch=False))
    method.set_classes(NAMES, trained=TRAINED)
    for branch in BRANCHES:
        answer(method, branch, told=False)
    assert pictures_read == [3, 3, 3]
    assert len(texts_read) == 1


@pytest.mark.parametrize("name", PAIRS)
def test_the_base_branch_reads_no_texts_for_the_prior(
    name: str, tiny_clip: Clip, texts_read: list[TokenRows]
):
    method = built(name, tiny_clip)
    answer(method, "base")
    assert len(texts_read) == (3 if capability(method, TextPerImage) else readings(method))


def test_texts_are_read_once_whatever_is_asked(keeping: Method, texts_read: list[TokenRows]):
    texts(keeping)
    for branch in BRANCHES:
        answer(keeping, branch)
    first = len(texts_read)
    assert readings(keeping) <= first <= readings(keeping) + 1  # the method's own, and CLIP's
    for branch in BRANCHES:
        answer(keeping, branch)
        keeping.set_classes(list(NAMES), trained=list(TRAINED))
    keeping.eval()
    assert len(texts_read) == first


@pytest.mark.parametrize("name", ["zeroshot", "coop", "kgcoop", "fvgpt+coop", "fvgpt+kgcoop"])
def test_the_base_branch_costs_what_clips_image_pass_does(name: str, monkeypatch: pytest.MonkeyPatch):
    """ViT-B/16, 1,000 classes, without numbers: only operations are counted."""
    with torch.device("meta"):
        clip = Clip(ClipConfig())
    known = torch.empty(1000, clip.config.embed, device="meta")
    monkeypatch.setattr("foveate.clip.rows.encode_rows", lambda *_, **__: known)
    monkeypatch.setattr("foveate.methods.prompts.encode_rows", lambda *_, **__: known)
    method = build(name, clip).eval()
    method.set_classes([f"class {number}" for number in range(1000)])
    pictures = torch.empty(16, 3, 224, 224, device="meta")
    with torch.no_grad():
        with FlopCounterMode(display=False) as alone:
            clip.vision(pictures)
        with FlopCounterMode(display=False) as whole:
            method.logits(method.features(pictures, "base"), "base")
    assert alone.get_total_flops() > 16 * 32e9  # it did count: ViT-B/16 takes 33 GFLOP a picture
    assert 1 <= whole.get_total_flops() / alone.get_total_flops() < 1.03


def change_learned(method: Method) -> None:
    g = stream(1, "test")
    method.load_learned({name: torch.randn(p.shape, generator=g) for name, p in method.learned().items()})


def learn(method: Method) -> None:
    masks = torch.ones(3, 1, 32, 32)
    masks[..., :16] = 0
    batch = Batch(images(), torch.arange(3), masks, masks.mean((1, 2, 3)), exchanged=images(seed=1))
    fit(method, lambda _: [batch], Recipe(epochs=1, warmup_epochs=0, lr=1.0))
    method.eval()


@torch.no_grad()
def write(tensor: torch.Tensor) -> None:
    tensor.mul_(1.5)


CHANGES: dict[str, Callable[[Method], object]] = {
    "load_learned": change_learned,
    "fit": learn,
    "other names": lambda m: m.set_classes(["cat", "cow", "phone"]),
    "other order": lambda m: m.set_classes(NAMES[::-1]),
    "other template": lambda m: m.set_classes(NAMES, "a drawing of a {}."),
    "double": lambda m: m.to(torch.float64),
    "towers alone in double": lambda m: m.clip.to(torch.float64),
    "half and back": lambda m: m.to(torch.bfloat16).to(torch.float32),
    "half": lambda m: m.clip.to(torch.bfloat16),
    "a tower written to": lambda m: write(m.clip.text.proj),
    "a tower's tensor replaced": lambda m: setattr(
        m.clip.text, "proj", nn.Parameter(m.clip.text.proj.detach() * 1.5)
    ),
    "a tower's data replaced": lambda m: setattr(m.clip.text.proj, "data", m.clip.text.proj.data * 1.5),
}


KINDS = ("coop", "mmrl", "tcp", "proda", "hicropl", "clip_lora", "fvgpt+coop", "exchange+coop")
"""One of each way to make texts: each may keep other tensors of them."""


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (name, change)
        for name in KEEPING
        for change in (CHANGES if name in KINDS else ("fit", "other names", "a tower written to"))
    ],
)
def test_kept_texts_are_never_old(keeping: Method, change: str):
    before = texts(keeping)
    assert equal(texts(keeping), before)
    CHANGES[change](keeping)
    assert equal(texts(keeping), read_anew(keeping))
    learns = (
        any(True for _ in keeping.learned()) and not isinstance(keeping, FrozenHost) and keeping.tunes_text
    )
    if (change == "fit" and not learns) or change in ("load_learned", "other template"):
        return  # texts may be what they were
    assert not equal(texts(keeping), before)


@pytest.mark.parametrize("name", ["coop", "fvgpt+coop"])
def test_the_tests_change_is_seen_in_learned_texts(name: str, tiny_clip: Clip):
    method = built(name, tiny_clip)
    before = texts(method)
    change_learned(method)
    assert not torch.equal(texts(method)[0], before[0])


def test_a_backbone_that_changes_under_a_plug_in_is_noticed(tiny_clip: Clip):
    method = built("fvgpt+coop", tiny_clip)
    before = texts(method)
    change_learned(method.backbone)
    assert not torch.equal(texts(method)[0], before[0])
    assert equal(texts(method), read_anew(method))
    method.backbone.set_classes(["somebody", "else"])
    assert equal(texts(method), read_anew(method))


def test_memory_that_is_used_again_does_not_look_like_the_old(tiny_clip: Clip):
    """Freed and given out again, a tensor may lie where the old one lay."""
    method = built("coop", tiny_clip)
    for _ in range(20):
        texts(method)
        method.to(torch.bfloat16).to(torch.float32)
        write(method.clip.text.proj)
        assert equal(texts(method), read_anew(method))
    kept, tensor = Cache(), nn.Parameter(torch.zeros(1000))
    for number in range(20):
        said = kept.get("key", [tensor], lambda number=number: torch.full((1, 1), float(number)))
        assert said == number
        tensor.data = torch.empty(0)
        tensor.data = torch.full((1000,), number + 1.0)  # most often where the last one was


def test_another_tensor_over_the_same_memory_is_another():
    kept, tensor = Cache(), nn.Parameter(torch.ones(4))
    write(tensor)
    assert kept.get("key", [tensor], lambda: torch.zeros(1, 1)) == 0
    other = nn.Parameter(tensor.data)  # it counts its writes from zero
    write(other)
    assert kept.get("key", [other], lambda: torch.ones(1, 1)) == 1


def test_texts_read_under_autocast_are_not_taken_for_others(tiny_clip: Clip):
    method = built("coop", tiny_clip)
    whole = texts(method)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = texts(method)
    assert not torch.equal(coarse[0], whole[0])
    assert equal(texts(method), whole)


@pytest.mark.parametrize("name", KINDS)
def test_one_may_learn_from_texts_kept_in_inference_mode(keeping: Method):
    with torch.inference_mode():
        texts(keeping)
    learn(keeping)
    assert equal(texts(keeping), read_anew(keeping))


def test_what_is_loaded_in_inference_mode_is_noticed_too(tiny_clip: Clip):
    with torch.inference_mode():
        method = built("fvgpt+coop", tiny_clip)
        before = texts(method)
        change_learned(method)
        assert not torch.equal(texts(method)[0], before[0])


def test_with_gradients_texts_are_learned_from(tiny_clip: Clip):
    method = built("coop", tiny_clip)
    texts(method)
    assert method.text_features().requires_grad
    with method.constant_text(), torch.enable_grad():
        assert not method.text_features().requires_grad


def test_a_move_leaves_nothing_behind(tiny_clip: Clip):
    kept, tower = Cache(), nn.Linear(100, 100)
    kept.get("key", tensors_of(tower), lambda: torch.zeros(1, 1))
    entry = kept._entry
    tower.to(torch.float64)
    assert entry is not None
    assert all(storage.expired() for storage in entry.storages)


def test_all_tensors_of_a_method_count(method: Method):
    vision = {id(p) for p in method.clip.vision.parameters()}
    everything = [p for p in (*method.parameters(), *method.buffers()) if id(p) not in vision]
    listed = tensors_of(method, but=method.clip.vision)
    assert {id(t) for t in listed} == {id(t) for t in everything}
