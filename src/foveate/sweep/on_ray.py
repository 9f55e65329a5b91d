"""Runs a sweep on a Ray cluster: the same jobs as tasks, with results in the same folder.

All machines of the cluster must access the data sets and the sweep's folder under the same paths. The
driver schedules the jobs, so no task waits for another. Towers are loaded once and passed through the
object store. If a task loses its worker or machine, it restarts elsewhere and resumes from the run's
last epoch.
"""

import os
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from foveate.errors import InputError
from foveate.processes import thread_variables
from foveate.scale.actors import pool_of
from foveate.scale.cluster import Cluster, joined
from foveate.sweep.jobs import Job
from foveate.sweep.local import failed
from foveate.sweep.running import (
    Done,
    JobFailure,
    SweepContext,
    WorkerState,
    failure_of,
    open_towers,
    run_job,
    throttled,
    towers_of,
)
from foveate.sweep.schedule import TRIES, Event, Finished, LaneProgress, Schedule

_OFTEN = 1.0  # seconds between progress messages


@dataclass(frozen=True)
class TaskResources:
    """Resources of a task on the cluster.

    Attributes:
        tasks: Number of tasks at a time.
        cpus: CPU cores of each task.
        gpus: GPUs of each task, possibly a fraction.
    """

    tasks: int
    cpus: int
    gpus: float


def on_ray(
    schedule: Schedule,
    context: SweepContext,
    address: str | None = None,
    workers: int | None = None,
    *,
    device: str | None = None,
    share: float = 1.0,
) -> Generator[Event]:
    """Run all jobs of a schedule on a cluster; yield events.

    Args:
        schedule: The schedule; it is updated with finished and failed jobs.
        context: Folders and settings; each task chooses its own device.
        address: Address of the cluster (see `foveate.scale.cluster.joined`).
        workers: Maximum number of jobs at a time; None: as many as fit.
        device: "cpu" or "cuda"; None uses GPUs if there are any.
        share: Share of a GPU for each job.

    Raises:
        InputError: There is no cluster, or a GPU was requested and the cluster has none.
    """
    if schedule.over:
        return
    with joined(address, None if address else _cores(workers, context.threads)) as cluster:
        resources = share_of(cluster, workers, device, share, context.threads)
        driver = _Driver(schedule, replace(context, device="cuda" if resources.gpus else "cpu"), resources)
        try:
            yield from driver.run()
        finally:
            driver.stop()


