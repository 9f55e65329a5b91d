"""What executors tell whoever watches a sweep."""

from dataclasses import dataclass

from foveate.sweep.jobs import Job
from foveate.sweep.running import Done


@dataclass(frozen=True)
class LaneProgress:
    """What a lane is at.

    Attributes:
        lane: Number of the worker, from 0 on.
        job: That it does.
        what: It is at, in words.
        done: How much of that.
        total: How much there is.
    """

    lane: int
    job: Job
    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Finished:
    """A job has its result."""

    job: Job
    done: Done
    lane: int = 0


@dataclass(frozen=True)
class Failed:
    """A job has none.

    Attributes:
        job: Which.
        line: Why.
        lost: Keys of those that stand on it.
    """

    job: Job
    line: str
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Died:
    """A worker has died at a job, which is tried again."""

    job: Job


Event = LaneProgress | Finished | Failed | Died
