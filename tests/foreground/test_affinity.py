"""Grad-CAM against autograd written out, and attention as affinity."""

import copy

import pytest
import torch
from torch.nn import functional as F

from foveate.clip.dense import look
from foveate.foreground.proposers.clip_self import affinity, boxes, softmax_cam, spread, stretched

WIDE = torch.randn(2, 3, 40, 72, generator=torch.Generator().manual_seed(2))
TEXTS = F.normalize(torch.randn(5, 32, generator=torch.Generator().manual_seed(3)), dim=-1)


def by_hand(clip, images, texts, scale):
    """Grad-CAM of the softmax itself, in double precision, through the hooked tower."""
    clip = copy.deepcopy(clip).double().requires_grad_(True)
    vision, kept = clip.vision, []

    def keep(_module, _inputs, output):
        output.retain_grad()
        kept.append(output)

    grown = torch.nn.functional.interpolate(
        vision.pos[1:].T.reshape(1, -1, 4, 4), size=(5, 9), mode="bicubic", align_corners=False
    )
    tokens = vision.patches(images.double()).flatten(2).transpose(1, 2)
    tokens = torch.cat([vision.cls.expand(len(images), 1, -1), tokens], dim=1)
    tokens = tokens + torch.cat([vision.pos[:1], grown[0].flatten(1).T])
    with vision.blocks[-1].ln_1.register_forward_hook(keep):
        feature = F.normalize(vision.pool(vision.encode(tokens)[:, 0]), dim=-1)
    (scale * feature @ texts.double().T).softmax(-1)[:, 0].sum().backward()
    (normed,) = kept
    weights = normed.grad[:, 1:].mean(dim=1, keepdim=True)
    relevance = (weights * normed.detach()[:, 1:]).sum(-1).relu().view(-1, 5, 9)
    least, most = relevance.amin((1, 2), keepdim=True), relevance.amax((1, 2), keepdim=True)
    return ((relevance - least) / (most - least)).float()


@pytest.mark.parametrize("scale", [5.0, 20.0])
def test_cam_equals_autograd_written_out(tiny_clip, scale):
    seen = look(tiny_clip.vision, WIDE)
    cam = softmax_cam(tiny_clip.vision, seen, TEXTS, scale)
    wanted = by_hand(tiny_clip, WIDE, TEXTS, scale)
    assert wanted.std() > 0.05  # there is something to agree on
    torch.testing.assert_close(cam, wanted, rtol=1e-3, atol=1e-4)
    assert not cam.requires_grad


def test_cam_does_not_vanish_where_clip_is_certain(tiny_clip):
    seen = look(tiny_clip.vision, WIDE)
    feature = F.normalize(tiny_clip.vision(WIDE[:, :, :32, :32]), dim=-1)[0]
    texts = torch.stack([feature, *TEXTS[1:]])
    certain = softmax_cam(tiny_clip.vision, seen, texts, 2000.0)
    assert certain.isfinite().all()
    assert certain.amax((1, 2)).min() > 0.99


def test_cam_is_silent_without_a_background(tiny_clip):
    cam = softmax_cam(tiny_clip.vision, look(tiny_clip.vision, WIDE), TEXTS[:1], 20.0)
    assert cam.shape == (2, 5, 9)
    assert not cam.any()


def test_affinity_rows_sum_to_one_and_follow_attention(tiny_clip):
    together = affinity(look(tiny_clip.vision, WIDE, layers=3).attention)
    assert together.shape == (2, 45, 45)
    assert (together >= 0).all()
    torch.testing.assert_close(together.sum(-1), torch.ones(2, 45))


def test_affinity_of_two_groups_keeps_them_apart():
    groups = torch.tensor([0, 0, 1, 1])
    attention = torch.zeros(1, 5, 5)
    attention[0, 1:, 1:] = (groups[:, None] == groups) * 0.5
    attention[0, :, 0] = 0.5  # what goes to the class token is left out
    torch.testing.assert_close(affinity(attention), attention[:, 1:, 1:])


def test_affinity_is_square_of_the_balanced_mean_by_hand():
    attention = torch.rand(1, 7, 7, generator=torch.Generator().manual_seed(0)).softmax(-1)
    balanced = attention[0, 1:, 1:].double()
    for _ in range(200):  # to the limit
        balanced = balanced / balanced.sum(0)
        balanced = balanced / balanced.sum(1, keepdim=True)
    even = (balanced + balanced.T) / 2
    torch.testing.assert_close(affinity(attention, rounds=200)[0].double(), even @ even, rtol=1e-4, atol=1e-6)


def test_boxes_go_around_each_region_and_corners_connect():
    heat = torch.zeros(6, 8)
    heat[0, 0] = heat[1, 1] = heat[2, 0] = 1.0  # connected by corners: rows 0 to 2, columns 0 and 1
    heat[4, 5] = heat[4, 6] = 0.5
    heat[5, 0] = 0.3  # not hot
    wanted = torch.zeros(6, 8, dtype=torch.bool)
    wanted[0:3, 0:2] = True
    wanted[4, 5:7] = True
    assert torch.equal(boxes(heat), wanted)
    assert torch.equal(boxes(torch.zeros(3, 4)), torch.ones(3, 4, dtype=torch.bool))


def test_spread_fills_the_object_from_one_hot_patch():
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    together = (groups[:, None] == groups).float()[None] / 3
    heat = torch.tensor([[[1.0, 0.0, 0.0], [0.1, 0.0, 0.0]]])
    filled = spread(heat, together)
    assert torch.equal(filled, torch.tensor([[[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]))


def test_level_maps_are_stretched_to_zero():
    assert torch.equal(stretched(torch.full((1, 2, 2), 0.3)), torch.zeros(1, 2, 2))
    torch.testing.assert_close(
        stretched(torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])), torch.tensor([[[0, 0.25], [0.5, 1]]])
    )
