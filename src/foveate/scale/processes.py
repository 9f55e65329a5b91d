"""Shards of features made in several processes of this computer, each with a tower of its own."""

import os
import signal
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread

from foveate.data.feature_maker import ShardMaker
from foveate.data.feature_work import Outcome, Run, ShardTask, ShardWork
from foveate.errors import InputError


def in_processes(workers: int) -> Run:
    """Return what makes shards in so many processes, a thread each.

    Processes are started anew and not forked: a fork of a process in which PyTorch has run may hang.
    """

    def run(work: Sequence[ShardWork], workshop: ShardTask) -> Generator[Outcome]:
        if not work:
            return
        shop = replace(workshop, job=replace(workshop.job, readers=0))
        spawn = get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, len(work)), spawn, initializer=_begin, initargs=(shop,))
        try:
            for done in as_completed([pool.submit(_make, one) for one in work]):
                yield done.result()
        except BrokenProcessPool as error:
            raise InputError(
                f"one of {workers} processes died, perhaps for want of memory: take fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    return run


_here: list[ShardMaker] = []  # this process's one: what begins a process can leave it to later calls only so


def _begin(workshop: ShardTask) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them; the first process tells
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _here.append(ShardMaker(workshop))


def _end_with_parent() -> None:
    """Leave when the first process is gone: killed, it cannot tell, and a pool's processes wait for ever."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _make(work: ShardWork) -> Outcome:
    return _here[0](work)
