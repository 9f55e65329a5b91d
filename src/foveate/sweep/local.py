"""Runs a sweep in processes on this machine: one for each GPU, or several on the CPU.

Each worker is spawned, not forked. It uses the given number of threads and keeps its towers between
jobs. It exits when the main process is gone. A worker that dies is replaced, and its job is retried.
"""

import os
import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import current_thread, main_thread
from typing import Any

from foveate.files import write_atomically
from foveate.processes import begin_worker, thread_variables
from foveate.sweep.jobs import Job
from foveate.sweep.results import ERROR
from foveate.sweep.running import JobFailure, SweepContext, WorkerState, failure_of, run_job, throttled
from foveate.sweep.schedule import TRIES, Died, Event, Failed, Finished, LaneProgress, Schedule

_OFTEN = 0.2  # seconds between progress messages


@dataclass
class _Lane:
    """A worker and its current job."""

    number: int
    context: SweepContext
    process: BaseProcess
    pipe: "Connection[Any, Any]"
    job: Job | None = None
    last: Job | None = None


def in_processes(schedule: Schedule, context: SweepContext, devices: Sequence[str]) -> Generator[Event]:
    """Run all jobs of a schedule; yield events.

    Args:
        schedule: The schedule; it is updated with finished and failed jobs.
        context: Folders and settings.
        devices: Device of each worker: ["cuda:0", "cuda:1"], or ["cpu"] * 2.
    """
    lanes: list[_Lane] = []
    try:
        for number, device in enumerate(devices):
            job = schedule.next()
            if job is None:
                break
            lanes.append(_started(number, replace(context, device=device)))
            _assign(lanes[-1], job)
        unused = list(devices[len(lanes) :])
        while not schedule.over:
            unused = _fill(lanes, unused, schedule, context)
            for lane in _ready_lanes(lanes):
                yield from _receive(lane, schedule)
    finally:
        for lane in lanes:
            _close(lane)


def _fill(lanes: list[_Lane], unused: list[str], schedule: Schedule, context: SweepContext) -> list[str]:
    """Assign jobs to idle workers, and start workers that had no job before."""
    for lane in lanes:
        job = schedule.next(lane.last) if lane.job is None else None
        if job is not None:
            _assign(lane, job)
    while unused:
        job = schedule.next()
        if job is None:
            break
        lanes.append(_started(len(lanes), replace(context, device=unused[0])))
        unused = unused[1:]
        _assign(lanes[-1], job)
    return unused


def _ready_lanes(lanes: Sequence[_Lane]) -> list[_Lane]:
    """Wait for a message from a worker, or for its death."""
    busy = [lane for lane in lanes if lane.job is not None]
    ready = wait([lane.pipe for lane in busy], timeout=1.0)
    return [lane for lane in busy if lane.pipe in ready]


def _receive(lane: _Lane, schedule: Schedule) -> Generator[Event]:
    job = lane.job
    assert job is not None
    try:
        kind, content = lane.pipe.recv()
    except (EOFError, OSError):
        yield _died(lane, job, schedule)
        return
    if kind == "progress":
        yield LaneProgress(lane.number, job, *content)
        return
    lane.job, lane.last = None, job
    if kind == "done":
        schedule.done(job)
        yield Finished(job, content, lane.number)
    else:
        yield failed(job, content, schedule, lane.context)


def failed(job: Job, failure: JobFailure, schedule: Schedule, context: SweepContext) -> Failed:
    """Mark a job as failed; for a bug in foveate, store the traceback."""
    if failure.trace is not None:
        folder = context.out / job.key
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ERROR, failure.trace)
    return Failed(job, failure.line, tuple(schedule.fail(job, failure.line)))


def _died(lane: _Lane, job: Job, schedule: Schedule) -> Event:
    """Replace a dead worker."""
    _close(lane)
    replacement = _started(lane.number, lane.context)
    lane.process, lane.pipe, lane.job = replacement.process, replacement.pipe, None
    if schedule.died(job):
        return Died(job)
    line = f"{TRIES} workers died at it, perhaps for want of memory: take fewer --workers"
    return failed(job, JobFailure(line), schedule, lane.context)


def _started(number: int, context: SweepContext) -> _Lane:
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    with _worker_settings(context.threads):
        process = spawn.Process(target=_work, args=(theirs, context), daemon=True)
        process.start()
    theirs.close()  # so that the worker's death closes the pipe
    return _Lane(number, context, process, ours)


@contextmanager
def _worker_settings(threads: int) -> Generator[None]:
    """Temporarily set what a new process inherits.

    These are the number of threads, which PyTorch reads at import, and a handler that ignores Ctrl-C,
    because the main process stops the workers.
    """
    variables = thread_variables(threads)
    previous = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    is_main = current_thread() is main_thread()  # no other thread may set it
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGINT, handler)
        for name, value in previous.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _assign(lane: _Lane, job: Job) -> None:
    lane.job = job
    with suppress(OSError):  # it just died, which the next read detects
        lane.pipe.send(job)


def _close(lane: _Lane) -> None:
    lane.pipe.close()
    if lane.process.is_alive():
        lane.process.terminate()
    lane.process.join(5)
    if lane.process.is_alive():
        lane.process.kill()
        lane.process.join()
    lane.process.close()


def _work(pipe: "Connection[Any, Any]", context: SweepContext) -> None:
    """Run the jobs that arrive through the pipe."""
    import torch

    begin_worker(context.threads)
    torch.set_num_threads(context.threads)
    worker = WorkerState(context)
    try:
        while True:
            job: Job = pipe.recv()
            try:
                report = throttled(lambda what, n, of: pipe.send(("progress", (what, n, of))), _OFTEN)
                pipe.send(("done", run_job(job, worker, report)))
            except Exception as error:  # the other jobs continue after any error
                pipe.send(("failed", failure_of(error)))
    except (EOFError, OSError):  # the main process closed the pipe
        os._exit(0)
