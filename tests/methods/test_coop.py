"""CoOp: its start, its sizes, its classes, and how little of a sentence it encodes."""

import pytest
import torch
from torch import Tensor

from foveate.clip.config import TowerConfig
from foveate.clip.model import Block, Clip
from foveate.clip.rows import TokenRows
from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.methods.coop import CoOp, CoOpConfig
from foveate.methods.frozen import training_losses
from foveate.methods.fvgpt import FvgPt
from foveate.methods.zeroshot import ZeroShot
from foveate.seeds import stream
from foveate.types import Batch

NAMES = ["cat", "dog", "phone"]
LONG = "x" * 100  # a token a letter


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=stream(0, "pictures"))


def answer(method, names: list[str] | None = None) -> Tensor:
    if names:
        method.set_classes(names)
    with torch.no_grad():
        return method.logits(method.features(images()))


@pytest.fixture(scope="module")
def wide(small_config) -> Clip:
    """Text as wide as ViT-B/16's, OpenAI's vocabulary, one block deep."""
    tokenizer = ClipTokenizer.openai()
    clip = Clip(small_config(tokenizer.vocab, text=TowerConfig(512, 1, 8)), tokenizer)
    return clip.initialise(torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (CoOpConfig(), 2_048),
        (CoOpConfig(tokens=16), 8_192),
        (CoOpConfig(tokens=7, init="a photo of a"), 2_048),
        (CoOpConfig(class_specific=True), 3 * 2_048),
    ],
)
def test_parameter_counts(wide: Clip, config: CoOpConfig, total: int):
    method = CoOp(wide, config)
    method.set_classes(NAMES)
    assert sum(p.numel() for p in method.trainable().values()) == total
    assert list(method.learned()) == ["ctx"]


def test_a_random_start_has_the_fields_spread_and_its_own_seed(wide: Clip):
    first, again, other = (CoOp(wide, CoOpConfig(16), stream(s, "init")).ctx for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(first.mean().item()) < 1e-3


def test_words_to_start_from_give_the_zero_shot_answer(wide: Clip):
    plain, method = ZeroShot(wide), CoOp(wide, CoOpConfig(init="a_photo of a"))
    names = ["cat", "barn owl", "old phone"]
    torch.testing.assert_close(answer(method, names), answer(plain, names), rtol=1e-4, atol=1e-4)
    random = CoOp(wide)
    assert not torch.allclose(answer(random, names), answer(plain, names), atol=0.1)


def test_no_words_and_no_vectors_are_refused(tiny_clip: Clip):
    with pytest.raises(InputError, match="init has no words"):
        CoOp(tiny_clip, CoOpConfig(init=" "))
    with pytest.raises(InputError, match="tokens is 0"):
        CoOp(tiny_clip, CoOpConfig(tokens=0))


def test_the_position_of_the_name_matters(tiny_clip: Clip):
    answers = [answer(CoOp(tiny_clip, CoOpConfig(position=p)), NAMES) for p in ("end", "middle", "front")]
    assert not torch.allclose(answers[0], answers[1], atol=1e-5)
    assert not torch.allclose(answers[1], answers[2], atol=1e-5)


def test_texts_are_encoded_up_to_their_eot_and_no_further(
    wide: Clip, texts_read: list[TokenRows], tokens_read: dict[Block, list[int]]
):
    shapes: list[tuple[int, ...]] = []
    (block,) = wide.text.blocks
    hook = block.ln_1.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    answer(CoOp(wide), ["cat", "great white shark"])
    hook.remove()
    own = 1 + 1 + 1, 3 + 1 + 1  # the name, the full stop, EOT
    assert [(rows.shared, rows.lengths) for rows in texts_read] == [(1 + 4, own)]
    assert shapes == [(1, 1 + 4, 512), (sum(own), 512)]
    assert tokens_read == {block: [2]}  # the last block, and this tower's only one, makes EOTs alone


def test_cutting_behind_the_last_eot_changes_no_answer(wide: Clip):
    method = CoOp(wide)
    alone = answer(method, ["cat"])
    beside = answer(method, ["cat", "a name that is a good deal longer than the other"])
    torch.testing.assert_close(beside[:, :1], alone, rtol=1e-5, atol=1e-5)


def test_names_too_long_are_refused_and_leave_the_classes_as_they_were(tiny_clip: Clip):
    for method in (CoOp(tiny_clip), FvgPt(CoOp(tiny_clip)), CoOp(tiny_clip, CoOpConfig(class_specific=True))):
        before = answer(method, NAMES)
        with pytest.raises(InputError, match="shorten the name"):
            method.set_classes(["cat", LONG], "a {}.", trained=["cat"])
        assert method.names == tuple(NAMES)
        assert method.trained == (True, True, True)
        assert torch.equal(answer(method), before)


def test_the_loss_is_the_cross_entropy_and_reaches_the_vectors_only(tiny_clip: Clip):
    method = CoOp(tiny_clip)
    method.set_classes(NAMES)
    losses = training_losses(method, Batch(images(), torch.tensor([2, 0, 1])))
    expected = -answer(method).log_softmax(-1)[range(3), [2, 0, 1]].mean()
    assert list(losses) == ["ce"]
    torch.testing.assert_close(losses["ce"].detach(), expected)
    losses["ce"].backward()
    assert method.ctx.grad.abs().sum() > 0
    assert all(p.grad is None for p in method.clip.parameters())


# --- class-specific vectors ---


@pytest.fixture
def specific(tiny_clip: Clip) -> CoOp:
    method = CoOp(tiny_clip, CoOpConfig(class_specific=True))
    method.set_classes(NAMES)
    return method


def test_each_class_has_vectors_of_its_own(specific: CoOp):
    assert specific.ctx.shape == (3, 4, 64)
    assert not torch.equal(specific.ctx[0], specific.ctx[1])
    before = answer(specific)
    with torch.no_grad():
        specific.ctx[1] = specific.ctx[1].flip(-1)  # (a constant added would be lost in the first norm)
    after = answer(specific)
    assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])
    assert not torch.allclose(after[:, 1], before[:, 1])


