"""What a mask does to a normalised picture."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate.clip.config import CLIP_MEAN, CLIP_STD
from foveate.clip.weights import load_clip
from foveate.data.loader import PictureSet
from foveate.foreground.views import area, background_view, crop_view, foreground_view
from foveate.methods.zeroshot import ZeroShot
from foveate.world.photos import scene_photos

FILLS = ("mean", "black", "blur", "image_mean")


@pytest.fixture
def images():
    return torch.randn(2, 3, 24, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def masks():
    mask = torch.zeros(2, 1, 24, 16)
    mask[0, :, 4:20, 3:9] = 1
    mask[1, :, :, :8] = 1
    return mask


def test_mean_is_the_product_and_nothing_else(images, masks):
    assert torch.equal(foreground_view(images, masks), images * masks)
    assert torch.equal(background_view(images, masks), images * (1 - masks))


@pytest.mark.parametrize("fill", FILLS)
def test_what_is_kept_is_untouched(images, masks, fill):
    inside = masks.expand_as(images) == 1
    assert torch.equal(foreground_view(images, masks, fill)[inside], images[inside])
    assert torch.equal(background_view(images, masks, fill)[~inside], images[~inside])


@pytest.mark.parametrize("fill", FILLS)
def test_a_mask_of_ones_is_the_picture(images, fill):
    assert torch.equal(foreground_view(images, torch.ones(2, 1, 24, 16), fill), images)


def test_black_is_black(images, masks):
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    pixels = foreground_view(images, masks, "black") * std + mean
    outside = (masks == 0).expand_as(pixels)
    assert pixels[outside].abs().max() < 1e-6
    assert foreground_view(images, masks, "black", (0.5,) * 3, (0.5,) * 3)[outside].unique().tolist() == [
        -1.0
    ]


def test_image_mean_is_each_pictures_own(images, masks):
    view = foreground_view(images, masks, "image_mean")
    for row in range(2):
        for channel in range(3):
            filled = view[row, channel][masks[row, 0] == 0]
            assert torch.allclose(filled, images[row, channel].mean().expand_as(filled))


def test_blur_keeps_level_pictures_and_flattens_noise(images, masks):
    level = torch.full((2, 3, 24, 16), 0.7)
    assert torch.allclose(foreground_view(level, masks, "blur"), level, atol=1e-6)
    outside = (masks == 0).expand_as(images)
    blurred = foreground_view(images, masks, "blur")[outside]
    assert blurred.std() < 0.6 * images[outside].std()
    assert foreground_view(torch.randn(1, 3, 2, 2), torch.zeros(1, 1, 2, 2), "blur").shape == (1, 3, 2, 2)


def test_area(masks):
    assert torch.allclose(area(masks), torch.tensor([16 * 6 / 384, 0.5]))


@given(st.integers(0, 1000))
def test_foreground_and_background_make_the_picture(seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(1, 3, 8, 8, generator=generator)
    masks = (torch.rand(1, 1, 8, 8, generator=generator) > 0.5).float()
    assert torch.equal(foreground_view(images, masks) + background_view(images, masks), images)
    assert torch.equal(area(masks) + area(1 - masks), torch.ones(1))


# --- the crop ---

SIDE = 32


def box(top, left, bottom, right):
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., top:bottom, left:right] = 1
    return mask


def ramps():
    """A picture whose first two channels are row and column of each pixel."""
    line = torch.arange(SIDE, dtype=torch.float32)
    return torch.stack([line[:, None].expand(SIDE, SIDE), line.expand(SIDE, SIDE), torch.zeros(SIDE, SIDE)])[
        None
    ]


@pytest.mark.parametrize(
    ("spans", "margin", "top", "left", "size"),
    [
        ((8, 10, 16, 14), 0.0, 8, 8, 8),  # as wide as it is high
        ((8, 10, 16, 14), 0.25, 6, 6, 12),
        ((0, 0, 4, 4), 0.5, 0, 0, 8),  # moved inwards at a corner
        ((24, 28, 32, 32), 0.5, 16, 16, 16),
        ((2, 2, 30, 30), 0.5, 0, 0, SIDE),  # no larger than the picture
    ],
)
def test_a_crop_is_the_square_around_the_object_enlarged(spans, margin, top, left, size):
    seen = crop_view(ramps(), box(*spans), margin)[0]
    across = (torch.arange(SIDE) + 0.5) * size / SIDE - 0.5  # where each pixel of the crop comes from
    inside = slice(SIDE // 4, -SIDE // 4)  # cubic interpolation keeps ramps, but for the border
    assert seen.shape == (3, SIDE, SIDE)
    torch.testing.assert_close(seen[0, inside, SIDE // 2], (top + across)[inside])
    torch.testing.assert_close(seen[1, SIDE // 2, inside], (left + across)[inside])


def test_without_a_foreground_or_with_nothing_else_a_crop_is_the_picture():
    picture = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    masks = torch.cat([torch.zeros(1, 1, SIDE, SIDE), torch.ones(1, 1, SIDE, SIDE)])
    torch.testing.assert_close(crop_view(picture, masks), picture)


def test_a_crop_shows_small_objects_to_clip():
    clip = load_clip("tiny")
    method, size = ZeroShot(clip), clip.config
    names = [
        f"{colour} {shape}" for colour in ("red", "blue", "green") for shape in ("star", "ring", "heart")
    ]
    photos = scene_photos(names, per_class=6, seed=1, radius=(0.1, 0.16))
    method.set_classes(list(photos.names))
    (batch,) = PictureSet(photos, size.image_size, size.mean, size.std).batches(None, 54)
    right = [
        (method.logits(method.features(view)).argmax(dim=-1) == batch.labels).sum().item()
        for view in (batch.images, crop_view(batch.images, batch.masks))
    ]
    assert right[1] >= 53
    assert right[0] <= 48
