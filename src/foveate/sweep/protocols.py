"""The field's protocols as lists of jobs.

A plug-in's job stands on that of its backbone, which is trained once for all that need it: the row that is
this backbone, or else a job of its own that is asked nothing. Jobs that train the very same are one training.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from foveate.errors import InputError
from foveate.methods.registry import parts, stages, title
from foveate.sweep.config import Row, Sweep, Table
from foveate.sweep.jobs import Job, Question, Split
from foveate.sweep.recipes import Case, settle
from foveate.train.config import RunConfig, digest
from foveate.train.planning import share

Template = Callable[[str, Sequence[str]], str]
"""A data set's sentence for a method: by its key, and the method's parts."""


def jobs_of(sweep: Sweep, template: Template) -> list[Job]:
    """Return all jobs of a sweep, each behind what it stands on.

    Raises:
        InputError: Two tables have different runs under one name.
    """
    planned = [one for table in sweep.tables for one in _of_table(table, template)]
    jobs = _unlike([one.job for one in planned])
    return _linked(jobs, dict(pair for one in planned for pair in one.pairs()))


@dataclass(frozen=True)
class _Planned:
    """A job, and the one of what it stands on, were that a row of the same table."""

    job: Job
    inner: "_Planned | None" = None

    def pairs(self) -> Iterator[tuple[str, Job]]:
        """Yield its key and what it stands on, and the same of that."""
        if self.inner is not None:
            yield self.job.key, self.inner.job
            yield from self.inner.pairs()


def _of_table(table: Table, template: Template) -> Iterator[_Planned]:
    """Yield a table's jobs: set by set and seed by seed, so that what is shared is used while it is there."""
    trained = table.sets if table.source is None else (table.source,)
    for dataset in trained:
        for seed in table.seeds:
            for variant in _variants(table):
                for row in table.rows:
                    yield _planned(table, row, _Place(dataset, seed, variant), template)


def _planned(table: Table, row: Row, place: "_Place", template: Template) -> _Planned:
    job = _job(table, row, place, template)
    *before, _ = stages(row.method)
    if not before:
        return _Planned(job)
    there = parts(before[-1])
    settings = {part: values for part, values in row.settings.items() if part in there}
    inner = _planned(table, replace(row, method=before[-1], settings=settings), place, template)
    own = inner.job.identity()
    apart = digest({name: own[name] for name in ("settings", "recipe", "clip", "dtype")})[:6]
    backbone = f"backbone {title(before[-1])} {apart}"
    return _Planned(job, replace(inner, job=replace(inner.job, questions=(), shift=False, row=backbone)))


@dataclass(frozen=True)
class _Variant:
    """What else tells a job apart: how much it is trained on."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class _Place:
    """Where in a table a job stands, besides its row."""

    dataset: str
    seed: int
    variant: _Variant


def _variants(table: Table) -> list[_Variant]:
    if table.protocol == "few-shot":
        return [_Variant(f"{shots}-shots", {"shots": shots}) for shots in table.shots]
    shots = table.shots[0]
    if table.protocol != "data-efficiency":
        return [_Variant("", {"shots": shots})]
    if not table.selectors:  # our reading of FVG-PT's "25 to 100 %": a share of the shots
        return [
            _Variant(f"fraction-{share:g}", {"shots": max(1, round(share * shots))})
            for share in table.fractions
        ]
    return [
        _Variant(f"{name}-{share:g}", {"select": name, "fraction": share})
        for name in table.selectors
        for share in table.fractions
    ]


def _job(table: Table, row: Row, place: _Place, template: Template) -> Job:
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
    )


def _classes(table: Table) -> str:
    if table.protocol in ("base-to-new", "seed-robustness"):
        return "base"
    return table.classes if table.protocol == "data-efficiency" else "all"


def _questions(table: Table, dataset: str) -> tuple[Question, ...]:
    if table.source is not None:
        return (Question(dataset, "base"), *(Question(target, "new") for target in table.sets))
    if _classes(table) == "all":
        return (Question(dataset, "base"),)
    splits: tuple[Split, ...] = ("base", "new", "all") if table.mixed else ("base", "new")
    keys = [f"{dataset}@{condition}" for condition in table.conditions] or [dataset]
    return tuple(Question(key, split) for key in keys for split in splits)


def _unlike(jobs: Sequence[Job]) -> list[Job]:
    """Return jobs with each key once; the questions of equal ones are put together.

    Raises:
        InputError: Two jobs differ in their settings, and have one name.
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
    """Return a job that is asked what another one of the same training is, too."""
    questions = (*job.questions, *(one for one in more.questions if one not in job.questions))
    return replace(job, questions=questions, shift=job.shift or more.shift)


def _linked(jobs: Sequence[Job], inner: Mapping[str, Job]) -> list[Job]:
    """Return the jobs with what they stand on, backbones that are no rows among them."""

    def below(name: str, job: Job) -> tuple[str, Job] | None:
        own = inner.get(name)
        return None if own is None else (own.key, own)

    planned = share({job.key: job for job in jobs}, lambda job: job.config.key, below)
    linked = {
        # A copy trains nothing, and so stands on nothing.
        name: replace(one.run, copies=one.copies, needs=None if one.copies else one.needs)
        for name, one in planned.items()
    }
    return _ordered(_asking_for_copies(linked))


def _asking_for_copies(jobs: Mapping[str, Job]) -> dict[str, Job]:
    """Have each job asked all that its copies need."""
    found = dict(jobs)
    for job in jobs.values():
        if job.copies is not None:
            found[job.copies] = _asking(found[job.copies], job)
    return found


def _ordered(jobs: Mapping[str, Job]) -> list[Job]:
    """Put everything behind what it waits for."""
    ordered: dict[str, Job] = {}

    def add(job: Job) -> None:
        if job.waits_for is not None:
            add(jobs[job.waits_for])
        ordered.setdefault(job.key, job)

    for job in jobs.values():
        add(job)
    return list(ordered.values())
