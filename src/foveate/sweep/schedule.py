"""Chooses the next job: each job once, after its dependency, and jobs with shared data together.

The longest such group starts first, so that no worker is left alone with it at the end.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from foveate.sweep.jobs import Job
from foveate.sweep.running import Done

TRIES = 3
"""Maximum number of attempts for a job whose workers die."""


@dataclass
class Schedule:
    """The jobs of a sweep and their states.

    Attributes:
        jobs: All jobs; each follows the one it waits for.
        work: Expected duration of jobs, by key; equal if not given.
        failed: Reason of each failure, in one line, by key.
    """

    jobs: Sequence[Job]
    work: Mapping[str, float] = field(default_factory=dict[str, float])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    _left: dict[str, Job] = field(init=False)
    _running: dict[str, Job] = field(default_factory=dict[str, Job])
    _done: set[str] = field(default_factory=set[str])
    _deaths: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        self._left = {job.key: job for job in self.jobs}

    @property
    def over(self) -> bool:
        """Whether no job is left or running."""
        return not self._left and not self._running

    @property
    def ended(self) -> int:
        """Number of finished or failed jobs."""
        return len(self._done) + len(self.failed)

    def next(self, last: Job | None = None) -> Job | None:
        """Return a job that can start; None if there is none now.

        Args:
            last: The worker's last job. The worker has that data set in memory, so it gets another job
                of the same set. No other worker gets one, because two workers would encode the same
                views at once. A worker that starts with a new set gets the one with the most remaining
                work.
        """
        ready = [job for job in self._left.values() if job.waits_for is None or job.waits_for in self._done]
        if not ready:
            return None
        busy = {_shared(job) for job in self._running.values()}
        same_data = [job for job in ready if last is not None and _shared(job) == _shared(last)]
        unshared = [job for job in ready if _shared(job) not in busy]
        job = same_data[0] if same_data else max(unshared or ready, key=self._work_left())
        self._running[job.key] = self._left.pop(job.key)
        return job

    def _work_left(self) -> Callable[[Job], float]:
        """Return a function for the remaining work on the data set of a job."""
        remaining: dict[tuple[str, int], float] = defaultdict(float)
        for job in self._left.values():
            remaining[_shared(job)] += self.work.get(job.key, 1.0)
        return lambda job: remaining[_shared(job)]

    def done(self, job: Job) -> None:
        """Mark a job as finished."""
        self._running.pop(job.key, None)
        self._left.pop(job.key, None)
        self._done.add(job.key)

    def fail(self, job: Job, line: str) -> list[str]:
        """Mark a job and all jobs that depend on it as failed; return the keys of the dependent ones."""
        self._running.pop(job.key, None)
        self.failed[job.key] = line
        dependents: list[str] = []
        for dependent in [candidate for candidate in self._left.values() if candidate.waits_for == job.key]:
            del self._left[dependent.key]
            dependents += [dependent.key, *self.fail(dependent, f"it stands on {job.key}, which failed")]
        return dependents

    def died(self, job: Job) -> bool:
        """Record that a worker died during a job; return whether to retry the job."""
        self._running.pop(job.key, None)
        self._deaths[job.key] += 1
        if self._deaths[job.key] >= TRIES:
            return False
        self._left = {job.key: job, **self._left}
        return True


def _shared(job: Job) -> tuple[str, int]:
    return job.dataset, job.seed


# Events of a sweep, which executors send to its observers.


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
