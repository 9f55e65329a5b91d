"""What `torch.save` wrote, without running anything of it: tensors, plain containers, and nothing else.

A training checkpoint holds more than weights: the optimiser, its schedule, NumPy's numbers. `torch.load`
refuses such a file as a whole (`weights_only=True`) or runs whatever it says. Here a pickle may build plain
containers and ask for tensors. Where it asks for any other class or function it gets an `Inert`, which takes
everything and does nothing. Nothing is imported for a pickle, and numbers are read for wanted tensors alone.
"""

import io
import math
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from foveate.errors import InputError

File = io.BytesIO | io.BufferedReader

_DTYPES = {
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_ZIP = b"PK\x03\x04"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""How a file of PyTorch before 1.6 begins, as two pickles."""


class Storage(NamedTuple):
    """Numbers in a row, somewhere in the file."""

    key: str
    dtype: torch.dtype


class Stored(NamedTuple):
    """A tensor of the file that has not been read."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def of(self, numbers: Tensor) -> Tensor:
        """Return the tensor, from its whole storage.

        Raises:
            ValueError: It is larger than the storage, so the file is damaged.
        """
        if math.prod(self.size) > len(numbers):
            raise ValueError("a tensor is larger than the numbers stored for it")
        # as_strided refuses to reach beyond the storage.
        view = torch.as_strided(numbers, tuple(self.size), tuple(self.stride), self.offset)
        return view.clone(memory_format=torch.contiguous_format)


class Inert:
    """Stands where a pickle wants another class, function or object: takes everything, does nothing."""

    __slots__ = ()

    def __new__(cls, *_: object, **__: object) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object):
        pass

    def __call__(self, *_: object, **__: object) -> "Inert":
        return self

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def ignore(self, _: object) -> None:
        """Do nothing with what a pickle adds."""

    # What a pickle calls to restore an object, and to fill a list or a set.
    __setstate__ = append = extend = add = ignore


class TensorUnpickler(pickle.Unpickler):
    """An unpickler that knows tensors and ordered dictionaries; `unknown` answers for everything else.

    Attributes:
        known: What a pickle may name, by module and name.
        dtypes: Of each storage that was named, by its key.
        asks: What it named that is not known, once each.
    """

    def __init__(self, file: File):
        super().__init__(file)
        self.dtypes: dict[str, torch.dtype] = {}
        self.asks: dict[str, None] = {}
        # Made anew for each file: a pickle can set attributes on what it is handed.
        self.known: dict[tuple[str, str], object] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): wrapped(_rebuild),
            ("torch._utils", "_rebuild_tensor_v2"): wrapped(_rebuild),
            ("torch._utils", "_rebuild_parameter"): wrapped(first),
            ("torch._utils", "_rebuild_parameter_with_state"): wrapped(first),
            ("torch._tensor", "_rebuild_from_type_v2"): wrapped(_rebuild_inner),
        }
        self.known |= {("torch", name): dtype for name, dtype in _DTYPES.items()}

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) in self.known:
            return self.known[module, name]
        self.asks[f"{module}.{name}"] = None
        return self.unknown(module, name)

    def unknown(self, module: str, name: str) -> object:
        """Return what a pickle gets for a name it has no business with: something that does nothing."""
        return Inert

    def persistent_load(self, pid: Any) -> object:
        kind, *rest = pid
        if kind == "module":  # a class with its source, as whole models were saved before PyTorch 1.6
            return rest[0]
        dtype, key, *_ = rest
        if not isinstance(dtype, torch.dtype):  # a kind of numbers that no weights are
            return Inert()
        self.dtypes[str(key)] = dtype
        return Storage(str(key), dtype)


def wrapped(call: Callable[..., object]) -> Callable[..., object]:
    """Wrap a function so that nothing can be set on the original through it."""
    return lambda *arguments: call(*arguments)


def first(value: object, *_: object) -> object:
    """Return the first of all arguments."""
    return value


def _rebuild(storage: object, offset: int, size: Any, stride: Any, *_: object) -> object:
    return Stored(storage, offset, size, stride) if isinstance(storage, Storage) else Inert()


def _rebuild_inner(make: Any, _: object, arguments: Any, *__: object) -> object:
    """Return the tensor inside one that has attributes of its own."""
    return _rebuild(*arguments) if callable(make) and not isinstance(make, type) else Inert()


