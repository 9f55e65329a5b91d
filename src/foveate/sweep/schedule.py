"""Which job is next: none before what it stands on, none twice, and those that share something together.

The longest of such groups is begun first, so that no worker is left alone with it at the end.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from foveate.sweep.jobs import Job

TRIES = 3
"""Of a job at which workers die."""


@dataclass
class Schedule:
    """The jobs of a sweep, and what has become of each.

    Attributes:
        jobs: All, each behind what it waits for.
        work: By key, how long a job will take; equally long where nothing is said.
        failed: By key, one line about why.
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
        """Whether nothing is left to do."""
        return not self._left and not self._running

    @property
    def ended(self) -> int:
        """How many jobs have finished or failed."""
        return len(self._done) + len(self.failed)

    def next(self, last: Job | None = None) -> Job | None:
        """Return a job that can be begun; None if there is none at present.

        Args:
            last: What the worker did last. It has that set's pictures at hand, so it gets another job of the
                set; and nobody else does, lest two workers encode the same views at the same time. Who begins
                with a set gets the one that most work is left of.
        """
        ready = [job for job in self._left.values() if job.waits_for is None or job.waits_for in self._done]
        if not ready:
            return None
        busy = {_shared(job) for job in self._running.values()}
        own = [job for job in ready if last is not None and _shared(job) == _shared(last)]
        alone = [job for job in ready if _shared(job) not in busy]
        job = own[0] if own else max(alone or ready, key=self._work_left())
        self._running[job.key] = self._left.pop(job.key)
        return job

    def _work_left(self) -> Callable[[Job], float]:
        """Return how much is left of whatever shares a job's pictures."""
        left: dict[tuple[str, int], float] = defaultdict(float)
        for job in self._left.values():
            left[_shared(job)] += self.work.get(job.key, 1.0)
        return lambda job: left[_shared(job)]

    def done(self, job: Job) -> None:
        """Note that a job has finished."""
        self._running.pop(job.key, None)
        self._left.pop(job.key, None)
        self._done.add(job.key)

    def fail(self, job: Job, line: str) -> list[str]:
        """Note that a job has failed, and with it all that stand on it; return the keys of these."""
        self._running.pop(job.key, None)
        self.failed[job.key] = line
        lost: list[str] = []
        for other in [one for one in self._left.values() if one.waits_for == job.key]:
            del self._left[other.key]
            lost += [other.key, *self.fail(other, f"it stands on {job.key}, which failed")]
        return lost

    def died(self, job: Job) -> bool:
        """Note that a worker died at a job; return whether the job is to be tried again."""
        self._running.pop(job.key, None)
        self._deaths[job.key] += 1
        if self._deaths[job.key] >= TRIES:
            return False
        self._left = {job.key: job, **self._left}
        return True


def _shared(job: Job) -> tuple[str, int]:
    return job.dataset, job.seed
