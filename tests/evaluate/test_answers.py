"""Asking a method about a whole set: order, economy, and what comes only with masks or gates."""

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.clip.model import Clip
from foveate.clip.rows import TokenRows
from foveate.data.loader import PictureSet
from foveate.data.samples import MemoryPicture, Photos, Sample
from foveate.errors import InputError
from foveate.evaluate.answers import Answers, ask
from foveate.evaluate.metrics import foreground_shift
from foveate.methods.base import Method
from foveate.methods.registry import build

NAMES = ("cat", "dog", "phone")
NUMBER = 7


def photos(masks: bool = True) -> Photos:
    rng = np.random.default_rng(0)
    samples = []
    for index in range(NUMBER):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        mask = np.zeros((32, 32), np.uint8)
        mask[8:24, 4 : 16 + 2 * index] = 255
        shape = MemoryPicture(Image.fromarray(mask)) if masks else None
        samples.append(Sample(MemoryPicture(Image.fromarray(pixels)), (index * index) % 3, shape))
    return Photos(NAMES, tuple(samples), "binary255")


def pictures(masks: bool = True) -> PictureSet:
    return PictureSet(photos(masks), 32)


@pytest.fixture(params=["zeroshot", "coop", "fvgpt+coop"])
def method(request: pytest.FixtureRequest, tiny_clip: Clip) -> Method:
    method = build(request.param, tiny_clip)
    method.set_classes(NAMES)
    return method


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("branch", ["base", "new", "mixed"])
def test_answers_keep_the_order_of_the_pictures(method: Method, batch_size: int, branch: str):
    answers = ask(method, pictures(), branch, batch_size=batch_size)
    assert answers.labels.tolist() == [0, 1, 1, 0, 1, 1, 0]
    for index in range(NUMBER):
        image = pictures().item(index).image[None]
        with torch.no_grad():
            alone = method.logits(method.features(image), branch)[0]
        torch.testing.assert_close(answers.logits[index], alone, rtol=1e-4, atol=1e-4)


def test_texts_are_encoded_once_however_many_batches(method: Method, texts_read: list[TokenRows]):
    ask(method, pictures(), "new", batch_size=1)
    many = len(texts_read)
    assert 1 <= many <= 2  # the method's texts, and CLIP's
    method.set_classes(NAMES)
    ask(method, pictures(), "new", batch_size=100)
    assert len(texts_read) == many
    method.set_classes(["a", "b", "c"])
    ask(method, pictures(), "new", batch_size=100)
    assert len(texts_read) == 2 * many


def test_texts_are_encoded_anew_after_learning(tiny_clip: Clip):
    method = build("coop", tiny_clip)
    method.set_classes(NAMES)
    before = ask(method, pictures(), "base")
    with torch.no_grad():
        method.learned()["ctx"].normal_(generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(ask(method, pictures(), "base").logits, before.logits, atol=1e-3)


def test_the_shift_comes_with_masks_and_when_asked(method: Method):
    assert ask(method, pictures(), "base").shift is None
    assert ask(method, pictures(masks=False), "base", with_foreground=True).shift is None
    answers = ask(method, pictures(), "base", with_foreground=True, batch_size=3)
    assert answers.foreground is not None
    assert answers.foreground.shape == answers.logits.shape
    assert answers.shift == foreground_shift(answers.logits, answers.foreground)
    assert answers.shift > 0
    item = pictures().item(4)
    with torch.no_grad():
        cut = method.logits(method.features((item.image * item.mask)[None]), "base")[0]
    torch.testing.assert_close(answers.foreground[4], cut, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "branch", "gated"),
    [
        ("coop", "new", False),
        ("fvgpt+coop", "base", False),
        ("fvgpt+coop", "new", True),
        ("fvgpt+coop", "mixed", True),
    ],
)
def test_trust_is_told_where_a_gate_decides(tiny_clip: Clip, name: str, branch: str, gated: bool):
    method = build(name, tiny_clip)
    method.set_classes(NAMES)
    trust = ask(method, pictures(), branch, batch_size=3).trust
    assert (trust is not None) == gated
    if trust is not None:
        assert trust.shape == (NUMBER,)
        assert ((trust > 0) & (trust < 1)).all()


def test_progress_is_told(tiny_clip: Clip):
    method = build("zeroshot", tiny_clip)
    method.set_classes(NAMES)
    told: list[tuple[int, int]] = []
    ask(method, pictures(), "base", batch_size=3, watch=lambda done, of: told.append((done, of)))
    assert told == [(3, 7), (6, 7), (7, 7)]


def test_accuracy_is_that_of_the_logits():
    answers = Answers(torch.eye(4), torch.tensor([0, 1, 2, 0]))
    assert answers.accuracy == 75.0
    assert answers.shift is None


def test_no_pictures_are_refused(tiny_clip: Clip):
    method = build("zeroshot", tiny_clip)
    method.set_classes(NAMES)
    with pytest.raises(InputError, match="no pictures"):
        ask(method, PictureSet(Photos(NAMES, ()), 32), "base")
