"""What stands out in a picture, and masks from it."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from foveate.errors import InputError
from foveate.foreground.cleanup import contrast, tidy
from foveate.foreground.proposers import classical as saliency_module
from foveate.foreground.proposers.base import Request
from foveate.foreground.proposers.classical import Classical, background_probability, find_regions, saliency
from foveate.foreground.proposers.registry import open_proposer

pytest.importorskip("skimage")
pytest.importorskip("scipy")
pytest.importorskip("cv2")

MSRC = (Path(__file__).parents[2] / ".." / "shared" / "data" / "msrc10").resolve()


def disc_on_ground(width=240, height=160, centre=(110, 75), radius=42, seed=0):
    """A red disc with grain on a ground of coarse green and brown patches; and where the disc is."""
    noise = np.random.default_rng(seed)
    row, column = np.mgrid[0:height, 0:width]
    mask = (column - centre[0]) ** 2 + (row - centre[1]) ** 2 < radius**2
    patches = (
        noise.integers(0, 2, (height // 8 + 1, width // 8 + 1)).repeat(8, 0).repeat(8, 1)[:height, :width]
    )
    ground = np.where(patches[..., None], (80, 120, 60), (95, 110, 70)) + noise.normal(
        0, 10, (height, width, 3)
    )
    thing = np.array((200, 60, 50)) + noise.normal(0, 10, (height, width, 3))
    return Image.fromarray(np.where(mask[..., None], thing, ground).clip(0, 255).astype(np.uint8)), mask


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def ask(picture, **settings):
    [proposal] = Classical(**settings).propose([Request("a.png", picture)])
    return proposal


@pytest.mark.parametrize(("centre", "radius"), [((110, 75), 42), ((60, 50), 30), ((190, 100), 36)])
def test_a_disc_is_found_wherever_it_is(centre, radius):
    picture, mask = disc_on_ground(centre=centre, radius=radius)
    proposal = ask(picture)
    assert iou(proposal.mask, mask) > 0.8  # superpixels have no finer outline
    assert iou(tidy(picture, proposal, coarse=True).mask, mask) > 0.95
    assert proposal.score > 0.5
    assert proposal.score == contrast(proposal.heat, proposal.mask)


def test_a_disc_that_the_border_cuts_off_is_still_no_background():
    picture, mask = disc_on_ground(centre=(120, 130), radius=45)
    assert iou(tidy(picture, ask(picture), coarse=True).mask, mask) > 0.85


def test_two_discs_are_found():
    picture, first = disc_on_ground(centre=(70, 80), radius=34)
    _, second = disc_on_ground(centre=(170, 80), radius=34)
    pixels = np.asarray(picture).copy()
    pixels[second] = (190, 70, 60)
    both = Image.fromarray(pixels)
    assert iou(tidy(both, ask(both), coarse=True).mask, first | second) > 0.95


def test_a_mirrored_picture_has_about_the_mirrored_heat():
    picture, _ = disc_on_ground()
    heat = ask(picture).heat
    mirrored = ask(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).heat[:, ::-1]
    assert np.corrcoef(heat.ravel(), mirrored.ravel())[0, 1] > 0.9


def test_large_pictures_are_looked_at_small_and_answered_at_full_size():
    picture, mask = disc_on_ground()
    large = picture.resize((1920, 1280), Image.Resampling.BICUBIC)
    proposal = ask(large)
    assert proposal.mask.shape == proposal.heat.shape == (1280, 1920)
    wanted = np.asarray(Image.fromarray(mask).resize((1920, 1280)))
    assert iou(tidy(large, proposal, coarse=True).mask, wanted) > 0.95


def test_grey_pictures_are_told_apart_by_brightness():
    picture, mask = disc_on_ground()
    bright = np.where(mask, 210, np.asarray(picture.convert("L")) // 2).astype(np.uint8)
    grey = Image.fromarray(bright).convert("RGB")
    assert iou(tidy(grey, ask(grey), coarse=True).mask, mask) > 0.95


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 3), (5000, 3), (7, 400), (64, 64)])
@pytest.mark.parametrize("kind", ["flat", "noise"])
def test_pictures_without_an_object_get_some_mask(size, kind):
    pixels = np.full((size[1], size[0], 3), 120, dtype=np.uint8)
    if kind == "noise":
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    picture = Image.fromarray(pixels)
    proposal = ask(picture)
    assert proposal.heat.shape == proposal.mask.shape == (size[1], size[0])
    assert proposal.heat.min() >= 0
    assert proposal.heat.max() <= 1
    tidied = tidy(picture, proposal, coarse=True)
    assert tidied.mask.any()
    assert tidied.fallback or 0.02 <= tidied.area <= 0.95


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 100), st.integers(1, 400))
def test_heat_is_always_a_share(width, height, seed, regions):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    heat = saliency(pixels, regions)
    assert heat.shape == (height, width)
    assert np.isfinite(heat).all()
    assert 0 <= heat.min() <= heat.max() <= 1


def test_answers_are_equal_each_time_and_do_not_depend_on_other_requests():
    first, _ = disc_on_ground(seed=1)
    second, _ = disc_on_ground(seed=2, centre=(60, 60))
    proposer = Classical()
    together = proposer.propose([Request("1", first), Request("2", second)])
    alone = [proposer.propose([Request("x", picture, "cat", "a cat")])[0] for picture in (first, second)]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one.heat, other.heat)
        assert np.array_equal(one.mask, other.mask)


def test_answers_are_equal_with_any_number_of_threads(tmp_path):
    picture, _ = disc_on_ground()
    picture.save(tmp_path / "disc.png")
    script = (
        "import sys, hashlib, cv2\n"
        "from PIL import Image\n"
        "from foveate.foreground.proposers.base import Request\n"
        "from foveate.foreground.proposers.classical import Classical\n"
        "from foveate.foreground.cleanup import tidy\n"
        "picture = Image.open(sys.argv[1]).convert('RGB')\n"
        "cv2.setNumThreads(int(sys.argv[2]))\n"
        "[proposal] = Classical().propose([Request('disc', picture)])\n"
        "mask = tidy(picture, proposal, coarse=True).mask\n"
        "print(hashlib.sha256(mask.tobytes()).hexdigest())\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script, tmp_path / "disc.png", threads],
            env={"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "3")
    }
    assert len(said) == 1


def test_the_border_is_background_and_the_disc_is_not():
    picture, mask = disc_on_ground()
    regions = find_regions(np.asarray(picture), 200)
    background = background_probability(regions, saliency_module._distances(regions.colour))
    assert background[regions.border].min() > 0.9
    inside = np.bincount(regions.labels.ravel(), mask.ravel()) / np.bincount(regions.labels.ravel()) > 0.9
    assert background[inside].max() < 0.1


def test_regions_know_their_neighbours_colours_and_places():
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, 20:] = 255
    regions = find_regions(pixels, 2)
    assert len(regions.colour) == 2
    dark, bright = regions.labels[0, 0], regions.labels[0, -1]
    assert regions.colour[dark] == pytest.approx([0, 0, 0], abs=0.1)
    assert regions.colour[bright] == pytest.approx([100, 0, 0], abs=0.1)
    assert regions.position[dark] == pytest.approx([0.5, 0.25])
    assert regions.touching.tolist() == [[False, True], [True, False]]
    assert regions.border.all()


def test_the_middle_is_preferred_as_much_as_wanted():
    picture, _ = disc_on_ground(centre=(45, 40), radius=26)
    _, middle = disc_on_ground(centre=(140, 95), radius=26)
    pixels = np.asarray(picture).copy()
    pixels[middle] = (200, 60, 50)
    two = Image.fromarray(pixels)

    def share(centre):
        heat = ask(two, centre=centre).heat
        return heat[30:50, 35:55].mean() / heat[85:105, 130:150].mean()

    assert share(0.0) > 0.85 > 0.75 > share(0.6) > 0.4 > share(0.3)


def test_settings_are_part_of_the_key_and_checked():
    assert open_proposer("classical").coarse
    assert Classical(regions=90).key != Classical().key
    with pytest.raises(InputError, match="regions"):
        Classical(regions=1)
    with pytest.raises(InputError, match="centre"):
        Classical(centre=-1.0)


@pytest.mark.slow
@pytest.mark.skipif(not MSRC.exists(), reason=f"no real pictures: {MSRC} is not there")
def test_real_objects_are_found():
    with (MSRC / "index.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = {row["classname"]: row for row in rows[::-1]}.values()  # one of each class
    found = []
    for row in chosen:
        picture = Image.open(MSRC / row["image"]).convert("RGB")
        wanted = np.asarray(Image.open(MSRC / row["mask"])) > 0
        found.append(iou(tidy(picture, ask(picture), coarse=True).mask, wanted))
    assert len(found) == 10
    assert np.mean(found) > 0.6
