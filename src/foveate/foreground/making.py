"""Makes masks of many pictures in batches, stores each at once, and resumes after an interruption.

store = MaskStore.open(Path("masks"), mask_key(proposer, TidyConfig()))
make_masks(jobs, proposer, store)
"""

import atexit
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from foveate.errors import InputError
from foveate.files import sha256_of
from foveate.foreground.cleanup import TidyConfig
from foveate.foreground.cutting import Cut, Cutter, MaskJob, Missed, failure
from foveate.foreground.opening import BadPicture
from foveate.foreground.options import OnBad, OnCount
from foveate.foreground.proposers.base import Proposer
from foveate.foreground.proposers.registry import open_proposer
from foveate.foreground.store import MaskRecord, MaskStore
from foveate.processes import begin_worker, process_pool

_HOPELESS = 16  # after this many failures without a mask, the proposer is the cause, not the pictures


@dataclass(frozen=True)
class Made:
    """Counts of a run that makes masks.

    Attributes:
        made: Masks made in this run.
        kept: Masks that existed before.
        skipped: Pictures that could not be read.
        failed: Pictures on which the proposer failed. Their mask is the whole picture, and the next run
            tries them again.
    """

    made: int
    kept: int
    skipped: tuple[Missed, ...] = ()
    failed: tuple[Missed, ...] = ()


def make_masks(  # noqa: PLR0913  (all but the first three by name)
    jobs: Sequence[MaskJob],
    proposer: Proposer,
    store: MaskStore,
    *,
    tidy: TidyConfig | None = None,
    on_bad: OnBad = "error",
    workers: int = 1,
    opening: Callable[[], Proposer] | None = None,
    on_count: OnCount | None = None,
) -> Made:
    """Make the masks that the store lacks, and those of pictures that changed.

    Args:
        jobs: Jobs; each name occurs once.
        proposer: The proposer to call.
        store: The store to write to.
        tidy: Settings of the clean-up.
        on_bad: "error" stops at an unreadable picture, "skip" continues without it. Finished masks stay.
        workers: Number of processes; 1 makes masks in this process.
        opening: Creates the proposer in each process; must be picklable. Required for several workers.
        on_count: Called with the progress.

    Raises:
        InputError: A proposer that reads texts gets none, the proposer cannot work at all, or a picture
            cannot be read. Finished masks stay.
        OSError: No space, or no permission.
    """
    check_jobs(jobs, proposer.name, proposer.reads_text)
    tidy = tidy or TidyConfig()
    writer = MaskWriter(store, len(jobs), on_bad, on_count)
    batches = in_batches(writer.unfinished(jobs, proposer.reads_text), proposer.batch)
    if workers > 1:
        if opening is None:
            raise ValueError("several workers open the proposer themselves: give opening")
        cuts = cut_in_processes(batches, opening, tidy, workers)
    else:
        cuts = _cut_here(batches, Cutter(proposer, tidy))
    try:
        with closing(cuts):
            for results in cuts:
                writer.write(results, proposer.name)
    except InputError as error:
        raise InputError(f"{error}{writer.progress}") from error
    return writer.result()


def mask_key(proposer: Proposer, tidy: TidyConfig, **more: object) -> dict[str, object]:
    """Return all settings of masks except pictures and texts; a store holds masks of one key."""
    return {"proposer": proposer.name, **proposer.key, "tidy": asdict(tidy), **more}


def opening_of(name: str, settings: Mapping[str, Any]) -> Callable[[], Proposer]:
    """Return a picklable function that creates a proposer by name."""
    return partial(open_proposer, name, **settings)


def check_jobs(jobs: Sequence[MaskJob], proposer: str, reads_text: bool) -> None:
    """Refuse jobs that cannot succeed.

    Raises:
        InputError: There are no jobs, or a proposer that reads texts gets none.
    """
    if not jobs:
        raise InputError("there are no pictures to make masks of")
    unprompted = next((job for job in jobs if not job.prompt), None)
    if reads_text and unprompted is not None:
        raise InputError(
            f"{unprompted.path}: {proposer} must be told what to look for, and this picture has no class"
            " name: put pictures in one folder per class, or take --proposer classical, which reads no names"
        )


