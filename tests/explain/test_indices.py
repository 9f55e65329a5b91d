"""Numbers beside a gaze, against values worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from foveate.evaluate.metrics import foreground_shift
from foveate.explain import gaze_on_object, lift, pointing, shift_index, top_overlap


def corner(side: int = 4) -> Tensor:
    """A mask of the upper left quarter of 8 x 8 pixels, two views."""
    masks = torch.zeros(2, 1, 8, 8)
    masks[:, :, :side, :side] = 1
    return masks


def test_the_shift_index_of_two_classes():
    full = torch.tensor([[2 * math.log(3), 0.0], [0.0, 0.0]])  # at temperature 2: (3/4, 1/4) and halves
    foreground = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    by_hand = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert shift_index(full, foreground).tolist() == pytest.approx([by_hand, 0.0])
    other_way = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert shift_index(foreground, full).tolist() == pytest.approx([other_way, 0.0])
    colder = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert shift_index(full, foreground, tau=1.0)[0].item() == pytest.approx(colder)


def test_its_mean_is_what_evaluate_reports():
    full, foreground = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)) * 4
    assert shift_index(full, foreground).mean().item() == pytest.approx(foreground_shift(full, foreground))
    assert (shift_index(full, full) >= 0).all()


def test_lift_is_energy_over_area():
    heat = torch.zeros(2, 4, 4)
    heat[0] = 1 / 16  # looks everywhere
    heat[1, 0, 0], heat[1, 3, 3] = 0.75, 0.25
    assert gaze_on_object(heat, corner()).tolist() == pytest.approx([0.25, 0.75])
    assert lift(heat, corner()).tolist() == pytest.approx([1.0, 3.0])


def test_pointing_takes_the_highest_point_alone():
    heat = torch.zeros(2, 4, 4)
    heat[0, 0, 1], heat[0, 3, 3] = 0.4, 0.3
    heat[1, 0, 1], heat[1, 3, 3] = 0.4, 0.6
    assert pointing(heat, corner()).tolist() == [1.0, 0.0]


def test_overlap_of_as_many_pixels_as_the_mask_has():
    heat = torch.zeros(2, 8, 8)  # a patch a pixel, so that nothing is interpolated
    heat[0, :4, :4] = 1 / 16  # the mask itself
    heat[1, :4, 2:6] = 1 / 16  # half on it: 8 common, 24 in either
    assert top_overlap(heat, corner()).tolist() == pytest.approx([1.0, 8 / 24])
    heat[0], heat[1] = 1 / 64, 0
    heat[1, 0, 0] = 1
    # Alike everywhere, the first 16 in reading order count; one hot pixel is not filled up with cold ones.
    assert top_overlap(heat, corner()).tolist() == pytest.approx([8 / 24, 1 / 16])


def test_overlap_ranks_before_it_cuts():
    heat = torch.arange(64.0).flip(0).view(1, 8, 8).expand(2, -1, -1) / 2016
    masks = torch.zeros(2, 1, 8, 8)
    masks[0, :, :2] = 1  # the 16 hottest
    masks[1, :, 1:3] = 1  # shifted by a row
    assert top_overlap(heat, masks).tolist() == pytest.approx([1.0, 8 / 24])


def test_without_foreground_there_is_no_number():
    heat = torch.full((2, 4, 4), 1 / 16)
    nothing = torch.zeros(2, 1, 8, 8)
    for figure in (lift, pointing, top_overlap):
        assert figure(heat, nothing).isnan().all()
    assert gaze_on_object(heat, nothing).tolist() == [0, 0]


def test_a_gaze_at_nothing_is_on_nothing():
    heat = torch.zeros(2, 4, 4)
    for figure in (gaze_on_object, lift, pointing, top_overlap):
        assert figure(heat, corner()).tolist() == [0, 0]


def test_a_picture_does_not_depend_on_its_neighbours():
    g = torch.Generator().manual_seed(1)
    heat = torch.rand(5, 4, 4, generator=g)
    heat = heat / heat.sum((1, 2), keepdim=True)
    masks = (torch.rand(5, 1, 8, 8, generator=g) > 0.6).float()
    for figure in (gaze_on_object, lift, pointing, top_overlap):
        alone = torch.cat([figure(heat[i : i + 1], masks[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(figure(heat, masks), alone)
