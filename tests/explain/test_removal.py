"""Deletion and insertion: of a picture whose class hangs on one patch, and counted."""

import pytest
import torch
from torch import Tensor

from foveate.clip.model import Clip
from foveate.explain import remove
from foveate.foreground.views import Fill, foreground_view
from foveate.methods.base import Method
from foveate.methods.registry import build
from foveate.methods.zeroshot import ZeroShot
from foveate.seeds import stream
from foveate.types import Branch, Features

PLACE = 6  # second row, third column of 4 x 4


class OnePatch(ZeroShot):
    """Sees one patch: class 0 where its first channel is 1, class 1 where it is not."""

    asked = 0

    def features(self, images: Tensor, branch: Branch | None = None) -> Features:
        self.asked += 1
        seen = images[:, 0, 8:16, 16:24].mean((1, 2))
        return Features(torch.stack([seen, 1 - seen], 1)[None], torch.eye(2))

    def logits(self, features: Features, branch: Branch = "base") -> Tensor:
        return 200 * features.image[0] - 100


@pytest.fixture
def method(tiny_clip: Clip) -> OnePatch:
    method = OnePatch(tiny_clip)
    method.set_classes(["there", "gone"])
    return method


def heat(order: list[int]) -> Tensor:
    """A gaze that goes over the patches in this order, hottest first."""
    rank = torch.empty(16)
    rank[torch.tensor(order)] = torch.arange(16.0).flip(0)
    return (rank / rank.sum()).view(1, 4, 4)


def looking_there_after(patches: int) -> Tensor:
    others = [i for i in range(16) if i != PLACE]
    return heat([*others[:patches], PLACE, *others[patches:]])


@pytest.mark.parametrize("after", [0, 1, 5, 15])
def test_the_answer_goes_with_the_patch_it_hangs_on(method: OnePatch, after: int):
    gone = remove(method, torch.ones(1, 3, 32, 32), torch.tensor([0]), looking_there_after(after), steps=16)
    assert gone.shares.tolist() == [i / 16 for i in range(17)]
    assert gone.deleted[0].tolist() == pytest.approx([1.0] * (after + 1) + [0.0] * (16 - after))
    assert gone.inserted[0].tolist() == pytest.approx([0.0] * (after + 1) + [1.0] * (16 - after))
    # Trapezoids: whole steps of 1/16 and the half one where it falls.
    assert gone.deletion.item() == pytest.approx((after + 0.5) / 16)
    assert gone.insertion.item() == pytest.approx(1 - (after + 0.5) / 16)


@pytest.mark.parametrize(("steps", "points"), [(1, 2), (3, 4), (16, 17), (1000, 17)])
def test_passes_are_counted(method: OnePatch, steps: int, points: int):
    gone = remove(
        method,
        torch.ones(2, 3, 32, 32),
        torch.tensor([0, 1]),
        looking_there_after(0).expand(2, 4, 4),
        steps=steps,
    )
    assert gone.deleted.shape == gone.inserted.shape == (2, points)
    assert gone.passes == method.asked == 2 * (points - 1)


def test_uneven_steps_weigh_what_they_cover(method: OnePatch):
    gone = remove(method, torch.ones(1, 3, 32, 32), torch.tensor([0]), looking_there_after(15), steps=3)
    assert gone.shares.tolist() == pytest.approx([0, 5 / 16, 11 / 16, 1])
    assert gone.deletion.item() == pytest.approx(11 / 16 + 5 / 32)


@pytest.mark.parametrize("fill", ["mean", "black", "blur", "image_mean"])
def test_the_ends_are_the_whole_picture_and_the_fill(tiny_clip: Clip, fill: Fill):
    method: Method = build("zeroshot", tiny_clip)
    method.set_classes(["cat", "dog", "phone"])
    images, labels = torch.randn(3, 3, 32, 32, generator=stream(0, "x")), torch.tensor([0, 1, 2])
    gone = remove(method, images, labels, torch.rand(3, 4, 4), steps=4, fill=fill)
    size = tiny_clip.config
    empty = foreground_view(images, torch.zeros(3, 1, 32, 32), fill, size.mean, size.std)
    for views, first, last in ((images, gone.deleted, gone.inserted), (empty, gone.inserted, gone.deleted)):
        with torch.no_grad():
            p = method.logits(method.features(views)).softmax(-1)[range(3), labels]
        torch.testing.assert_close(first[:, 0], p)
        torch.testing.assert_close(last[:, -1], p)


def test_pixels_beyond_the_last_whole_patch_do_not_hinder(small_config, small_tokenizer):
    clip = Clip(small_config(small_tokenizer.vocab, image_size=36), small_tokenizer)
    method = build("zeroshot", clip.initialise(stream(0, "clip")).eval())
    method.set_classes(["cat", "dog"])
    gone = remove(method, torch.randn(1, 3, 36, 36), torch.tensor([0]), torch.rand(1, 4, 4), steps=2)
    assert gone.deleted.isfinite().all()
