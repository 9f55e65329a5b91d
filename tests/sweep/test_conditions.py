"""Sets with several test splits, and rows that learn from other masks than the set's own."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from foveate.datasets import catalogue
from foveate.datasets.catalogue import find
from foveate.datasets.pasting import paste_set
from foveate.datasets.world_sets import draw_sets
from foveate.errors import InputError
from foveate.sweep import sets
from foveate.sweep.plan import plan
from foveate.sweep.results import read_result
from foveate.sweep.running import SweepContext, WorkerState, run_job

pytestmark = pytest.mark.usefixtures("one_thread")

TESTS = 3

TABLE = """
protocol: base-to-new
sets: [species]
seeds: [1]
shots: 1
epochs: 1
augment: none
conditions: [home, sibling]
mixed: true
shift: true
clip: tiny-mild
rows:
  CoOp: {method: coop, masks: shifted}
  CoOp + FVG-PT: {method: fvgpt+coop}
  with wrong masks: {method: fvgpt+coop, masks: wrong}
"""


PHOTOGRAPHS = """
protocol: base-to-new
sets: [eurosat]
seeds: [1]
shots: 1
epochs: 1
conditions: [home, same, any, sibling, unseen]
shift: true
clip: {clip}
rows:
  CLIP: {{method: zeroshot}}
  CoOp: {{method: coop}}
"""
NAMES = ("red star", "blue ring", "green cross", "pink heart", "cyan moon", "orange square")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The set of species with three test scenes of a class, not fifteen."""
    root = tmp_path_factory.mktemp("world")
    species = find("species")
    few = replace(species, train=40 * 4, test=40 * TESTS, world=replace(species.world, shots=4, tests=TESTS))
    known = {**catalogue._by_name(), "species": few}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "_by_name", lambda: known)
        draw_sets(root, ["species"])
        yield root


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "table.yaml").write_text(TABLE)
    return tmp_path / "table.yaml"


def test_every_row_is_asked_under_every_condition(world: Path, table: Path, tmp_path: Path):
    jobs = plan(table).jobs
    assert [job.row for job in jobs] == ["CoOp", "CoOp + FVG-PT", "with wrong masks"]
    # CoOp learns from no masks: one backbone serves both plug-ins.
    assert {job.needs for job in jobs[1:]} == {jobs[0].key}
    desk = WorkerState(SweepContext(world, tmp_path / "out"))
    for job in jobs:
        run_job(job, desk)
    results = [read_result(tmp_path / "out" / job.key) for job in jobs]
    for result in results:
        assert result is not None
        asked = [
            (one.dataset, one.condition, one.split, one.pictures, one.classes) for one in result.measured
        ]
        assert asked == [
            (f"species@{condition}", condition, split, pictures, classes)
            for condition in ("home", "sibling")
            for split, pictures, classes in (
                ("base", 20 * TESTS, 20),
                ("new", 20 * TESTS, 20),
                ("all", 40 * TESTS, 40),
            )
        ]
        for one in result.measured:
            assert one.shift is not None
            right = one.accuracy / 100
            parts = [(right, one.shift_right), (1 - right, one.shift_wrong)]
            mean = sum(share * shift for share, shift in parts if share)
            assert mean == pytest.approx(one.shift, rel=1e-3)
    exact, wrong = results[1], results[2]
    assert exact.hashes["draw"] == wrong.hashes["draw"]
    assert (exact.config["masks"], wrong.config["masks"]) == (None, "wrong")
    assert exact.measured != wrong.measured


