"""The folders of a job and of a sweep: locks, started jobs, results, and damaged files.

OUT/base-to-new/dtd/coop/seed-1/job.json      settings of the job, written before it starts
OUT/base-to-new/dtd/coop/seed-1/run/          run folder of its training, which can be resumed
OUT/base-to-new/dtd/coop/seed-1/result.json   result; the job is finished if this file exists
OUT/.bank/                                    features of frozen towers, for all jobs
"""

import json
import os
import socket
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from foveate.errors import InputError
from foveate.files import remove_half_written, set_aside, write_atomically
from foveate.readers import one_line
from foveate.sweep.jobs import Job
from foveate.sweep.results import RESULT, Damaged, Result, read_result
from foveate.train.folder import first_change

JOB, RUN, ERROR = "job.json", "run", "error.txt"
BANK, TESTS = ".bank", "tests"
LOCK, WHO = ".lock", ".sweep.json"
_MOMENT = 2  # seconds; a shard that starts holds the lock of whole sweeps for less
_MIN_AGE = 60  # seconds; a worker of a killed sweep needs a moment to exit


@contextmanager
def alone_in(out: Path, shard: str | None = None) -> Generator[None]:
    """Hold the only sweep lock of a folder. The system releases the lock of a dead process.

    Args:
        out: Folder of the sweep.
        shard: Name of a part of the sweep, e.g. "2-of-8"; processes with other parts may use the folder too.

    Raises:
        InputError: Another sweep uses the folder, or the folder is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give a folder to write to, new or of this sweep")
    out.mkdir(parents=True, exist_ok=True)
    lock_name = LOCK if shard is None else f"{LOCK}-{shard}"
    lock, owner = FileLock(out / lock_name), out / f"{WHO}{'' if shard is None else f'-{shard}'}"
    other_locks = [out / LOCK] if shard else sorted(out.glob(f"{LOCK}-*"))
    try:
        lock.acquire(timeout=0)
        for path in other_locks:  # another shard that starts now holds this lock for a moment too
            FileLock(path).acquire(timeout=_MOMENT if shard else 0).lock.release()
    except Timeout as error:
        lock.release()
        raise InputError(
            f"another sweep is at work in {out}{_owner(owner)}: wait for it, stop it, or give another --out"
        ) from error
    try:
        write_atomically(owner, json.dumps({"process": os.getpid(), "host": socket.gethostname()}) + "\n")
        if shard is None:  # other parts may be writing
            remove_half_written((Path(folder) for folder, *_ in os.walk(out)), _MIN_AGE)
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


@contextmanager
def at_job(folder: Path) -> Generator[None]:
    """Hold the lock of a job; wait for a worker of a killed sweep, which may need a moment to exit."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        yield


def check_same(out: Path, jobs: Iterable[Job]) -> None:
    """Refuse a folder in which one of the jobs was started with other settings.

    Raises:
        InputError: The message gives the job and the difference. Nothing is changed.
    """
    for job in jobs:
        folder = out / job.key
        if not ((folder / RESULT).is_file() or (folder / RUN).is_dir()):
            continue
        stored, requested = _stored_identity(folder / JOB), job.identity()
        if stored is None or stored == requested:
            continue
        raise InputError(
            f"{out} holds another sweep: in {job.key}, {first_change(stored, requested)}; give another --out,"
            " or remove that folder"
        )


def begin(folder: Path, job: Job) -> None:
    """Write the settings of a job, before it starts."""
    values = {"run": job.identity(), "stands_on": job.needs, "same_run_as": job.copies}
    write_atomically(folder / JOB, json.dumps(values, indent=1) + "\n")


def result_in(folder: Path, *, tidy: bool = True) -> tuple[Result | None, str | None]:
    """Return a job's result, and a note if it is damaged; with `tidy`, a damaged one is set aside.

    Raises:
        InputError: A newer foveate version wrote it.
    """
    try:
        return read_result(folder), None
    except Damaged as error:
        line = one_line(error, None)
        return None, set_aside(folder / RESULT, line) if tidy else line


def size_of_bank(out: Path) -> int:
    """Return the size of the features that a sweep stores for its runs, in bytes."""
    paths = ((Path(folder) / name) for folder, _, names in os.walk(out / BANK) for name in names)
    return sum(path.stat().st_size for path in paths)


def _stored_identity(path: Path) -> dict[str, Any] | None:
    """Return the settings with which a job was started; None if they cannot be read."""
    try:
        values: object = json.loads(path.read_text(encoding="utf-8"))["run"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return cast("dict[str, Any]", values) if isinstance(values, dict) else None


def _owner(path: Path) -> str:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return f" (process {values['process']} on {values['host']})"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""
