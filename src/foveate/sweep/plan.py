"""Plans a sweep: from its file and folder to the remaining jobs."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foveate.errors import InputError
from foveate.methods.registry import parts, sees_regions, stages, title
from foveate.sweep import sets
from foveate.sweep.config import SweepConfig, SweepRow, SweepTable, read_sweep
from foveate.sweep.estimate import Estimator
from foveate.sweep.jobs import Job, Question, Split
from foveate.sweep.recipes import Case, settle
from foveate.sweep.results import check_same, result_in
from foveate.sweep.running import missing
from foveate.sweep.schedule import Schedule
from foveate.train.config import RunConfig, digest
from foveate.train.planning import share


@dataclass(frozen=True)
class SweepPlan:
    """All jobs of a sweep.

    Attributes:
        sweep: Content of the sweep file.
        jobs: Jobs; each follows the one it waits for.
    """

    sweep: SweepConfig
    jobs: tuple[Job, ...]

    def shard(self, number: int, of: int) -> "SweepPlan":
        """Return a part of the jobs: those of one of several processes that share a folder.

        Jobs that wait for one another stay together. The parts have about the same expected work.

        Args:
            number: The part, from 1.
            of: Number of parts.
        """
        first: dict[str, str] = {}  # the job at the beginning of each chain
        for job in self.jobs:
            first[job.key] = first[job.waits_for] if job.waits_for else job.key
        estimator, work = Estimator(), defaultdict[str, float](float)
        for job in self.jobs:
            work[first[job.key]] += estimator.cost(job).seconds
        loads, shard_of = [0.0] * of, dict[str, int]()
        for key, seconds in sorted(work.items(), key=lambda item: (-item[1], item[0])):
            shard_of[key] = loads.index(min(loads))
            loads[shard_of[key]] += seconds
        return replace(self, jobs=tuple(job for job in self.jobs if shard_of[first[job.key]] == number - 1))

    def keys(self) -> list[str]:
        """Return the keys of all data sets for training or evaluation, each once."""
        keys = [key for job in self.jobs for key in (job.dataset, *(q.dataset for q in job.questions))]
        return list(dict.fromkeys(keys))


def plan(
    file: Path,
    changes: Mapping[str, Any] | None = None,
    device: str = "cpu",
    only: Sequence[str] | None = None,
) -> SweepPlan:
    """Read a sweep file, or only some of its tables, and list its jobs, for a device.

    Raises:
        InputError: The file is invalid.
    """
    sweep = read_sweep(file, changes, device, only)
    return SweepPlan(sweep, tuple(jobs_of(sweep, sets.template_of)))


@dataclass(frozen=True)
class Standing:
    """State of a sweep.

    Attributes:
        finished: Jobs with a complete result.
        left: The remaining jobs.
        notes: Notes for the user, such as damaged results that were set aside.
    """

    finished: tuple[Job, ...]
    left: tuple[Job, ...]
    notes: tuple[str, ...] = ()


def standing(jobs: Sequence[Job], out: Path, *, tidy: bool = True) -> Standing:
    """Return the state of a sweep on disk.

    Args:
        jobs: Jobs of the sweep.
        out: Folder of the sweep.
        tidy: Whether to set damaged results aside; otherwise nothing is changed.

    Raises:
        InputError: The folder holds another sweep, or a result of a newer foveate version.
    """
    check_same(out, jobs)
    finished: list[Job] = []
    left: list[Job] = []
    notes: list[str] = []
    for job in jobs:
        result, note = result_in(out / job.key, tidy=tidy)
        notes += [note] if note else []
        (left if result is None or missing(job, result) else finished).append(job)
    return Standing(tuple(finished), tuple(left), tuple(notes))


def schedule_of(status: Standing) -> Schedule:
    """Return the schedule of the remaining jobs; finished jobs count as done."""
    estimator = Estimator()
    work = {job.key: estimator.cost(job).seconds for job in status.left}
    schedule = Schedule([*status.finished, *status.left], work)
    for job in status.finished:
        schedule.done(job)
    return schedule


# Expands the evaluation protocols into lists of jobs.
#
# A plug-in's job depends on the job of its backbone. The backbone is trained once for all jobs that need
# it: in the row that is this backbone, or in a separate job without questions. Jobs with identical
# training share one training run.


Template = Callable[[str, Sequence[str]], str]
"""Returns a data set's template for a method, from the set's key and the method's parts."""