def test_rows_may_have_masks_of_test_pictures(world: Path, tmp_path: Path):
    for path in (world / "species" / "mask").rglob("home_*.png"):
        flipped = tmp_path / "flipped" / path.parent.name / path.name
        flipped.parent.mkdir(parents=True, exist_ok=True)
        ImageOps.flip(Image.open(path)).save(flipped)
    (tmp_path / "table.yaml").write_text(
        """
protocol: base-to-new
sets: [species]
seeds: [1]
shots: 1
conditions: [home]
test_masks: own
falip: {strength: 3.0}
clip: tiny-mild
rows:
  CLIP: {method: zeroshot}
  own: {method: falip+zeroshot}
  flipped: {method: falip+zeroshot, test_masks: FOLDER}
  none: {method: falip+zeroshot, test_masks: }
""".replace("FOLDER", str(tmp_path / "flipped"))
    )
    jobs = {job.row: job for job in plan(tmp_path / "table.yaml").jobs}
    assert {row: job.test_masks for row, job in jobs.items()} == {
        "CLIP": None,
        "own": "own",
        "flipped": str(tmp_path / "flipped"),
        "none": None,
    }
    assert {job.copies for job in jobs.values()} == {None}
    assert {job.needs for row, job in jobs.items() if row != "CLIP"} == {jobs["CLIP"].key}
    desk = WorkerState(SweepContext(world, tmp_path / "out"))
    told = {row: run_job(job, desk).notes for row, job in jobs.items()}
    assert [row for row, notes in told.items() if notes] == ["none"]
    assert "has no test_masks: falip+zeroshot answers as the method under it" in told["none"][0]
    found = {row: read_result(tmp_path / "out" / job.key) for row, job in jobs.items()}
    right = {row: [one.right for one in result.measured] for row, result in found.items()}
    assert right["none"] == right["CLIP"]
    assert right["own"] != right["CLIP"]
    assert right["flipped"] not in (right["own"], right["CLIP"])
    assert {row: result.config["test_masks"] for row, result in found.items()} == {
        row: job.test_masks for row, job in jobs.items()
    }


def test_masks_that_are_not_there_are_named_before_the_first_run(world: Path):
    with pytest.raises(InputError, match=r"species has no masks 'drawn': neither .*mask-drawn nor a folder"):
        sets.check_there(world, ["species"], others=[("species", "drawn")])
    assert sets.masks_of(world, "species", "eroded") == world / "species" / "mask-eroded"
    assert sets.masks_of(world, "species", "species/mask-wrong") == world / "species" / "mask-wrong"
    exact = sets.photos_of(world, "species", tests_only=True)
    assert torch.equal(
        torch.tensor([sample.label for sample in exact.samples]),
        torch.tensor([s.label for s in sets.photos_of(world, "species", "wrong", tests_only=True).samples]),
    )


def test_photographs_are_asked_about_on_the_grounds_they_were_pasted_on(
    root: Path, clip_folder: Path, tmp_path: Path
):
    shutil.copytree(root, tmp_path / "root")
    (tmp_path / "table.yaml").write_text(PHOTOGRAPHS.format(clip=clip_folder))
    jobs, keys = plan(tmp_path / "table.yaml").jobs, plan(tmp_path / "table.yaml").keys()
    with pytest.raises(InputError, match=r"5 of 6 data sets .* paste it: foveate data paste ROOT eurosat"):
        sets.check_there(tmp_path / "root", keys)
    assert len([line for line in sets.missing(tmp_path / "root", keys) if "eurosat-pasted" in line]) == 1
    paste_set(tmp_path / "root", "eurosat", "dtd")
    sets.check_there(tmp_path / "root", keys)
    desk = WorkerState(SweepContext(tmp_path / "root", tmp_path / "out"))
    for job in jobs:
        run_job(job, desk)
    zeroshot, coop = (read_result(tmp_path / "out" / job.key) for job in jobs)
    for result in (zeroshot, coop):
        assert result is not None
        asked = [(one.dataset, one.condition, one.split, one.pictures) for one in result.measured]
        assert asked == [
            (f"eurosat@{condition}", condition, split, 6)
            for condition in ("home", "same", "any", "sibling", "unseen")
            for split in ("base", "new")
        ]
        assert {tuple(one.per_class) for one in result.measured} == {tuple(NAMES[:3]), tuple(NAMES[3:])}
        assert all(one.shift is not None for one in result.measured)  # pasted pictures have masks
        assert len({one.digest for one in result.measured}) == 10


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[home, sibling]", "[home, away]", "conditions is .*away.*give test splits, some of home, any"),
        (
            "sets: [species]",
            "sets: [world-1]",
            "conditions are for sets of species and photographs: world-1 has one test split",
        ),
        ("mixed: true\nshift: true", "protocol: few-shot", "conditions is for base-to-new"),
        ("masks: wrong", "masks: [wrong]", "masks is .*give the name of a set's masks"),
        (
            "masks: wrong",
            "test_masks: wrong",
            "test_masks is 'wrong', but fvgpt.coop looks at none: leave it",
        ),
        ("masks: wrong", "test_masks: 3", "test_masks is 3: give the name of a set's masks"),
    ],
)
def test_what_fits_nowhere_is_refused(table: Path, old: str, new: str, says: str):
    text = TABLE.replace("protocol: base-to-new\n", "") if "protocol" in new else TABLE
    table.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=says):
        plan(table)
