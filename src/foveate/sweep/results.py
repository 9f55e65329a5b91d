"""`result.json`: what a job has come to, and all that its numbers depend on.

A sweep's folder is its database: every job has a folder of its own with one such file, written when the job
has finished and not before. Nothing else says that a job is done.
"""

import base64
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.configs import as_dataclass
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.readers import one_line, parse_table, read_bytes

RESULT, SCHEMA = "result.json", 1


@dataclass(frozen=True)
class Measured:
    """What was measured of one question.

    Attributes:
        dataset: Key of the set.
        split: "base", "new" or "all".
        accuracy: Percent right, of pictures.
        pictures: How many.
        classes: How many names there were to choose from.
        per_class: By class name, pictures right and pictures.
        right: Which pictures were answered rightly, in the test split's order, as `packed` bits.
        digest: Fingerprint of the pictures and their labels: tests with equal ones may be compared in pairs.
        trained: Percent right of the pictures of trained classes, where there are others (split "all").
        others: Of the others.
        shift: Foreground shift index, in nats; None where it was not measured.
        shift_right: The same over pictures that were answered rightly; None also where there are none.
        shift_wrong: Over the others.
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

    @property
    def condition(self) -> str:
        """Which test split was asked about, of a set that has several; else empty."""
        return self.dataset.partition("@")[2]


@dataclass(frozen=True)
class Result:
    """What a job has come to.

    Attributes:
        key: The job's, e.g. "base-to-new/dtd/coop-fvg-pt/seed-1".
        protocol: Of the job, as are the next seven.
        row: The table's line.
        dataset: Key of the set that was trained on.
        variant: E.g. "8-shots".
        seed: Of draw, start, order and views.
        method: E.g. "fvgpt+coop".
        recipe: Source of the settings: "paper", "released-code", "upstream".
        shots: Pictures a class, at most; 0 where a selector chose.
        fraction: Share of each class that a selector chose.
        select: Name of the selector.
        clip: Where the towers come from.
        config: All settings, resolved: `settings` a part, `training`, `template`, `precision`, `bank`.
        hashes: `weights`, `split` (the set's split), `draw` (training pictures), `names`, `masks`, and
            `shots`, of the stored few-shot draw that they are from.
        versions: Of foveate, torch, Python.
        device: Where it ran, in words.
        seconds: `train` and `test`; what had been done before a stop is not in them.
        peak_memory_mb: Highest memory of the process (or of the GPU, where one was used).
        learned_numbers: How many numbers were learned, all stages together.
        pictures: How many were learned from.
        measured: An answer to each question.
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
        """Return what was measured of a set's split, if it was."""
        return next((one for one in self.measured if (one.dataset, one.split) == (dataset, split)), None)


def packed(right: Tensor) -> str:
    """Return `[N]` truth values as text, eight a byte in base64; the first is the highest bit."""
    return base64.b64encode(np.packbits(right.bool().cpu().numpy()).tobytes()).decode()


def unpacked(text: str, number: int) -> Tensor:
    """Return the `[N]` truth values of `packed`.

    Raises:
        ValueError: The text has another number of them.
    """
    raw = base64.b64decode(text, validate=True)
    if len(raw) != -(-number // 8):
        raise ValueError(f"{len(raw)} bytes do not hold {number} values")
    return torch.from_numpy(np.unpackbits(np.frombuffer(raw, np.uint8), count=number)).bool()


def write_result(folder: Path, result: Result) -> None:
    """Write a job's `result.json`; it is there whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schema": SCHEMA, **asdict(result)}, indent=1, allow_nan=False)
    write_atomically(folder / RESULT, text + "\n")


class Damaged(Exception):
    """A `result.json` that is none: cut off, edited, or of something else."""


def read_result(folder: Path) -> Result | None:
    """Read a job's result; None if it has none.

    Raises:
        Damaged: The file is no result.
        InputError: A newer foveate wrote it.
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
    kept = {name: value for name, value in values.items() if name not in ("schema", "measured")}
    measured = tuple(map(_measured, values["measured"]))
    return replace(as_dataclass(Result, kept, ""), measured=measured)


def _measured(values: Mapping[str, Any]) -> Measured:
    one = as_dataclass(Measured, values, "")
    unpacked(one.right, one.pictures)
    return replace(one, per_class={name: tuple(counts) for name, counts in one.per_class.items()})


def results_in(sweep: Path) -> Iterator[Path]:
    """Yield the folders below a sweep's that hold a result, in the order of their names.

    The sweep may be at work: folders that go meanwhile are passed over.
    """
    yield from sorted(Path(folder) for folder, _, names in os.walk(sweep) if RESULT in names)