def share_of(
    cluster: Cluster, workers: int | None, device: str | None, share: float, threads: int
) -> TaskResources:
    """Divide a cluster among jobs.

    Raises:
        InputError: A GPU was requested and there is none, or there is no room for so many jobs.
    """
    gpus = None if device is None else device.startswith("cuda")
    if not pool_of(cluster, None, gpus).gpus:
        room = max(1, cluster.cpus // threads)
        result = TaskResources(workers or room, threads, 0.0)
    else:
        room = max(1, int(cluster.gpus / share + 1e-9))
        tasks = workers or room
        result = TaskResources(tasks, max(1, min(threads, cluster.cpus // max(1, tasks))), share)
    if result.tasks > room:
        raise InputError(
            f"--workers is {result.tasks}, but the Ray cluster has room for {room} runs: give at most {room}"
        )
    return result


def _cores(workers: int | None, threads: int) -> int | None:
    return None if workers is None else workers * threads


@dataclass
class _Driver:
    """Submits jobs to the cluster and receives their results."""

    schedule: Schedule
    context: SweepContext
    resources: TaskResources
    _running: dict[Any, tuple[Job, int]] = field(default_factory=dict[Any, tuple[Job, int]])
    _towers: dict[tuple[str, str], Any] = field(default_factory=dict[tuple[str, str], Any])
    _board: Any = None
    _task: Any = None

    def run(self) -> Generator[Event]:
        """Run all jobs."""
        import ray
        from ray import exceptions

        self._board = ray.remote(num_cpus=0, max_restarts=TRIES)(_ProgressBoard).remote()
        self._task = ray.remote(
            num_cpus=self.resources.cpus,
            num_gpus=self.resources.gpus,
            max_retries=TRIES - 1,
            retry_exceptions=False,
            scheduling_strategy="SPREAD",
        )(_work)
        while not self.schedule.over:
            try:
                self._fill()
                ready, _ = ray.wait([*self._running], num_returns=1, timeout=_OFTEN)
            except (exceptions.RaySystemError, ConnectionError) as error:
                raise InputError("the Ray cluster is gone: run the sweep again, it goes on") from error
            for task in ready:
                yield self._outcome(task)
            yield from self._progress()

    def stop(self) -> None:
        """Cancel the running tasks."""
        import ray

        for task in self._running:
            ray.cancel(task, force=True)

    def _fill(self) -> None:
        free = set(range(self.resources.tasks)) - {lane for _, lane in self._running.values()}
        for lane in sorted(free):
            job = self.schedule.next()
            if job is None:
                return
            task = self._task.remote(job, self.context, self._towers_of(job), self._board)
            self._running[task] = job, lane

    def _towers_of(self, job: Job) -> Any:
        """Return a list with the object reference of a job's towers; they are loaded once, on the CPU."""
        import ray

        key = job.config.clip, job.config.dtype
        if key not in self._towers:
            towers = open_towers(*key, "cpu")
            self._towers[key] = ray.put((towers.clip, towers.clip_source))
        return [self._towers[key]]  # in a list, so that a task fetches them only if needed

    def _outcome(self, task: Any) -> Event:
        import ray
        from ray import exceptions

        job, lane = self._running.pop(task)
        try:
            outcome: Done | JobFailure = ray.get(task)
        except (exceptions.RayError, OSError) as error:
            line = f"{TRIES} workers died at it, perhaps for want of memory ({type(error).__name__})"
            outcome = JobFailure(line)
        if isinstance(outcome, Done):
            self.schedule.done(job)
            return Finished(job, outcome, lane)
        return failed(job, outcome, self.schedule, self.context)

    def _progress(self) -> Generator[Event]:
        import ray
        from ray import exceptions

        try:
            messages: dict[str, tuple[str, int, int]] = ray.get(self._board.read.remote(), timeout=_OFTEN)
        except (exceptions.RayError, TimeoutError):  # it only serves the display
            return
        for job, lane in self._running.values():
            if job.key in messages:
                what, done, total = messages[job.key]
                yield LaneProgress(lane, job, what, done, total)


class _ProgressBoard:
    """Actor that collects the progress of tasks."""

    def __init__(self) -> None:
        self._messages: dict[str, tuple[str, int, int]] = {}

    def report(self, key: str, what: str, done: int, total: int) -> None:
        """Store the progress of a job."""
        self._messages[key] = what, done, total

    def read(self) -> dict[str, tuple[str, int, int]]:
        """Return the progress messages since the last call."""
        messages, self._messages = self._messages, {}
        return messages


_workers: dict[SweepContext, WorkerState] = {}  # in this process: later tasks reuse loaded objects


def _work(job: Job, context: SweepContext, towers: list[Any], board: Any) -> Done | JobFailure:
    """Run a job on the cluster."""
    os.environ.update(thread_variables(context.threads))
    import ray
    import torch

    torch.set_num_threads(context.threads)
    try:
        worker = _workers.get(context)
        if worker is None:
            _workers.clear()
            worker = _workers[context] = WorkerState(context)
        clip, dtype = job.config.clip, job.config.dtype
        if not worker.has(clip, dtype):
            model, source = ray.get(towers[0])
            worker.keep(clip, dtype, towers_of(model.to(context.device), source))
        return run_job(job, worker, throttled(partial(board.report.remote, job.key), _OFTEN))
    except Exception as error:  # the other jobs continue after any error
        return failure_of(error)
