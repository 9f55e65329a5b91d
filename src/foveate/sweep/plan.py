"""Plans a sweep: from its file and folder to the remaining jobs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foveate.sweep import sets
from foveate.sweep.config import SweepConfig, read_sweep
from foveate.sweep.estimate import Estimator
from foveate.sweep.folder import check_same, result_in
from foveate.sweep.jobs import Job
from foveate.sweep.protocols import jobs_of
from foveate.sweep.running import missing
from foveate.sweep.schedule import Schedule


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
