"""Results and folders of a sweep: `result.json` has the result of a job and all that its numbers depend on.

The folder of a sweep is its database. Every job has its own folder with one such file, which is written
only when the job has finished. Nothing else marks a job as done.
"""

import base64
import json
import os
import socket
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from foveate.configs import as_dataclass
from foveate.errors import InputError
from foveate.files import remove_half_written, set_aside, write_atomically
from foveate.readers import one_line, parse_table, read_bytes
from foveate.sweep.jobs import Job
from foveate.train.folder import first_change

RESULT, SCHEMA = "result.json", 1


@dataclass(frozen=True)
class Measured:
    """Result of one question.

    Attributes:
        dataset: Key of the data set.
        split: "base", "new" or "all".
        accuracy: Accuracy over pictures, in percent.
        pictures: Number of pictures.
        classes: Number of class names to choose from.
        per_class: Number of correct pictures and of all pictures, by class name.
        right: Which pictures were classified correctly, in the test split's order, as `packed` bits.
        digest: Fingerprint of pictures and labels: results with equal digests may be compared in pairs.
        trained: Accuracy on pictures of trained classes, in percent, if there are others (split "all").
        others: Accuracy on pictures of the other classes, in percent.
        shift: Foreground shift index, in nats; None if it was not computed.
        shift_right: The index over correctly classified pictures; None also if there are none.
        shift_wrong: The index over the other pictures.
        gaze: Mean share of a picture's heat map, of its true class, that is on the object; between 0 and 1.
            None if it was not computed.
        of_masks: Requested uses of masks: "shift" and "gaze", which are None without masks, and "region".
    """

    dataset: str
    split: str
    accuracy: float
    pictures: int
    classes: int
    per_class: dict[str, tuple[int, int]]
    right: str
    digest: str
    trained: float | None = None
    others: float | None = None
    shift: float | None = None
    shift_right: float | None = None
    shift_wrong: float | None = None
    gaze: float | None = None
    of_masks: tuple[str, ...] = ()

    @property
    def measured_of_masks(self) -> set[str]:
        """Uses of masks; files of earlier versions do not list them and have only the metrics."""
        return {*self.of_masks, *(name for name in ("shift", "gaze") if getattr(self, name) is not None)}

    @property
    def condition(self) -> str:
        """Name of the test split, for a data set that has several; otherwise empty."""
        return self.dataset.partition("@")[2]


@dataclass(frozen=True)
class Result:
    """Result of a job.

    Attributes:
        key: Key of the job, e.g. "base-to-new/dtd/coop-fvg-pt/seed-1".
        protocol: Protocol of the job; the next seven attributes are also the job's.
        row: Row of the table.
        dataset: Key of the training set.
        variant: Variant, e.g. "8-shots".
        seed: Seed of draw, initialisation, order and views.
        method: Method, e.g. "fvgpt+coop".
        recipe: Source of the settings: "paper", "released-code", "upstream".
        shots: Maximum number of pictures of a class; 0 if a selector chose them.
        fraction: Share of each class that a selector chose.
        select: Name of the selector.
        clip: Source of the towers.
        config: All resolved settings: `settings` for each part, `training`, `template`, `precision`,
            `bank`.
        hashes: `weights`, `split` (the data set's split), `draw` (training pictures), `names`, `masks`,
            and `shots` (the stored few-shot draw that they come from).
        versions: Versions of foveate, torch, Python.
        device: Description of the device.
        seconds: Time of `train` and `test`; work before an interruption is not included.
        peak_memory_mb: Peak memory of the process (or of the GPU, if one was used).
        learned_numbers: Number of learned parameters of all stages.
        pictures: Number of training pictures.
        measured: Result of each question.
    """

    key: str
    protocol: str
    row: str
    dataset: str
    variant: str
    seed: int
    method: str
    recipe: str
    shots: int
    fraction: float | None
    select: str | None
    clip: str
    config: dict[str, Any]
    hashes: dict[str, str]
    versions: dict[str, str]
    device: str
    seconds: dict[str, float]
    peak_memory_mb: float
    learned_numbers: int
    pictures: int
    measured: tuple[Measured, ...] = field(default=())

    def of(self, dataset: str, split: str) -> Measured | None:
        """Return the result for a data set's split, if there is one."""
        return next((m for m in self.measured if (m.dataset, m.split) == (dataset, split)), None)


def packed(right: Tensor) -> str:
    """Encode `[N]` booleans as text, eight in a byte, in base64; the first is the highest bit."""
    return base64.b64encode(np.packbits(right.bool().cpu().numpy()).tobytes()).decode()


def unpacked(text: str, number: int) -> Tensor:
    """Decode the `[N]` booleans from `packed`.

    Raises:
        ValueError: The text has another number of booleans.
    """
    raw = base64.b64decode(text, validate=True)
    if len(raw) != -(-number // 8):
        raise ValueError(f"{len(raw)} bytes do not hold {number} values")
    return torch.from_numpy(np.unpackbits(np.frombuffer(raw, np.uint8), count=number)).bool()


def write_result(folder: Path, result: Result) -> None:
    """Write a job's `result.json` atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schema": SCHEMA, **asdict(result)}, indent=1, allow_nan=False)
    write_atomically(folder / RESULT, text + "\n")


class Damaged(Exception):
    """Invalid `result.json`: truncated, edited, or from another program."""


def read_result(folder: Path) -> Result | None:
    """Read a job's result; return None if there is none.

    Raises:
        Damaged: The file is not a result.
        InputError: A newer foveate version wrote it.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        values = parse_table(read_bytes(path), "it")
        newer = values["schema"] > SCHEMA
        result = None if newer else _from(values)
    except (ValueError, LookupError, TypeError) as error:
        raise Damaged(f"{path} is damaged: {one_line(error)}") from error
    if newer:
        raise InputError(f"{path} was written by a newer foveate: upgrade, or take another folder")
    return result


def _from(values: Mapping[str, Any]) -> Result:
    rest = {name: value for name, value in values.items() if name not in ("schema", "measured")}
    measured = tuple(map(_measured, values["measured"]))
    return replace(as_dataclass(Result, rest, ""), measured=measured)


def _measured(values: Mapping[str, Any]) -> Measured:
    measured = as_dataclass(Measured, values, "")
    unpacked(measured.right, measured.pictures)
    per_class = {name: tuple(counts) for name, counts in measured.per_class.items()}
    return replace(measured, per_class=per_class, of_masks=tuple(measured.of_masks))


def results_in(sweep: Path) -> Iterator[Path]:
    """Yield the folders with a result below a sweep's folder, in the order of their names.

    The sweep may be running: folders that disappear are skipped.
    """
    yield from sorted(Path(folder) for folder, _, names in os.walk(sweep) if RESULT in names)


# The folders of a job and of a sweep: locks, started jobs, results, and damaged files.
#
# OUT/base-to-new/dtd/coop/seed-1/job.json      settings of the job, written before it starts
# OUT/base-to-new/dtd/coop/seed-1/run/          run folder of its training, which can be resumed
# OUT/base-to-new/dtd/coop/seed-1/result.json   result; the job is finished if this file exists
# OUT/.bank/                                    features of frozen towers, for all jobs


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