def in_batches(jobs: Iterable[MaskJob], size: int) -> Iterator[list[MaskJob]]:
    """Yield lists of `size` jobs."""
    batch: list[MaskJob] = []
    for job in jobs:
        batch.append(job)
        if len(batch) == max(1, size):
            yield batch
            batch = []
    if batch:
        yield batch


def is_finished(job: MaskJob, record: MaskRecord | None, reads_text: bool) -> bool:
    """Return whether there is a mask of exactly this file and these texts.

    An unreadable file is not finished; the decoder reports the error.
    """
    if record is None or failure(record) is not None:
        return False
    if reads_text and (record.label, record.prompt) != (job.label, job.prompt):
        return False
    try:
        return sha256_of(job.path) == record.sha256
    except OSError:
        return False


class MaskWriter:
    """Writes masks into a store and counts them.

    Args:
        store: The store.
        total: Total number of pictures.
        on_bad: What to do with unreadable pictures.
        on_count: Called with the progress.
    """

    def __init__(
        self, store: MaskStore, total: int, on_bad: OnBad = "error", on_count: OnCount | None = None
    ) -> None:
        self._store, self._total = store, total
        self._on_bad: OnBad = on_bad
        self._on_count = on_count
        self._new = self._existing = 0
        self._skipped: list[Missed] = []
        self._failed: list[Missed] = []

    def unfinished(self, jobs: Sequence[MaskJob], reads_text: bool) -> Iterator[MaskJob]:
        """Yield the jobs whose masks are missing.

        Raises:
            ValueError: Two jobs have the same name.
        """
        if len({job.name for job in jobs}) < len(jobs):
            raise ValueError("two jobs have one name, and would be one mask")
        finished = dict(self._store.finished)  # state at the start, before new masks are added
        for job in jobs:
            if is_finished(job, finished.get(job.name), reads_text):
                self._existing += 1
                self._count()
            else:
                yield job

    def write(self, cuts: Sequence[Cut | Missed], proposer: str) -> None:
        """Store the results of a few pictures.

        Raises:
            InputError: A picture cannot be read and `on_bad` is "error", or the proposer fails
                repeatedly.
        """
        for cut in cuts:
            if isinstance(cut, Cut):
                self._put(cut)
            else:
                self._skipped.append(cut)
        self._count()
        if self._skipped and self._on_bad == "error":
            unreadable = self._skipped[0]
            raise BadPicture(str(unreadable.job.path), unreadable.reason)
        if self._new == len(self._failed) >= _HOPELESS:
            first = self._failed[0]
            raise InputError(
                f"{proposer} failed on each of the first {self._new} pictures, on {first.job.path} with"
                f" {first.reason}; mend its installation or settings, or take another --proposer"
            )

    @property
    def progress(self) -> str:
        """Progress as text that follows an error message; empty if nothing is done."""
        done = self._existing + self._new
        return f" ({done} of {self._total} masks are there, and the same command goes on)" if done else ""

    def result(self) -> Made:
        """Return the counts so far."""
        return Made(self._new, self._existing, tuple(self._skipped), tuple(self._failed))

    def _put(self, cut: Cut) -> None:
        self._store.put(cut.record, cut.mask)
        self._new += 1
        reason = failure(cut.record)
        if reason is not None:
            self._failed.append(Missed(cut.job, reason))

    def _count(self) -> None:
        if self._on_count:
            self._on_count(self._new + self._existing + len(self._skipped), self._total)


def _cut_here(batches: Iterable[Sequence[MaskJob]], cutter: Cutter) -> Generator[list[Cut | Missed]]:
    for batch in batches:
        yield cutter(batch)


# Makes masks in several processes, each with its own proposer; results come in order.


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
