"""Worker processes of this computer, for features, masks, sweeps and measurements alike.

Processes are spawned, not forked: a fork of a process in which PyTorch has run may hang.
"""

import os
import signal
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread
from typing import Any

from foveate.errors import InputError


@contextmanager
def process_pool(workers: int, begin: Callable[..., None], *arguments: Any) -> Generator[ProcessPoolExecutor]:
    """Open a pool of spawned processes; tasks that have not started when the block ends are cancelled.

    Args:
        workers: Number of processes.
        begin: Called once in each process; it calls `begin_worker` first.
        arguments: Arguments of `begin`; picklable.

    Raises:
        InputError: A process died.
    """
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=begin, initargs=arguments)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise InputError(
            f"one of {workers} processes died, perhaps for want of memory: take fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment that sets the threads of PyTorch and BLAS, if these are imported later."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def begin_worker(threads: int) -> None:
    """Prepare a worker process: it ignores Ctrl-C, which the first process handles, and ends with it.

    Args:
        threads: Number of threads of PyTorch and BLAS, if these are imported later.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(thread_variables(threads))
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit when the first process is gone; a killed one cannot say so, and a pool would wait for ever."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
