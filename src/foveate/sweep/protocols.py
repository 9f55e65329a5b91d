"""Expands the evaluation protocols into lists of jobs.

A plug-in's job depends on the job of its backbone. The backbone is trained once for all jobs that need
it: in the row that is this backbone, or in a separate job without questions. Jobs with identical
training share one training run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from foveate.errors import InputError
from foveate.methods.registry import parts, sees_regions, stages, title
from foveate.sweep.config import SweepConfig, SweepRow, SweepTable
from foveate.sweep.jobs import Job, Question, Split
from foveate.sweep.recipes import Case, settle
from foveate.train.config import RunConfig, digest
from foveate.train.planning import share

Template = Callable[[str, Sequence[str]], str]
"""Returns a data set's template for a method, from the set's key and the method's parts."""


def jobs_of(sweep: SweepConfig, template: Template) -> list[Job]:
    """Return all jobs of a sweep; each follows the job it depends on.

    Raises:
        InputError: Two tables have different runs with the same name.
    """
    planned = [one for table in sweep.tables for one in _of_table(table, template)]
    jobs = _unlike([one.job for one in planned])
    return _linked(jobs, dict(pair for one in planned for pair in one.pairs()))


@dataclass(frozen=True)
class _Planned:
    """A job, and the job it depends on, as if that were a row of the same table."""

    job: Job
    inner: "_Planned | None" = None

    def pairs(self) -> Iterator[tuple[str, Job]]:
        """Yield its key and its dependency, then the same for the dependency."""
        if self.inner is not None:
            yield self.job.key, self.inner.job
            yield from self.inner.pairs()


def _of_table(table: SweepTable, template: Template) -> Iterator[_Planned]:
    """Yield a table's jobs by data set and by seed, so that shared data are still loaded when needed."""
    trained = table.sets if table.source is None else (table.source,)
    for dataset in trained:
        for seed in table.seeds:
            for variant in _variants(table):
                for row in table.rows:
                    yield _planned(table, row, _Place(dataset, seed, variant), template)


def _planned(table: SweepTable, row: SweepRow, place: "_Place", template: Template) -> _Planned:
    job = _job(table, row, place, template)
    *before, _ = stages(row.method)
    if not before or row.backbone is not None:
        return _Planned(job)
    there = parts(before[-1])
    settings = {part: values for part, values in row.settings.items() if part in there}
    inner = _planned(table, replace(row, method=before[-1], settings=settings), place, template)
    own = inner.job.identity()
    apart = digest({name: own[name] for name in ("settings", "recipe", "clip", "dtype")})[:6]
    backbone = f"backbone {title(before[-1])} {apart}"
    return _Planned(
        job, replace(inner, job=replace(inner.job, questions=(), shift=False, gaze=False, row=backbone))
    )


@dataclass(frozen=True)
class _Variant:
    """Further distinction of a job: the amount of its training data."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class _Place:
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
            _Variant(f"fraction-{share:g}", {"shots": max(1, round(share * shots))})
            for share in table.fractions
        ]
    return [
        _Variant(f"{name}-{share:g}", {"select": name, "fraction": share})
        for name in table.selectors
        for share in table.fractions
    ]


def _job(table: SweepTable, row: SweepRow, place: _Place, template: Template) -> Job:
    dataset, variant = place.dataset, place.variant
    case = Case(table.protocol, row.method, dataset, variant.options.get("shots", 0))
    said = settle(table.recipe, case)
    settings = {
        part: {**said.settings.get(part, {}), **row.settings.get(part, {})}
        for part in parts(row.method)
        if part in said.settings or part in row.settings
    }
    config = RunConfig.of(
        {
            "photos": dataset,
            "method": row.method,
            "clip": table.clip,
            "dtype": table.dtype,
            "settings": settings,
            "recipe": {**said.training, **row.training},
            "classes": _classes(table),
            "template": row.template or template(dataset, parts(row.method)),
            "seed": place.seed,
            "masks": row.masks,
            "backbone": row.backbone and row.backbone.format(set=dataset, seed=place.seed),
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


def _unlike(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs with unique keys; merge the questions of equal jobs.

    Raises:
        InputError: Two jobs with the same name have different settings.
    """
    found: dict[str, Job] = {}
    for job in jobs:
        before = found.setdefault(job.key, job)
        if before is job:
            continue
        if before.identity() != job.identity():
            raise InputError(
                f"two tables have a row {job.row!r} of {job.protocol} with other settings: rename one of them"
            )
        found[job.key] = _asking(before, job)
    return list(found.values())


def _asking(job: Job, more: Job) -> Job:
    """Return a job that has the questions of both jobs with the same training."""
    questions = (*job.questions, *(one for one in more.questions if one not in job.questions))
    return replace(job, questions=questions, shift=job.shift or more.shift, gaze=job.gaze or more.gaze)


def _linked(jobs: Sequence[Job], inner: Mapping[str, Job]) -> list[Job]:
    """Return the jobs with their dependencies, including backbones that are not rows."""

    def below(name: str, job: Job) -> tuple[str, Job] | None:
        own = inner.get(name)
        return None if own is None else (own.key, own)

    def same(job: Job) -> str:
        return f"{job.config.key} {job.test_masks or ''}"

    planned = share({job.key: job for job in jobs}, same, below)
    linked = {
        # A copy trains nothing, so it depends on nothing.
        name: replace(one.run, copies=one.copies, needs=None if one.copies else one.needs)
        for name, one in planned.items()
    }
    return _ordered(_asking_for_copies(linked))


def _asking_for_copies(jobs: Mapping[str, Job]) -> dict[str, Job]:
    """Add the questions of its copies to each job."""
    found = dict(jobs)
    for job in jobs.values():
        if job.copies is not None:
            found[job.copies] = _asking(found[job.copies], job)
    return found


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
