"""What every method promises, one matrix: a new method gets these tests by being registered."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pytest
import torch

from foveate.clip.model import Block, Clip
from foveate.clip.rows import CHUNK, TokenRows, text_rows
from foveate.errors import InputError
from foveate.methods import promptsrc
from foveate.methods.base import Method
from foveate.methods.capabilities import FrozenHost, RegionEncoder, TextPerImage, capability
from foveate.methods.frozen import extract, training_losses
from foveate.methods.hicropl import HiCroPL
from foveate.methods.mmrl import Mmrl
from foveate.methods.proda import Proda
from foveate.methods.registry import backbones, build, configure, pairs, parts, plugins, stages
from foveate.methods.tcp import Tcp
from foveate.seeds import stream
from foveate.train.journal import Step
from foveate.train.loop import fit
from foveate.train.recipe import Recipe
from foveate.types import Batch

pytestmark = pytest.mark.usefixtures("few_sentences")

HOSTS = ("coop", "cocoop", "mmrl", "maple")
"""One of each kind: tuned texts, texts that follow pictures, two heads, both towers."""
PAIRS = [
    name
    for name in pairs()
    if name.endswith(HOSTS) or not issubclass(plugins()[name.partition("+")[0]], RegionEncoder)
]
"""Every plug-in over every host; those that learn nothing hand all questions to it, so one of each kind."""
METHODS = [*backbones(), *PAIRS]
FEW = [*backbones(), *(name for name in pairs() if name.partition("+")[2] in HOSTS)]
"""For what a plug-in does alike over all hosts of a kind."""

COARSE = [
    *HOSTS,
    "promptsrc",
    "clip_lora",
    *(f"{plugin}+mmrl" for plugin in ("fvgpt", "dapt")),
]
"""For what depends on the precision of the towers alone."""

NAMES = ["cat", "dog", "old photo", "phone"]
BRANCHES = ("base", "new", "mixed")

Make = Callable[..., Method]


@pytest.fixture(params=METHODS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make(name: str, tiny_clip: Clip) -> Make:
    def made(seed: int = 0, names: list[str] = NAMES) -> Method:
        method = build(name, tiny_clip, seed=seed)
        method.set_classes(names)
        return method

    return made


@dataclass(frozen=True)
class Trained:
    """A method before and after two epochs. Several tests look at one training, and change neither."""

    before: dict[str, torch.Tensor]
    method: Method


@pytest.fixture(scope="module")
def trained(name: str, random_weights: Clip) -> Trained:
    method = build(name, copy.deepcopy(random_weights))
    method.set_classes(NAMES)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    with pytest.MonkeyPatch.context() as few_sentences:  # that fixture begins only with each test
        few_sentences.setattr(promptsrc, "IMAGENET_TEMPLATES", promptsrc.IMAGENET_TEMPLATES[:3])
        fit(method, batches, RECIPE)
    return Trained(before, method)


def batch(number: int, classes: int = len(NAMES), seed: int = 0) -> Batch:
    g = stream(seed, "test")
    images = torch.randn(number, 3, 32, 32, generator=g)
    masks = (torch.rand(number, 1, 32, 32, generator=g) > 0.5).float()
    exchanged = images * masks + torch.randn(number, 3, 32, 32, generator=g) * (1 - masks)
    return Batch(images, torch.arange(number) % classes, masks, masks.mean((1, 2, 3)), exchanged=exchanged)


RECIPE = Recipe(epochs=2, warmup_epochs=1, batch_size=3, average_mean=1.0)


def batches(epoch: int) -> list[Batch]:
    return [batch(4, seed=epoch)]


def answer(method: Method, names: list[str] = NAMES, branch: str = "base") -> torch.Tensor:
    method.set_classes(names)
    with torch.no_grad():
        return method.logits(method.features(batch(3).images), branch)


def test_logits_have_a_column_per_name_and_are_finite(make: Make):
    method = make()
    for branch in BRANCHES:
        logits = answer(method, branch=branch)
        assert logits.shape == (3, len(NAMES))
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()


def test_training_moves_what_is_trainable_and_nothing_else(trained: Trained):
    trainable = trained.method.trainable()
    if not trainable:
        pytest.skip("nothing to learn")
    for name, parameter in trained.method.named_parameters():
        if name not in trainable and trained.before[name].numel() == 0:
            continue  # it was solved for, before any step
        moved = not torch.equal(parameter, trained.before[name])
        assert moved == (name in trainable), name


def test_only_an_empty_tensor_takes_its_shape_in_training(trained: Trained):
    for name, parameter in trained.method.learned().items():
        was = trained.before[name]
        assert parameter.shape == was.shape or was.numel() == 0, name


def test_a_checkpoint_brings_back_equal_bits(make: Make, trained: Trained):
    other = make(seed=1)
    other.load_learned({name: p.detach().clone() for name, p in trained.method.learned().items()})
    for branch in ("base", "new"):
        assert torch.equal(answer(trained.method, branch=branch), answer(other, branch=branch))


def test_a_run_stopped_between_epochs_ends_with_the_same_bits(make: Make, trained: Trained, tmp_path: Path):
    if not trained.method.trainable():
        pytest.skip("nothing to learn")
    assert_resumed_alike(make, trained.method, tmp_path)


@pytest.mark.parametrize("name", COARSE)
def test_a_run_in_half_precision_stopped_between_epochs_ends_with_the_same_bits(
    make: Make, tiny_clip: Clip, tmp_path: Path
):
    tiny_clip.to(torch.bfloat16)
    whole = make()
    fit(whole, batches, RECIPE)
    assert_resumed_alike(make, whole, tmp_path)


def assert_resumed_alike(make: Make, whole: Method, tmp_path: Path) -> None:
    """Stop a training like that of `whole` after its first epoch, go on with it, and compare."""
    state = tmp_path / "state.safetensors"

    class Killed(Exception):
        pass

    def kill(step: Step) -> None:
        if step.step == 1:
            raise Killed

    with pytest.raises(Killed):
        fit(make(), batches, RECIPE, state=state, on_step=kill)
    fresh = make()
    with torch.no_grad():  # whatever a new process starts from, the state replaces
        for tensor in fresh.trainable().values():
            tensor.add_(1.0)
    fit(fresh, batches, RECIPE, state=state)
    for name, tensor in whole.trainable().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(fresh.trainable()[name], tensor), name


@pytest.mark.parametrize("name", FEW)
def test_a_checkpoint_does_not_depend_on_the_class_list(make: Make):
    few, many = make(names=NAMES[:2]), make(names=[f"thing {i}" for i in range(30)])
    assert {n: p.shape for n, p in few.learned().items()} == {n: p.shape for n, p in many.learned().items()}


@pytest.mark.parametrize("name", FEW)
def test_other_names_can_follow_at_any_time(make: Make):
    method = make()
    first = answer(method)
    assert answer(method, ["a zebra", "okapi"]).shape == (3, 2)
    assert torch.equal(answer(method), first)


def test_permuted_names_permute_logits(make: Make):
    method, order = make(), [2, 0, 3, 1]
    straight = [answer(method, branch=branch) for branch in BRANCHES]
    permuted = [answer(method, [NAMES[i] for i in order], branch) for branch in BRANCHES]
    for before, after in zip(straight, permuted, strict=True):
        torch.testing.assert_close(after, before[:, order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FEW)
def test_one_class_no_picture_and_more_classes_than_are_read_at_once(make: Make):
    method = make(names=["cat"])
    assert answer(method, ["cat"]).shape == (3, 1)
    with torch.no_grad():
        method.set_classes(NAMES)
        assert method.logits(method.features(torch.empty(0, 3, 32, 32))).shape == (0, len(NAMES))
    many = [f"{i}th thing" for i in range(200)]  # they begin with nothing in common
    assert sum(text_rows(method.clip, many).lengths) > CHUNK
    assert answer(method, many).shape == (3, 200)


def test_losses_are_named_finite_scalars(make: Make):
    losses = training_losses(make(), batch(4))
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())


def test_what_frozen_towers_said_may_come_from_a_bank(make: Make):
    method, whole = make(), batch(4)
    held = Batch(whole.images, whole.labels, whole.masks, whole.areas, extract(method, whole))
    for name, loss in training_losses(method, whole).items():
        torch.testing.assert_close(training_losses(method, held)[name], loss)


def test_constant_text_is_encoded_once(make: Make, texts_read: list[TokenRows]):
    method = make()
    if capability(method, TextPerImage):
        pytest.skip("each picture has texts of its own")
    with method.constant_text():
        for seed in range(3):
            method.logits(method.features(batch(2, seed=seed).images), "new")
    several = [one.config.prompts for one in method.modules() if isinstance(one, Proda)]
    plain = 1 + any(isinstance(one, Tcp | HiCroPL) for one in method.modules())  # made of CLIP's texts
    assert 1 <= len(texts_read) <= sum(several or [1]) + plain  # the method's own texts and, at most, CLIP's


def test_a_loss_reads_no_token_twice_and_none_that_is_known(
    make: Make, texts_read: list[TokenRows], tokens_read: dict[Block, list[int]]
):
    method, pictures = make(), batch(3)
    if isinstance(method, Proda):
        pytest.skip("several prompts a class: tests/methods/test_proda.py counts them")
    guided = isinstance(method, FrozenHost)
    if capability(method, TextPerImage):
        passes = 3 * (2 if guided else 1)  # these ask about each picture and about another view of it
    else:
        passes = 0 if guided or not method.tunes_text else 1
    training_losses(method, pictures)  # whatever is constant is known from here on
    texts_read.clear()
    tokens_read.clear()
    training_losses(method, pictures)
    assert len(texts_read) <= passes
    host = getattr(method, "host", method)
    grown = len(host.tokens) if isinstance(host, Mmrl) else 0  # put behind SOT, for all texts at once
    eot, most = method.clip.tokenizer.eot, 0
    for rows in texts_read:
        texts = [rows.row(number) for number in range(len(rows.lengths))]
        assert len(texts) == len(NAMES)
        assert all([token for token, _ in text].index(eot) == len(text) - 1 for text in texts)
        columns = zip(*(text[:-1] for text in texts), strict=False)  # up to the shortest text's EOT
        shared = len(list(takewhile(lambda column: len(set(column)) == 1, columns)))
        most += shared + grown + sum(len(text) - shared for text in texts)
    assert len(tokens_read) == (len(method.clip.text.blocks) if texts_read else 0)
    assert all(sum(calls) <= most for calls in tokens_read.values())
    assert sum(tokens_read[method.clip.text.blocks[-1]]) <= passes * len(NAMES)  # EOTs alone


@pytest.mark.parametrize("name", FEW)
def test_half_precision_towers_keep_learned_tensors_in_float32(make: Make):
    method = make()
    method.clip.to(torch.bfloat16)
    method.set_classes(NAMES)
    assert all(p.dtype == torch.float32 for p in method.learned().values())
    logits = answer(method)
    assert logits.dtype == torch.float32
    again = make()  # the same clip, in bfloat16 by now, and so are the words that some methods start from
    again.load_learned({name: p.detach() for name, p in method.learned().items()})
    torch.testing.assert_close(answer(again), logits)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize(
    ("tensors", "said"),
    [({}, "lacks"), ({"more": torch.zeros(1)}, "has besides")],
)
def test_a_checkpoint_that_does_not_fit_is_refused(make: Make, tensors: dict[str, torch.Tensor], said: str):
    method = make()
    if not method.learned() and not tensors:
        pytest.skip("nothing to lack")
    with pytest.raises(InputError, match=said):
        method.load_learned(tensors)


def test_names_that_cannot_be_told_apart_are_refused(make: Make):
    method = make()
    for names, said in (
        ([], "no class names"),
        (["cat", " "], "empty"),
        (["barn owl", "Barn_Owl"], "the same"),
    ):
        with pytest.raises(InputError, match=said):
            method.set_classes(names)
    assert method.names == tuple(NAMES)


def test_methods_by_name():
    assert parts("FVGPT + coop") == ["fvgpt", "coop"]
    assert stages("fvgpt+coop") == ["coop", "fvgpt+coop"]
    assert configure("coop", {"coop": {"tokens": 16}})["coop"].tokens == 16


@pytest.mark.parametrize(
    ("method", "said"),
    [("copo", "did you mean 'coop'"), ("coop+fvgpt", "one backbone last"), ("fvgpt", "one backbone last")],
)
def test_methods_that_do_not_exist_are_refused(method: str, said: str):
    with pytest.raises(InputError, match=said):
        parts(method)


def test_settings_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="did you mean 'tokens'"):
        configure("coop", {"coop": {"token": 3}})
    with pytest.raises(InputError, match="but the method is"):
        configure("coop", {"fvgpt": {"tau": 3}})


def test_learned_tensors_are_where_the_towers_are(name: str, tiny_clip: Clip):
    elsewhere = tiny_clip.to("meta")  # stands for a GPU: what stays behind on the CPU shows
    learned = build(name, elsewhere).learned()
    assert all(parameter.device.type == "meta" for parameter in learned.values())


def test_a_shared_backbone_may_be_asked_about_other_names(tiny_clip: Clip):
    guided = build("fvgpt+coop", tiny_clip)
    expected = answer(guided)
    guided.set_classes(NAMES)
    guided.backbone.set_classes(["zebra", "okapi"])
    with torch.no_grad():
        assert torch.equal(guided.logits(guided.features(batch(3).images)), expected)
