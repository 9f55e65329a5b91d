"""What a sweep will take: sizes by the catalogue, rates from results or from the table."""

from dataclasses import replace
from pathlib import Path

import pytest

from foveate.sweep.estimate import OWN, TABLE, Estimator, Rate, rates_from, size_of
from foveate.sweep.jobs import Job
from foveate.sweep.plan import plan
from foveate.sweep.results import Result

CONFIGS = Path(__file__).parents[2] / "configs"
EMPTY = Result("", "", "", "", "", 1, "", "", 16, None, None, "", {}, {}, {}, "", {}, 0.0, 0, 0)


@pytest.fixture(scope="module")
def jobs() -> dict[str, Job]:
    return {job.key: job for job in plan(CONFIGS / "table1.yaml").jobs}


def test_sizes_are_those_of_the_spec(jobs: dict[str, Job]):
    """16-shot base pictures, spec 2.1; half of the test pictures for each question."""
    pictures = {
        "imagenet": 8000,
        "caltech101": 800,
        "oxford_pets": 304,
        "stanford_cars": 1568,
        "sun397": 3184,
    }
    pictures |= {"oxford_flowers": 816, "dtd": 384, "eurosat": 80, "ucf101": 816, "fgvc_aircraft": 800}
    for key, number in pictures.items():
        size = size_of(jobs[f"base-to-new/{key}/kgcoop/seed-1"])
        assert (size.pictures, size.views) == (number, 10 * number)
    assert size_of(jobs["base-to-new/imagenet/coop/seed-1"]).tests == 50_000
    squashed = size_of(jobs["base-to-new/dtd/coop/seed-1"])
    assert (squashed.views, squashed.distinct) == (3840, 384)


def test_shares_of_data():
    table = {job.key: job for job in plan(CONFIGS / "sweep-protocols.yaml").jobs}
    assert size_of(table["data-efficiency/dtd/maple/herding-0.1/seed-1"]).pictures == 282
    assert size_of(table["few-shot/dtd/coop/4-shots/seed-1"]).pictures == 188
    crossed = size_of(table["domain-generalisation/imagenet/coop/seed-1"])
    assert crossed.pictures == 16_000
    assert crossed.tests > 50_000 + 10_000 + 50_000 + 7_000


def test_features_are_encoded_once(jobs: dict[str, Job]):
    estimator = Estimator()
    first = estimator.cost(jobs["base-to-new/dtd/coop-fvg-pt/seed-1"])
    again = estimator.cost(replace(jobs["base-to-new/dtd/coop-fvg-pt/seed-1"], row="another"))
    other = estimator.cost(jobs["base-to-new/dtd/coop-fvg-pt/seed-2"])
    assert first == other
    assert first.source == TABLE
    assert first.seconds > 50 * again.seconds
    assert first.disk - again.disk == 2 * 3840 * 512 * 4


def test_rates_of_this_folder_come_first(jobs: dict[str, Job]):
    job = jobs["base-to-new/dtd/mmrl/seed-1"]
    clip, views, tests = job.config.clip, 3840, size_of(job).tests
    result = replace(EMPTY, key=job.key, method="mmrl", seconds={"train": views * 0.5, "test": tests * 0.25})
    known = rates_from([result, replace(result, key="of another sweep")], jobs)
    assert known == {(clip, "mmrl"): Rate(0.5, 0.25)}
    cost = Estimator(known).cost(jobs["base-to-new/dtd/mmrl/seed-2"])
    assert (cost.source, cost.seconds) == (OWN, views * 0.5 + tests * 0.25)


def test_drawn_sets_take_what_was_measured():
    """600 trainings of two workers took 4,135 seconds of each other's time, and 570 MB, in a sweep of all."""
    estimator = Estimator()
    costs = [estimator.cost(job) for job in plan(CONFIGS / "sweep-world.yaml").jobs]
    assert sum(one.seconds for one in costs) == pytest.approx(4135, rel=0.05)
    assert sum(one.disk for one in costs) == pytest.approx(570e6, rel=0.05)


def test_features_of_a_tuned_tower_are_kept_once(jobs: dict[str, Job]):
    job, estimator = jobs["base-to-new/dtd/mmrl-fvg-pt/seed-1"], Estimator()
    first, again = estimator.cost(job).disk, estimator.cost(replace(job, row="another")).disk
    assert first - again == (4 + 1) * 3840 * 512 * 4  # image and foreground of two heads; CLIP's own


def test_a_copy_takes_nothing(jobs: dict[str, Job]):
    job = jobs["base-to-new/dtd/mmrl/seed-1"]
    assert Estimator().cost(replace(job, copies="another")).seconds == 0
