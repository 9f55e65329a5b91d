"""`result.json`: the result of a job, and everything that its numbers depend on.

The folder of a sweep is its database. Every job has its own folder with one such file, which is written
only when the job has finished. Nothing else marks a job as done.
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
