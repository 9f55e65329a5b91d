"""Makes shards of features in several processes on this machine, each with its own tower."""

from collections.abc import Generator, Sequence
from concurrent.futures import as_completed
from dataclasses import replace

import torch

from foveate.data.feature_maker import ShardMaker
from foveate.data.feature_work import Outcome, Run, ShardTask, ShardWork
from foveate.processes import begin_worker, process_pool


def in_processes(workers: int) -> Run:
    """Return a function that makes shards in this many processes, with one thread each."""

    def run(work: Sequence[ShardWork], task: ShardTask) -> Generator[Outcome]:
        if not work:
            return
        worker_task = replace(task, job=replace(task.job, readers=0))
        with process_pool(min(workers, len(work)), _begin, worker_task) as pool:
            for future in as_completed([pool.submit(_make, shard) for shard in work]):
                yield future.result()

    return run


_maker: list[ShardMaker] = []  # state of this process, set by its initialiser


def _begin(task: ShardTask) -> None:
    begin_worker(threads=1)
    torch.set_num_threads(1)  # PyTorch is imported already
    _maker.append(ShardMaker(task))


def _make(work: ShardWork) -> Outcome:
    return _maker[0](work)
