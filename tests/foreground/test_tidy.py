"""The one clean-up of all masks, and the cut along colours in it."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageFilter

from foveate.errors import InputError
from foveate.foreground import cleanup as grabcut_module
from foveate.foreground.cleanup import (
    NoSeeds,
    TidyConfig,
    clean,
    contrast,
    grabcut,
    otsu,
    resized,
    seeds,
    small_size,
    stretch,
    tidy,
)
from foveate.foreground.proposers.base import Proposal

pytest.importorskip("scipy")
pytest.importorskip("cv2")


def disc(width, height, centre, radius):
    row, column = np.mgrid[0:height, 0:width]
    return (column - centre[0]) ** 2 + (row - centre[1]) ** 2 < radius**2


def drawn(mask, seed=0):
    """A picture with an orange object, as the mask says, on grainy green."""
    noise = np.random.default_rng(seed)
    ground = noise.normal((70, 130, 60), 18, (*mask.shape, 3))
    thing = noise.normal((225, 120, 40), 12, (*mask.shape, 3))
    return Image.fromarray(np.where(mask[..., None], thing, ground).clip(0, 255).astype(np.uint8))


def blurred(mask, radius=12.0):
    """What a coarse proposer knows of the mask."""
    soft = Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(soft, dtype=np.float32) / 255


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


@pytest.fixture
def whole():
    return disc(160, 120, (70, 60), 34)


def square(size=40, low=10, high=30):
    mask = np.zeros((size, size), dtype=bool)
    mask[low:high, low:high] = True
    return mask


def proposed(mask, heat=None, score=0.7):
    return Proposal(mask, score, heat)


def plain(mask, **config):
    picture = Image.new("RGB", mask.shape[::-1])
    return tidy(picture, proposed(mask), coarse=False, config=TidyConfig(**config))


def test_a_clean_mask_stays_as_it_is():
    tidied = plain(square())
    assert np.array_equal(tidied.mask, square())
    assert (tidied.score, tidied.area, tidied.fallback, tidied.refined) == (0.7, 400 / 1600, False, False)


def test_hairs_go_and_corners_stay_at_the_border():
    mask = np.zeros((20, 30), dtype=bool)
    mask[:, :12] = True
    hairy = mask.copy()
    hairy[7, 12:] = True
    assert np.array_equal(clean(hairy), mask)
    assert np.array_equal(clean(hairy, opening=0), hairy)


def test_a_wider_opening_takes_thicker_bars():
    mask = square()
    mask[18:22, 30:] = True  # four pixels thick
    assert clean(mask, opening=1)[20, 35]
    assert not clean(mask, opening=2)[20, 35]
    assert np.array_equal(clean(np.ones((9, 9), dtype=bool), opening=3), np.ones((9, 9), dtype=bool))


def test_holes_are_filled_and_bays_are_not():
    mask = square()
    mask[15:20, 15:20] = False
    bay = mask.copy()
    bay[15:20, 15:] = False
    assert np.array_equal(clean(mask), square())
    assert not clean(bay)[17, 22]


def test_components_are_kept_by_their_share_of_the_largest():
    mask = square(60, 5, 35)  # 900 pixels
    mask[45:55, 45:59] = True  # 140: 15.6 %
    mask[45:55, 5:18] = True  # 130: 14.4 %
    kept = clean(mask)
    assert kept[50, 50]
    assert not kept[50, 10]
    assert clean(mask, keep=0.14)[50, 10]
    assert kept.sum() == 900 + 140


@pytest.mark.parametrize(
    ("mask", "limits"),
    [
        (np.zeros((10, 10), dtype=bool), {}),
        (np.ones((10, 10), dtype=bool), {}),
        (square(40, 19, 21), {}),
        (square(), {"least": 0.3}),
        (square(), {"most": 0.2}),
        (np.eye(30, dtype=bool), {}),  # thinner than the opening
        (np.ones((1, 1), dtype=bool), {}),
    ],
)
def test_an_unusable_mask_becomes_the_whole_picture_without_a_score(mask, limits):
    tidied = plain(mask, **limits)
    assert tidied.mask.all()
    assert (tidied.score, tidied.area, tidied.fallback, tidied.refined) == (0.0, 1.0, True, False)


def test_limits_may_let_the_whole_picture_pass():
    tidied = plain(np.ones((10, 10), dtype=bool), most=1.0)
    assert (tidied.score, tidied.fallback) == (0.7, False)


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=24)), st.integers(0, 2))
def test_never_empty_and_within_the_limits_or_a_fallback(mask, opening):
    tidied = plain(mask, opening=opening)
    assert tidied.mask.any()
    assert tidied.area == tidied.mask.mean()
    assert tidied.mask.all() if tidied.fallback else 0.02 <= tidied.area <= 0.95


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=24)))
def test_no_holes_and_no_crumbs_are_left(mask):
    from scipy import ndimage

    cleaned = clean(mask)
    assert np.array_equal(cleaned, ndimage.binary_fill_holes(cleaned))
    labels, number = ndimage.label(cleaned)
    sizes = np.bincount(labels.ravel())[1:]
    assert number == 0 or sizes.min() >= 0.15 * sizes.max()


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=24)))
def test_a_mirrored_mask_is_cleaned_alike(mask):
    assert np.array_equal(clean(mask[:, ::-1]), clean(mask)[:, ::-1])


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="shape"):
        tidy(Image.new("RGB", (20, 10)), proposed(np.ones((20, 10), dtype=bool)), coarse=False)


@pytest.mark.parametrize(
    ("refine", "coarse", "cut"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("grabcut", False, True),
        ("none", True, False),
    ],
)
def test_refinement_is_for_coarse_masks_unless_asked_for(whole, refine, coarse, cut):
    heat = blurred(whole)
    tidied = tidy(drawn(whole), proposed(heat > 0.2, heat), coarse=coarse, config=TidyConfig(refine=refine))
    assert tidied.refined == cut
    assert (iou(tidied.mask, whole) > 0.95) == cut


def test_without_heat_there_is_no_refinement(whole):
    tidied = tidy(drawn(whole), proposed(whole), coarse=True, config=TidyConfig(refine="grabcut"))
    assert not tidied.refined
    assert iou(tidied.mask, whole) > 0.99


def test_a_heat_that_seeds_nothing_leaves_the_mask(whole):
    level = np.full(whole.shape, 0.5, dtype=np.float32)
    with pytest.raises(NoSeeds):
        grabcut(Image.new("RGB", (160, 120)), np.ones((120, 160), dtype=np.float32))
    tidied = tidy(drawn(whole), proposed(whole, level), coarse=True)
    assert not tidied.refined
    assert iou(tidied.mask, whole) > 0.99


def test_a_refined_mask_out_of_the_limits_gives_way_to_the_one_before(whole, monkeypatch):
    monkeypatch.setattr("foveate.foreground.cleanup.grabcut", lambda picture, heat: np.zeros_like(whole))
    tidied = tidy(drawn(whole), proposed(whole, blurred(whole)), coarse=True)
    assert (tidied.refined, tidied.fallback, tidied.score) == (False, False, 0.7)
    assert iou(tidied.mask, whole) > 0.99


def test_the_cut_finds_the_outline_from_a_blurred_heat(whole):
    heat = blurred(whole)
    assert iou(heat > otsu(heat), whole) < 0.97
    assert iou(grabcut(drawn(whole), heat), whole) > 0.98


def test_the_cut_of_a_large_picture_has_a_smooth_outline():
    mask = disc(1600, 1200, (800, 600), 330)
    cut = grabcut(drawn(mask), blurred(mask, 100))
    assert cut.shape == mask.shape
    assert iou(cut, mask) > 0.97
    # Enlarged by nearest pixels the outline would run in steps of 7.5, the size of a pixel of the cut.
    edge = np.argmax(cut[500:700], axis=1)
    true_edge = np.argmax(mask[500:700], axis=1)
    assert np.abs(np.diff(edge)).max() <= 3
    assert np.abs(edge - true_edge).max() <= 7.5


def test_the_cut_is_the_same_each_time_and_with_any_number_of_threads(whole):
    import cv2

    picture, heat = drawn(whole), blurred(whole)
    first = grabcut(picture, heat)
    threads = cv2.getNumThreads()
    try:
        for number in (1, 4):
            cv2.setNumThreads(number)
            assert np.array_equal(grabcut(picture, heat), first)
            assert cv2.getNumThreads() == number  # it is everybody's, and stays
    finally:
        cv2.setNumThreads(threads)
    cv2.setRNGSeed(7)
    assert np.array_equal(grabcut(picture, heat), first)


def test_seeds_of_a_ramp():
    heat = np.tile(np.linspace(0, 1, 100, dtype=np.float32), (50, 1))
    labels = seeds(heat)
    inner = labels[25]
    assert inner[:8].tolist() == [grabcut_module._SURE_BACK] * 8  # the frame
    assert set(inner[8:35]) == {grabcut_module._MAYBE_BACK}  # the coldest 35 %
    assert set(inner[36:84]) == {grabcut_module._MAYBE_FRONT}
    assert set(inner[86:]) == {grabcut_module._SURE_FRONT}  # 30 % of the hot half, the frame's too


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5000, 3), (2, 900)])
def test_odd_shapes_are_cut_or_have_no_seeds(size):
    width, height = size
    heat = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
    picture = Image.fromarray(np.repeat((heat[..., None] * 200).astype(np.uint8), 3, axis=-1))
    tidied = tidy(picture, proposed(heat > 0.5, heat), coarse=True)
    assert tidied.mask.shape == (height, width)
    assert tidied.mask.any()


def test_without_opencv_it_says_what_to_type(whole, monkeypatch):
    without(monkeypatch, "cv2")
    proposal = proposed(whole, blurred(whole))
    with pytest.raises(InputError, match=r"--refine none.*cv2.*foveate\[masks\]"):
        tidy(drawn(whole), proposal, coarse=True)
    assert iou(tidy(drawn(whole), proposal, coarse=False).mask, whole) > 0.99
    assert tidy(drawn(whole), proposal, coarse=True, config=TidyConfig(refine="none")).mask.any()


def test_without_scipy_it_says_what_to_type(whole, monkeypatch):
    without(monkeypatch, "scipy")
    with pytest.raises(InputError, match=r"scipy.*foveate\[masks\]"):
        tidy(drawn(whole), proposed(whole), coarse=False)


def without(monkeypatch, module):
    def find(name):
        return None if name == module else importlib.util.find_spec(name)

    monkeypatch.setattr("foveate.foreground.proposers.registry.find_spec", find)


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(2, 400))
def test_otsu_is_where_the_two_groups_are_furthest_apart(seed, number):
    values = np.random.default_rng(seed).beta(0.5, 0.7, number)
    best = otsu(values)

    def between(threshold):
        low, high = values[values <= threshold], values[values > threshold]
        return low.size * high.size * (high.mean() - low.mean()) ** 2 if low.size and high.size else 0.0

    assert between(best) >= 0.97 * max(between(value) for value in values)


def test_otsu_agrees_with_scikit_image():
    filters = pytest.importorskip("skimage.filters")
    heat = blurred(disc(90, 70, (40, 30), 22), 6)
    assert otsu(heat) == pytest.approx(filters.threshold_otsu(heat), abs=1 / 256)


def test_otsu_of_one_value_has_nothing_above_it():
    assert not (np.full(9, 0.3) > otsu(np.full(9, 0.3))).any()


def test_contrast_is_one_for_certainty_and_zero_for_a_guess():
    mask = square()
    assert contrast(mask.astype(np.float32), mask) == 1
    assert contrast(np.full(mask.shape, 0.6, dtype=np.float32), mask) == pytest.approx(0, abs=1e-6)
    assert contrast(1 - mask.astype(np.float32), mask) == 0
    assert contrast(np.ones((3, 3), dtype=np.float32), np.ones((3, 3), dtype=bool)) == 0


def test_stretch_reaches_both_ends():
    assert stretch(np.array([2.0, 3.0, 6.0])).tolist() == [0, 0.25, 1]
    assert stretch(np.array([4.0, 4.0])).tolist() == [0, 0]


def test_resizing_keeps_the_mean_and_small_sizes_keep_the_shape():
    heat = np.random.default_rng(0).random((40, 60), dtype=np.float32)
    assert resized(heat, (15, 10)).mean() == pytest.approx(heat.mean(), abs=0.01)
    assert small_size((640, 480), 320, 1280) == (427, 320)
    assert small_size((200, 100), 320, 1280) == (200, 100)
    assert small_size((5000, 3), 320, 1280) == (1280, 1)