@pytest.mark.parametrize("order", [[2, 0, 1], [1], [2, 1]])
def test_known_classes_keep_their_vectors_in_any_order(specific: CoOp, order: list[int]):
    straight = answer(specific)
    some = answer(specific, [NAMES[i] for i in order])
    torch.testing.assert_close(some, straight[:, order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(answer(specific, NAMES), straight)


def test_unknown_classes_are_refused(specific: CoOp):
    with pytest.raises(InputError, match=r"'zebra' was not trained on.*class_specific=false"):
        specific.set_classes(["cat", "zebra"])
    assert specific.names == tuple(NAMES)


def test_class_specific_vectors_travel_in_a_checkpoint(specific: CoOp, tiny_clip: Clip):
    tensors = {name: p.detach().clone() for name, p in specific.learned().items()}
    other = CoOp(tiny_clip, CoOpConfig(class_specific=True), stream(9, "init"))
    other.load_learned(tensors)
    assert torch.equal(answer(other, NAMES), answer(specific))
    third = CoOp(tiny_clip, CoOpConfig(class_specific=True))
    third.load_learned(tensors)
    with pytest.raises(InputError, match="learned for 3 classes, not 2"):
        third.set_classes(NAMES[:2])


def test_a_first_class_list_that_is_refused_does_not_settle_the_vectors(tiny_clip: Clip):
    method = CoOp(tiny_clip, CoOpConfig(class_specific=True))
    with pytest.raises(InputError, match="shorten"):
        method.set_classes(["cat", LONG])
    assert answer(method, NAMES).shape == (3, 3)


def test_loading_other_vectors_forgets_what_was_encoded(tiny_clip: Clip):
    method, other = CoOp(tiny_clip, generator=stream(1, "a")), CoOp(tiny_clip, generator=stream(2, "a"))
    expected = answer(other, NAMES)
    wrapped = FvgPt(method)
    before = answer(wrapped, NAMES)
    tensors = {n: p.detach().clone() for n, p in wrapped.learned().items()}
    wrapped.load_learned(tensors | {"host.ctx": other.ctx.detach()})
    assert not torch.allclose(answer(wrapped), before, atol=1e-4)
    assert torch.equal(answer(wrapped.backbone), expected)
