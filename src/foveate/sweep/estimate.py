"""Estimates the cost of a sweep, from existing results or from a table of measured rates.

The time of a run is its number of views (pictures times epochs) and of test pictures, each times a rate.
The rates come from results of the same method and towers in the sweep's folder, if there are any: these
are from the same machine. Otherwise they come from the table.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, cast

from foveate.clip.config import EMBEDDED
from foveate.methods.registry import REFERENCE, methods, parts
from foveate.sweep import sets
from foveate.sweep.jobs import Job
from foveate.sweep.results import Result
from foveate.train.selecting import SHOTS

_DIMS: dict[str, int] = dict.fromkeys(EMBEDDED, 128)
_DEFAULT_DIM = 512  # feature dimension of unknown towers
_DEFAULT_LEARNED = 10_000  # approximate number of learned parameters of parts that are not in the table
_LINE = 275  # bytes of one step in the log
TABLE = "the table of measured rates"
OWN = "results in this folder"

Towers = tuple[str, str]
"""Source of CLIP, and method."""


@dataclass(frozen=True)
class JobCost:
    """Cost of a job.

    Attributes:
        seconds: Time on one worker.
        disk: Bytes of its model, its log and its new features in the bank.
        source: Source of the rates.
    """

    seconds: float
    disk: int
    source: str


@dataclass(frozen=True)
class Size:
    """Amount of work of a job.

    Attributes:
        classes: Number of classes in training.
        pictures: Number of training pictures.
        views: Pictures times epochs.
        distinct: Number of different views.
        tests: Number of test pictures, over all questions.
    """

    classes: int
    pictures: int
    views: int
    distinct: int
    tests: int


def size_of(job: Job) -> Size:
    """Return the amount of work of a job, from the catalogue's counts; no picture is read."""
    dataset, config = sets.sizes_of(job.dataset), job.config
    classes = -(-dataset.classes // 2) if config.classes == "base" else dataset.classes
    share = classes / dataset.classes
    available = round(dataset.train * share)
    pictures = round(available * config.fraction) if config.fraction else (config.shots or SHOTS) * classes
    pictures = min(pictures, available) if available else pictures
    recipe = config.schedule
    epochs = recipe.epochs if config.method != REFERENCE else 0
    tests = 0.0
    for question in job.questions:
        half = question.split in ("base", "new") and question.dataset == job.dataset and share < 1
        tests += sets.sizes_of(question.dataset).test * (0.5 if half else 1.0)
    tests *= 1 + job.shift + 3 * job.gaze  # a heat map needs a gradient
    views = pictures * epochs
    return Size(classes, pictures, views, views if recipe.varies else pictures, round(tests))


@dataclass(frozen=True)
class Rate:
    """Seconds for one view and for one test picture, from results."""

    view: float
    test: float


def rates_from(results: Iterable[Result], jobs: Mapping[str, Job]) -> dict[Towers, Rate]:
    """Return the rates measured in a folder.

    Args:
        results: Results of this sweep.
        jobs: Jobs by key.
    """
    sums: dict[Towers, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    for result in results:
        job = jobs.get(result.key)
        if job is None or job.copies is not None:
            continue
        size, total = size_of(job), sums[job.config.clip, result.method]
        for index, value in enumerate(
            (result.seconds["train"], size.views, result.seconds["test"], size.tests)
        ):
            total[index] += value
    return {
        towers: Rate(train / max(views, 1), test / max(tests, 1))
        for towers, (train, views, test, tests) in sums.items()
    }


@dataclass
class Estimator:
    """Estimates jobs in order: features that one job encodes are available to the next.

    Attributes:
        known: Rates from results.
    """

    known: Mapping[Towers, Rate] = field(default_factory=dict[Towers, Rate])
    _banked: set[str] = field(default_factory=set[str])

    def cost(self, job: Job) -> JobCost:
        """Return the cost of a job, by known rates or by the table."""
        if job.copies is not None:
            return JobCost(0.0, 0, OWN)
        size, method, clip = size_of(job), job.config.method, job.config.clip
        row, encode_seconds = _row(clip, method)
        new_kinds = self._new(job, row["encodes"]) if size.views else 0
        disk = _disk(job, size, new_kinds + self._own(job)) if size.views else 0
        rate = self.known.get((clip, method))
        if rate is not None:
            seconds = size.views * rate.view + size.tests * rate.test
            return JobCost(seconds, disk, OWN)
        view_seconds = row["view"] + row["class"] * size.classes
        seconds = (
            size.views * view_seconds + size.distinct * encode_seconds * new_kinds + size.tests * row["test"]
        )
        return JobCost(seconds, disk, TABLE)

    def _new(self, job: Job, kinds: Iterable[str]) -> int:
        """Return the number of kinds of features that no earlier job has encoded."""
        config, recipe = job.config, job.config.schedule
        view_settings = [config.clip, config.shots, config.select, config.fraction, config.classes]
        view_settings += [recipe.augment, recipe.crop_scale, recipe.epochs]
        keys = {json.dumps([job.dataset, job.seed, *view_settings, kind]) for kind in kinds}
        new = keys - self._banked
        self._banked |= keys
        return len(new)

    def _own(self, job: Job) -> int:
        """Return how many kinds of features a tuned image tower, or a plug-in over one, stores.

        A plug-in over a tuned tower has two kinds for each of its heads. All rows with the same model
        share them.
        """
        backbone = methods()[parts(job.config.method)[-1]]
        if not backbone.tunes_vision:
            return 0
        if job.needs is None:
            return 1
        new = job.needs not in self._banked
        self._banked.add(job.needs)
        return 2 * backbone.heads * new


def _disk(job: Job, size: Size, kinds: int) -> int:
    """Return the bytes of the model, the log and `kinds` kinds of features."""
    clip = job.config.clip
    table = _towers(clip)["learned"]
    learned = sum(table.get(part, _DEFAULT_LEARNED) for part in parts(job.config.method))
    steps = size.views // job.config.schedule.batch_size
    return learned * 4 + steps * _LINE + size.distinct * kinds * _DIMS.get(clip, _DEFAULT_DIM) * 4


def _row(clip: str, method: str) -> tuple[dict[str, Any], float]:
    """Return the table's row of a method, and the seconds for encoding a picture."""
    table = _towers(clip)
    rows: dict[str, dict[str, Any]] = table["methods"]
    slowest = {name: max(row[name] for row in rows.values()) for name in ("view", "class", "test")}
    return rows.get(method, {**slowest, "encodes": []}), table["encode"]


def _towers(clip: str) -> dict[str, Any]:
    return _rates()["tiny" if clip in EMBEDDED else "ViT-B/16"]


@cache
def _rates() -> dict[str, Any]:
    return cast(
        "dict[str, Any]", json.loads(files("foveate.sweep").joinpath("rates.json").read_text("utf-8"))
    )