def stored_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a member of an archive that PyTorch wrote.

    Raises:
        InputError: It is compressed.
    """
    # PyTorch never compresses these members; refusing others keeps a small file from filling the memory.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise InputError(f"its member {name} is compressed, as PyTorch never writes it")
    return archive.read(name)


def numbers(raw: bytes, dtype: torch.dtype) -> Tensor:
    """Return raw numbers as a tensor in a row."""
    return torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)


@dataclass
class Saved:
    """An open file of `torch.save`.

    Attributes:
        content: What was saved, with `Stored` for tensors and `Inert` for what is no plain container.
        raw: Reads the bytes of a storage.
        asks: Names of the classes and functions that are no part of tensors and plain containers.
    """

    content: object
    raw: Callable[[Storage], bytes]
    asks: tuple[str, ...] = ()

    def tensors(self, table: dict[str, object]) -> dict[str, Tensor]:
        """Read the tensors of a table; what else is in it is left out."""
        storages: dict[Storage, Tensor] = {}
        found: dict[str, Tensor] = {}
        for name, value in table.items():
            if isinstance(value, Stored):
                storage = value.storage
                if storage not in storages:  # tensors may share one
                    storages[storage] = numbers(self.raw(storage), storage.dtype)
                found[name] = value.of(storages[storage])
        return found


@contextmanager
def open_saved(path: Path) -> Generator[Saved]:
    """Open a file of `torch.save`, of any version from 0.4 on.

    Raises:
        InputError: It is another kind of file.
        Exception: Of any class, where the file is damaged.
    """
    with path.open("rb") as file:
        start = file.read(len(_ZIP))
        file.seek(0)
        if start == _ZIP:
            with zipfile.ZipFile(file) as archive:
                yield _open_zip(archive)
        elif start.startswith(b"\x80"):
            yield _open_legacy(file)
        else:
            raise InputError("is no file that PyTorch saved and no safetensors file, so no file of weights")


def _open_zip(archive: zipfile.ZipFile) -> Saved:
    names = archive.namelist()
    folder = next((n for n in names if n.endswith("data.pkl")), "").removesuffix("data.pkl")
    if not folder:
        raise InputError("is a zip archive, but none that PyTorch saved")
    order = f"{folder}byteorder"
    if order in names and stored_member(archive, order) != sys.byteorder.encode():
        raise InputError("was saved on a machine that writes numbers the other way round")
    unpickler = TensorUnpickler(io.BytesIO(stored_member(archive, f"{folder}data.pkl")))
    content = unpickler.load()

    def raw(storage: Storage) -> bytes:
        return stored_member(archive, f"{folder}data/{storage.key}")

    return Saved(content, raw, tuple(unpickler.asks))


def _open_legacy(file: io.BufferedReader) -> Saved:
    """Open the format before PyTorch 1.6: some pickles, then each storage behind its length."""
    if _next(file) != _MAGIC or _next(file) != _PROTOCOL:
        raise InputError(
            "cut short or damaged, or no file of weights: not loaded"
            " (pickles of other things are never loaded)"
        )
    system = cast("dict[str, object]", _next(file))
    if system.get("little_endian", True) != (sys.byteorder == "little"):
        raise InputError("was saved on a machine that writes numbers the other way round")
    unpickler = TensorUnpickler(file)
    content = unpickler.load()
    places: dict[str, tuple[int, int]] = {}
    for key in cast("list[str]", _next(file)):
        length = int.from_bytes(_exactly(file, 8), sys.byteorder) * unpickler.dtypes[key].itemsize
        places[key] = (file.tell(), length)
        file.seek(length, io.SEEK_CUR)

    def raw(storage: Storage) -> bytes:
        start, length = places[storage.key]
        file.seek(start)
        return _exactly(file, length)

    return Saved(content, raw, tuple(unpickler.asks))


def _next(file: File) -> object:
    return TensorUnpickler(file).load()


def _exactly(file: io.BufferedReader, length: int) -> bytes:
    if length > os.fstat(file.fileno()).st_size - file.tell():  # before room is made for it
        raise EOFError("the file ends before its numbers do")
    return file.read(length)
