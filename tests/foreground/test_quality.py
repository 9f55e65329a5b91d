"""Numbers about a set of masks, against masks whose numbers are known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from foveate.data.transforms import train_view
from foveate.errors import InputError
from foveate.foreground.quality import areas_within, quality, random_boxes, worst_first
from foveate.foreground.records import MaskRecord
from foveate.foreground.store import MaskStore, pack, read_manifest


@pytest.fixture
def kept(tmp_path):
    """Write masks, by name, as a set: the folder and its records."""

    def keep(masks, **more):
        with MaskStore.open(tmp_path / "masks", {}) as store:
            for number, (name, mask) in enumerate(masks.items()):
                height, width = mask.shape
                record = MaskRecord(name, "", width, height, float(mask.mean()), 0.1 * number)
                store.put(replace(record, **more.get(name, {})), mask)
        return tmp_path / "masks", read_manifest(tmp_path / "masks")

    return keep


def box(share, size=(40, 50)):
    mask = np.zeros(size, bool)
    mask[:, : round(size[1] * share)] = True
    return mask


def test_masks_are_counted_by_what_they_are(kept):
    masks = {"a": box(0.0), "b": box(0.5), "c": box(0.54), "d": box(1.0), "e": box(1.0)}
    folder, records = kept(masks, e={"fallback": True, "score": 0.0})
    found = quality(records, folder)
    assert (found.masks, found.fallback, found.empty, found.full) == (5, 1, 1, 1)
    assert found.areas == (1, 0, 0, 0, 0, 2, 0, 0, 0, 1)
    assert found.area == pytest.approx((0.5 + 0.54 + 1) / 4)
    assert found.score == pytest.approx(0.15)
    assert [one.name for one in found.worst] == ["a", "e", "b", "c", "d"]


def test_rows_say_it_all_in_two_columns(kept):
    folder, records = kept({"a": box(0.3), "b": box(1.0)}, b={"fallback": True})
    rows = dict(quality(records, folder).rows())
    assert rows["masks"] == "2"
    assert rows["nothing found, whole picture"] == "1 (50.0%)"
    assert rows["mean area of the others than fallbacks"] == "0.300"
    assert rows["area 0.3 to 0.4"] == "1"
    assert rows["worst: b"] == "score 0.10, area 1.00, nothing found"
    assert rows["random crops that lose the foreground"].endswith("% of 20")


def test_a_set_of_fallbacks_alone_has_no_mean(kept):
    folder, records = kept({"a": box(1.0)}, a={"fallback": True})
    found = quality(records, folder)
    assert dict(found.rows())["mean score of the others than fallbacks"] == "none"
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["area"] is None


def test_the_crops_of_a_mask_depend_on_seed_and_name_alone(kept):
    folder, records = kept({name: box(0.1) for name in "abcdef"})
    lost = [quality([record], folder, crops=50).cut_away for record in records]
    assert np.mean(lost) == pytest.approx(quality(records, folder, crops=50).cut_away)
    assert quality(records[::-1], folder, crops=50).cut_away == quality(records, folder, crops=50).cut_away
    assert len(set(lost)) > 1
    assert [quality([record], folder, seed=1, crops=50).cut_away for record in records] != lost


def test_packed_masks_give_the_same_numbers(kept, tmp_path):
    folder, records = kept({"a.jpg": box(0.1), "b.jpg": box(0.4)})
    pack(folder, tmp_path / "packed")
    assert quality(read_manifest(tmp_path / "packed"), tmp_path / "packed") == quality(records, folder)


def test_missing_masks_are_named(kept):
    folder, records = kept({"a.jpg": box(0.1)})
    with pytest.raises(InputError, match=r"the mask of b\.jpg is not there"):
        quality([*records, replace(records[0], name="b.jpg")], folder)
    with pytest.raises(InputError, match="there are no masks to look at"):
        quality([], folder)


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=30)), st.integers(0, 9))
def test_areas_are_those_of_the_parts_cut_out(mask, seed):
    boxes = random_boxes(mask.shape, 5, np.random.default_rng(seed))
    for (left, upper, right, lower), area in zip(boxes, areas_within(mask, boxes), strict=True):
        part = mask[upper:lower, left:right]
        assert part.shape == (lower - upper, right - left)
        assert area == pytest.approx(part.mean())


@pytest.mark.parametrize("size", [(60, 90), (300, 200), (20, 400), (3, 700)])
def test_parts_are_drawn_as_training_draws_them(size):
    height, width = size
    ours = random_boxes(size, 3000, np.random.default_rng(0))
    generator = torch.Generator().manual_seed(0)
    views = [train_view(generator, (width, height), 8).crop for _ in range(3000)]
    theirs = np.array(views)
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        near = np.quantile(theirs, share, axis=0)
        assert np.quantile(ours, share, axis=0) == pytest.approx(near, abs=0.04 * max(size))


def test_a_small_object_at_the_border_is_lost_as_often_as_in_training(kept):
    mask = np.zeros((80, 120), bool)
    mask[:20, :20] = True
    folder, records = kept({"a": mask})
    generator = torch.Generator().manual_seed(3)
    lost = 0
    for _ in range(2000):
        left, upper, right, lower = train_view(generator, (120, 80), 8).crop
        lost += mask[upper:lower, left:right].mean() < 0.02
    assert quality(records, folder, crops=2000).cut_away == pytest.approx(lost / 2000, abs=0.04)


def test_the_worst_are_by_score_then_area_then_name():
    records = [MaskRecord(name, "", 1, 1, area, score) for name, area, score in
               (("d", 0.5, 0.2), ("c", 0.5, 0.1), ("b", 0.2, 0.1), ("a", 0.5, 0.1))]  # fmt: skip
    assert [one.name for one in worst_first(records)] == ["b", "a", "c", "d"]