def jobs_of(sweep: SweepConfig, template: Template) -> list[Job]:
    """Return all jobs of a sweep; each follows the job it depends on.

    Raises:
        InputError: Two tables have different runs with the same name.
    """
    planned = [entry for table in sweep.tables for entry in _plan_table(table, template)]
    jobs = _merge_equal([entry.job for entry in planned])
    return _link(jobs, dict(pair for entry in planned for pair in entry.pairs()))


@dataclass(frozen=True)
class _Planned:
    """A job, and the job that it depends on, which is planned like a row of the same table."""

    job: Job
    inner: "_Planned | None" = None

    def pairs(self) -> Iterator[tuple[str, Job]]:
        """Yield the job's key and its dependency, then the same for the dependency."""
        if self.inner is not None:
            yield self.job.key, self.inner.job
            yield from self.inner.pairs()


def _plan_table(table: SweepTable, template: Template) -> Iterator[_Planned]:
    """Yield a table's jobs, ordered by data set and seed, so that jobs with shared data are neighbours."""
    datasets = table.sets if table.source is None else (table.source,)
    for dataset in datasets:
        for seed in table.seeds:
            for variant in _variants(table):
                for row in table.rows:
                    yield _plan_row(table, row, _Position(dataset, seed, variant), template)


def _plan_row(table: SweepTable, row: SweepRow, position: "_Position", template: Template) -> _Planned:
    job = _job(table, row, position, template)
    *inner_stages, _ = stages(row.method)
    if not inner_stages or row.backbone is not None:
        return _Planned(job)
    inner_parts = parts(inner_stages[-1])
    settings = {part: values for part, values in row.settings.items() if part in inner_parts}
    inner = _plan_row(table, replace(row, method=inner_stages[-1], settings=settings), position, template)
    identity = inner.job.identity()
    suffix = digest({name: identity[name] for name in ("settings", "recipe", "clip", "dtype")})[:6]
    backbone = f"backbone {title(inner_stages[-1])} {suffix}"
    return _Planned(
        job, replace(inner, job=replace(inner.job, questions=(), shift=False, gaze=False, row=backbone))
    )


