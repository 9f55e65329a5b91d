"""Reads few-shot draws of other projects: CoOp's pickles and 2SFS's JSON lines.

A pickle of CoOp is `{"train": [Datum, ...], "val": [...]}`. A `Datum` is an object of a Dassl class (or
of a copy of it) with a path, a label and a class name. The pickle is read without imports and without
executing code: it may only contain plain containers and such objects.

- CoOp: Zhou et al. 2022, https://arxiv.org/abs/2109.01134
- 2SFS: Farina et al. 2025, https://arxiv.org/abs/2503.11609
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from foveate.clip.pickles import TensorUnpickler
from foveate.errors import InputError
from foveate.readers import json_lines

_FIELDS = ("_impath", "_label", "_classname")


@dataclass(frozen=True)
class Foreign:
    """A picture of a foreign list.

    Attributes:
        path: Path as written, usually absolute on another machine.
        label: Label as written.
        name: Class name as written.
    """

    path: str
    label: int
    name: str


@dataclass(frozen=True)
class ForeignDraw:
    """Content of a foreign list.

    Attributes:
        train: Training pictures, in order.
        val: Validation pictures, in order; empty for ImageNet.
    """

    train: tuple[Foreign, ...]
    val: tuple[Foreign, ...]


def read_foreign(path: Path) -> ForeignDraw:
    """Read a foreign draw.

    Raises:
        InputError: The file does not exist, has another format, or requests code.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .pkl of CoOp's or a .jsonl of 2SFS's")
    if path.suffix.lower() == ".jsonl":
        return _read_lines(path)
    if path.suffix.lower() in (".pkl", ".pickle"):
        return _read_pickle(path)
    raise InputError(f"{path}: is neither a .pkl of CoOp's nor a .jsonl of 2SFS's")


def shots_and_seed(path: Path) -> tuple[int, int] | None:
    """Parse shots and seed from a name such as `shot_16-seed_1.pkl`; return None if it has another form."""
    match = re.match(r"shot_(\d+)-seed_(\d+)", path.name)
    return (int(match[1]), int(match[2])) if match else None


class _Datum:
    """Placeholder for a `Datum` in a pickle: stores its attributes and does nothing."""

    def __init__(self, *_: object, **__: object):
        self.attributes: dict[str, Any] = {}

    def __new__(cls, *_: object, **__: object) -> "_Datum":
        datum = super().__new__(cls)
        datum.attributes = {}
        return datum

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.attributes = cast("dict[str, Any]", state)


class _Refused(Exception):
    """The pickle requests an object that no list of pictures needs."""


class _DatumUnpickler(TensorUnpickler):
    """Unpickler for plain containers and `_Datum`; refuses all other objects."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.known.clear()

    def unknown(self, module: str, name: str) -> object:
        if name == "Datum":
            return type("_Datum", (_Datum,), {})  # one class for each pickle, which may set attributes on it
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Refused("an object outside of it")


def _read_pickle(path: Path) -> ForeignDraw:
    try:
        content = _DatumUnpickler(io.BytesIO(path.read_bytes())).load()
    except _Refused as error:
        raise InputError(
            f"{path}: asks for {error}, which no list of pictures needs; it was not run, and is not read"
        ) from error
    except Exception as error:  # a damaged pickle raises anything
        raise InputError(f"{path}: is damaged, or no pickle ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a table with train and val lists, as CoOp's code pickles them")
    table = cast("Mapping[object, object]", content)
    return ForeignDraw(*(_items(table.get(split, []), f"{path}, {split}") for split in ("train", "val")))


def _items(items: object, where: str) -> tuple[Foreign, ...]:
    if not isinstance(items, list):
        raise InputError(f"{where}: is no list of pictures")
    return tuple(
        _foreign(item.attributes if isinstance(item, _Datum) else item, f"{where}[{number}]")
        for number, item in enumerate(cast("Sequence[object]", items))
    )


def _foreign(state: object, where: str) -> Foreign:
    table = cast("Mapping[str, object]", state) if isinstance(state, dict) else {}
    match [table.get(field) for field in _FIELDS]:
        case [str(path), int(label), str(name)] if not isinstance(label, bool):
            return Foreign(path.replace("\\", "/"), label, name)
        case _:
            raise InputError(f"{where}: has no {', '.join(_FIELDS)}")


def _read_lines(path: Path) -> ForeignDraw:
    val = path.with_name(path.name.replace("_train.jsonl", "_val.jsonl"))
    return ForeignDraw(_lines(path), _lines(val) if val != path and val.is_file() else ())


def _lines(path: Path) -> tuple[Foreign, ...]:
    return tuple(_foreign(content, f"{path}, line {number}") for number, content in json_lines(path))
