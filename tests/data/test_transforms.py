"""Views against torchvision's, bit for bit, and picture against mask."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from foveate.data.transforms import View, eval_view, mask_to_tensor, to_tensor, train_view

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

sizes = st.one_of(
    st.tuples(st.integers(2, 12), st.integers(2, 12)),
    st.tuples(st.integers(20, 300), st.integers(20, 300)),
    st.tuples(st.integers(200, 700), st.integers(2, 4)),
    st.tuples(st.integers(2, 4), st.integers(200, 700)),
)
sides = st.integers(4, 64)


def picture_of(size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def oracle():
    """Torchvision's transforms."""
    return pytest.importorskip("torchvision.transforms")


@given(sizes, sides, st.integers(0, 2**32), st.sampled_from([(0.08, 1.0), (0.5, 1.0), (1.0, 1.0)]))
@settings(max_examples=150)
def test_random_crop_and_flip_equal_torchvisions(oracle, size, side, seed, scale):
    picture = picture_of(size)
    theirs = oracle.Compose(
        [
            oracle.RandomResizedCrop(side, scale=scale, interpolation=oracle.InterpolationMode.BICUBIC),
            oracle.RandomHorizontalFlip(),
            oracle.ToTensor(),
            oracle.Normalize(MEAN, STD),
        ]
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = theirs(picture)
    generator = torch.Generator().manual_seed(seed)
    view = train_view(generator, size, side, scale=scale)
    assert torch.equal(to_tensor(view.apply(picture)[0], MEAN, STD), expected)


@given(sizes, sides)
@settings(max_examples=150)
def test_eval_view_and_squash_equal_torchvisions(oracle, size, side):
    picture = picture_of(size)
    bicubic = oracle.InterpolationMode.BICUBIC
    finish = [oracle.ToTensor(), oracle.Normalize(MEAN, STD)]
    middle = oracle.Compose([oracle.Resize(side, bicubic), oracle.CenterCrop(side), *finish])
    squash = oracle.Compose([oracle.Resize((side, side), bicubic), *finish])
    ours = eval_view(size, side).apply(picture)[0]
    assert torch.equal(to_tensor(ours, MEAN, STD), middle(picture))
    ours = train_view(torch.Generator(), size, side, "squash").apply(picture)[0]
    assert torch.equal(to_tensor(ours, MEAN, STD), squash(picture))


def test_usual_sizes_equal_torchvisions(oracle, real):
    bicubic = oracle.InterpolationMode.BICUBIC
    middle = oracle.Compose([oracle.Resize(224, bicubic), oracle.CenterCrop(224), oracle.ToTensor()])
    for path in sorted(real("caltech101").rglob("*.jpg"))[::300]:
        with Image.open(path) as stored:
            picture = stored.convert("RGB")
        ours = eval_view(picture.size, 224).apply(picture)[0]
        assert torch.equal(to_tensor(ours, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), middle(picture))


@given(sizes, sides, st.integers(0, 2**32), st.sampled_from(["rrc-flip", "squash", "eval"]))
def test_mask_and_picture_share_their_geometry(size, side, seed, kind):
    """A picture painted from its mask still is its mask after any view (nearest on both, so exactly)."""
    inside = np.random.default_rng(seed % 1000).random((size[1], size[0])) > 0.5
    mask = Image.fromarray(np.where(inside, 255, 0).astype(np.uint8))
    generator = torch.Generator().manual_seed(seed)
    view = eval_view(size, side) if kind == "eval" else train_view(generator, size, side, kind)
    picture = Image.merge("RGB", [mask] * 3)
    seen, seen_mask = view.apply(picture, mask)
    assert seen.size == seen_mask.size == (side, side)
    assert set(np.unique(np.asarray(seen_mask))) <= {0, 255}
    # Bicubic blurs edges: where the mask is the same all around, picture and mask must agree.
    values = np.asarray(view._see(picture, Image.Resampling.NEAREST))[..., 0]
    assert np.array_equal(values, np.asarray(seen_mask))


@given(st.integers(0, 2**32), sizes)
def test_crops_are_inside_and_as_large_as_asked(seed, size):
    view = train_view(torch.Generator().manual_seed(seed), size, 8, scale=(0.5, 1.0))
    left, upper, right, lower = view.crop
    assert 0 <= left < right <= size[0]
    assert 0 <= upper < lower <= size[1]


def test_flips_half_of_the_time():
    generator = torch.Generator().manual_seed(0)
    flips = sum(train_view(generator, (50, 40), 8).flip for _ in range(1000))
    assert 440 < flips < 560


def test_flip_mirrors():
    picture = picture_of((6, 6))
    plain, flipped = View(6).apply(picture)[0], View(6, flip=True).apply(picture)[0]
    assert np.array_equal(np.asarray(plain)[:, ::-1], np.asarray(flipped))


def test_a_very_long_strip_needs_little_memory():
    """2 x 120,000 pixels at side 224 would be a picture of 3 billion pixels before the middle is cut out."""
    picture = Image.new("RGB", (120_000, 2), (10, 200, 30))
    seen, mask = eval_view(picture.size, 224).apply(picture, Image.new("L", picture.size, 255))
    assert np.array_equal(np.asarray(seen), np.full((224, 224, 3), (10, 200, 30), dtype=np.uint8))
    assert np.asarray(mask).min() == 255


def test_the_strip_path_shows_the_same_part(monkeypatch):
    ramp = np.tile(np.linspace(0, 255, 640).astype(np.uint8), (20, 1))
    picture = Image.merge("RGB", [Image.fromarray(ramp)] * 3)
    view = eval_view(picture.size, 32)
    plain = np.asarray(view.apply(picture)[0]).astype(int)
    monkeypatch.setattr("foveate.data.views._LARGE_RESIZE", 0)
    assert np.abs(np.asarray(view.apply(picture)[0]).astype(int) - plain).max() <= 1


def test_large_crops_warn_nobody(monkeypatch):
    picture = picture_of((40, 30))
    view = View(8, crop=(3, 4, 33, 24))
    plain = np.asarray(view.apply(picture)[0])
    monkeypatch.setattr("foveate.data.views._LARGE_CROP", 10)
    assert np.array_equal(np.asarray(view.apply(picture)[0]), plain)


def test_mask_to_tensor():
    mask = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8))
    assert torch.equal(mask_to_tensor(mask), torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))