@dataclass(frozen=True)
class _Variant:
    """Further distinction of a job: the amount of its training data."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class _Position:
    """Position of a job in a table, besides its row."""

    dataset: str
    seed: int
    variant: _Variant


def _variants(table: SweepTable) -> list[_Variant]:
    if table.protocol == "few-shot":
        return [_Variant(f"{shots}-shots", {"shots": shots}) for shots in table.shots]
    shots = table.shots[0]
    if table.protocol != "data-efficiency":
        return [_Variant("", {"shots": shots})]
    if not table.selectors:  # FVG-PT's "25 to 100 %", as understood here: a share of the shots
        return [
            _Variant(f"fraction-{fraction:g}", {"shots": max(1, round(fraction * shots))})
            for fraction in table.fractions
        ]
    return [
        _Variant(f"{name}-{fraction:g}", {"select": name, "fraction": fraction})
        for name in table.selectors
        for fraction in table.fractions
    ]


def _job(table: SweepTable, row: SweepRow, position: _Position, template: Template) -> Job:
    dataset, variant = position.dataset, position.variant
    case = Case(table.protocol, row.method, dataset, variant.options.get("shots", 0))
    settled = settle(table.recipe, case)
    settings = {
        part: {**settled.settings.get(part, {}), **row.settings.get(part, {})}
        for part in parts(row.method)
        if part in settled.settings or part in row.settings
    }
    config = RunConfig.of(
        {
            "photos": dataset,
            "method": row.method,
            "clip": table.clip,
            "dtype": table.dtype,
            "settings": settings,
            "recipe": {**settled.training, **row.training},
            "classes": _classes(table),
            "template": row.template or template(dataset, parts(row.method)),
            "seed": position.seed,
            "masks": row.masks,
            "backbone": row.backbone and row.backbone.format(set=dataset, seed=position.seed),
            **variant.options,
        }
    )
    return Job(
        protocol=table.protocol,
        row=row.name,
        dataset=dataset,
        config=config if config.needs_masks else replace(config, masks=None),
        questions=_questions(table, dataset),
        variant=variant.name,
        recipe=table.recipe,
        shift=table.shift,
        gaze=table.gaze,
        test_masks=row.test_masks if sees_regions(row.method) else None,
    )


def _classes(table: SweepTable) -> str:
    if table.protocol in ("base-to-new", "seed-robustness"):
        return "base"
    return table.classes if table.protocol == "data-efficiency" else "all"


def _questions(table: SweepTable, dataset: str) -> tuple[Question, ...]:
    if table.source is not None:
        return (Question(dataset, "base"), *(Question(target, "new") for target in table.sets))
    if _classes(table) == "all":
        return (Question(dataset, "base"),)
    splits: tuple[Split, ...] = ("base", "new", "all") if table.mixed else ("base", "new")
    keys = [f"{dataset}@{condition}" for condition in table.conditions] or [dataset]
    return tuple(Question(key, split) for key in keys for split in splits)


def _merge_equal(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs with unique keys; merge the questions of equal jobs.

    Raises:
        InputError: Two jobs with the same name have different settings.
    """
    by_key: dict[str, Job] = {}
    for job in jobs:
        first = by_key.setdefault(job.key, job)
        if first is job:
            continue
        if first.identity() != job.identity():
            raise InputError(
                f"two tables have a row {job.row!r} of {job.protocol} with other settings: rename one of them"
            )
        by_key[job.key] = _with_questions(first, job)
    return list(by_key.values())


def _with_questions(job: Job, other: Job) -> Job:
    """Return a job with the questions and metrics of two jobs that have the same training."""
    questions = (*job.questions, *(question for question in other.questions if question not in job.questions))
    return replace(job, questions=questions, shift=job.shift or other.shift, gaze=job.gaze or other.gaze)


def _link(jobs: Sequence[Job], inner: Mapping[str, Job]) -> list[Job]:
    """Return the jobs with their dependencies, including backbones that are not rows."""

    def backbone_of(name: str, job: Job) -> tuple[str, Job] | None:
        backbone = inner.get(name)
        return None if backbone is None else (backbone.key, backbone)

    def key_of(job: Job) -> str:
        return f"{job.config.key} {job.test_masks or ''}"

    planned = share({job.key: job for job in jobs}, key_of, backbone_of)
    linked = {
        # A copy trains nothing, so it depends on nothing.
        name: replace(plan.run, copies=plan.copies, needs=None if plan.copies else plan.needs)
        for name, plan in planned.items()
    }
    return _ordered(_with_questions_of_copies(linked))


def _with_questions_of_copies(jobs: Mapping[str, Job]) -> dict[str, Job]:
    """Add to each job the questions of its copies."""
    merged = dict(jobs)
    for job in jobs.values():
        if job.copies is not None:
            merged[job.copies] = _with_questions(merged[job.copies], job)
    return merged


def _ordered(jobs: Mapping[str, Job]) -> list[Job]:
    """Sort the jobs so that each follows the one it waits for."""
    ordered: dict[str, Job] = {}

    def add(job: Job) -> None:
        if job.waits_for is not None:
            add(jobs[job.waits_for])
        ordered.setdefault(job.key, job)

    for job in jobs.values():
        add(job)
    return list(ordered.values())
