"""Makes masks in several processes, each with its own proposer; results come in order."""

import atexit
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future

from foveate.errors import InputError
from foveate.foreground.cleanup import TidyConfig
from foveate.foreground.cutting import Cut, Cutter, MaskJob, Missed
from foveate.foreground.proposers.base import Proposer
from foveate.processes import begin_worker, process_pool

_AHEAD = 3  # batches for each worker: one is processed, the others avoid idle time


def cut_in_processes(
    batches: Iterable[Sequence[MaskJob]], opening: Callable[[], Proposer], tidy: TidyConfig, workers: int
) -> Generator[list[Cut | Missed]]:
    """Yield the results of each batch, in order.

    Args:
        batches: Batches of jobs.
        opening: Creates the proposer; must be picklable.
        tidy: Settings of the clean-up.
        workers: Number of processes.

    Raises:
        InputError: The proposer cannot work at all, or a process died.
    """
    pending: deque[Future[list[Cut | Missed]]] = deque()
    with process_pool(workers, _begin, opening, tidy, workers) as pool:
        for batch in batches:
            pending.append(pool.submit(_cut, batch))
            if len(pending) >= _AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class _Worker:
    """State of one process. The proposer is created at the first batch, where its errors can be reported."""

    def __init__(self, opening: Callable[[], Proposer], tidy: TidyConfig) -> None:
        self._opening, self._tidy = opening, tidy
        self._cutter: Cutter | None = None

    def cut(self, batch: Sequence[MaskJob]) -> list[Cut | Missed]:
        if self._cutter is None:
            proposer = self._opening()
            atexit.register(proposer.close)
            self._cutter = Cutter(proposer, self._tidy)
        return self._cutter(batch)


_here: list[_Worker] = []  # state of this process, set by its initialiser


def _begin(opening: Callable[[], Proposer], tidy: TidyConfig, workers: int) -> None:
    threads = os.environ.get("OMP_NUM_THREADS", "")
    begin_worker(int(threads) if threads.isdecimal() else max(1, (os.cpu_count() or 1) // workers))
    _here.append(_Worker(opening, tidy))


def _cut(batch: Sequence[MaskJob]) -> list[Cut | Missed]:
    try:
        return _here[0].cut(batch)
    except InputError as error:
        raise InputError(str(error)) from None  # subclasses with more arguments cannot be pickled
