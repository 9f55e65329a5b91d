"""Events that executors send to observers of a sweep."""

from dataclasses import dataclass

from foveate.sweep.jobs import Job
from foveate.sweep.running import Done


@dataclass(frozen=True)
class LaneProgress:
    """Progress of a worker.

    Attributes:
        lane: Number of the worker, from 0.
        job: Its current job.
        what: Its current step, in words.
        done: Finished units of the step.
        total: Total units of the step.
    """

    lane: int
    job: Job
    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Finished:
    """A job has a result."""

    job: Job
    done: Done
    lane: int = 0


@dataclass(frozen=True)
class Failed:
    """A job has failed.

    Attributes:
        job: The job.
        line: The reason, in one line.
        lost: Keys of the jobs that depend on it.
    """

    job: Job
    line: str
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Died:
    """A worker died during a job, which is retried."""

    job: Job


Event = LaneProgress | Finished | Failed | Died
