"""Reads `torch.save` files and TorchScript archives; no pickle and no code in them is executed.

A training checkpoint holds more than weights: the optimiser state, the scheduler, NumPy values.
`torch.load` refuses such a file completely (`weights_only=True`) or executes its pickle. Here, a pickle
may build plain containers and request tensors. For any other class or function it gets an `Inert`
object, which accepts all calls and does nothing. Nothing is imported for a pickle, and values are read
only for the needed tensors.
"""

import io
import math
import os
import pickle
import pickletools
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from foveate.clip.layouts import in_precision
from foveate.errors import InputError
from foveate.readers import one_line

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
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_MAX_OBJECTS = 50_000_000
"""Largest index of an object in a pickle; the unpickler reserves 16 bytes for each up to it."""

_ZIP = b"PK\x03\x04"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""First two pickles of a file from PyTorch before 1.6."""


class Storage(NamedTuple):
    """Flat array of values in the file."""

    key: str
    dtype: torch.dtype


class Stored(NamedTuple):
    """Tensor of the file that is not read yet."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def of(self, numbers: Tensor) -> Tensor:
        """Return the tensor as a view of its whole storage.

        Raises:
            ValueError: The tensor is larger than the storage, so the file is damaged.
        """
        if math.prod(self.size) > len(numbers):
            raise ValueError("a tensor is larger than the numbers stored for it")
        # as_strided refuses indices outside the storage.
        view = torch.as_strided(numbers, tuple(self.size), tuple(self.stride), self.offset)
        return view.clone(memory_format=torch.contiguous_format)


class Inert:
    """Placeholder for any other class, function or object of a pickle: accepts all calls and does nothing."""

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
        """Ignore state and items that a pickle adds."""

    # Methods that a pickle calls to restore an object, and to fill a list or a set.
    __setstate__ = append = extend = add = ignore


def demand_bounded(file: File) -> None:
    """Refuse a pickle that reserves memory for more than it holds; a few bytes can ask for 64 GB.

    The position in the file is restored.

    Raises:
        pickle.UnpicklingError: The pickle is damaged, or reserves too much.
    """
    start = file.tell()
    try:
        for code, value, _ in pickletools.genops(file):
            excessive = code.name == "BYTEARRAY8" or (code.name in _PUTS and int(value or 0) > _MAX_OBJECTS)
            if excessive:
                raise pickle.UnpicklingError(f"{code.name} reserves too much memory")
    except pickle.UnpicklingError:
        raise
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        if "exhausted" in str(error):  # the end is missing: the unpickler reports it
            return
        raise pickle.UnpicklingError(one_line(error)) from error
    finally:
        file.seek(start)


class TensorUnpickler(pickle.Unpickler):
    """Unpickler for tensors and ordered dictionaries; `unknown` handles all other names.

    Attributes:
        known: Allowed globals, by module and name.
        dtypes: Dtype of each named storage, by its key.
        asks: Unknown names that the pickle requests, once each.
    """

    def __init__(self, file: File):
        super().__init__(file)
        self._source = file
        self.dtypes: dict[str, torch.dtype] = {}
        self.asks: dict[str, None] = {}
        # Created for each file: a pickle can set attributes on the objects it gets.
        self.known: dict[tuple[str, str], object] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): wrapped(_rebuild),
            ("torch._utils", "_rebuild_tensor_v2"): wrapped(_rebuild),
            ("torch._utils", "_rebuild_parameter"): wrapped(first),
            ("torch._utils", "_rebuild_parameter_with_state"): wrapped(first),
            ("torch._tensor", "_rebuild_from_type_v2"): wrapped(_rebuild_inner),
        }
        self.known |= {("torch", name): dtype for name, dtype in _DTYPES.items()}

    def load(self) -> Any:
        """Check the sizes in the next pickle, then load it; see `demand_bounded`."""
        demand_bounded(self._source)
        return super().load()

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) in self.known:
            return self.known[module, name]
        self.asks[f"{module}.{name}"] = None
        return self.unknown(module, name)

    def unknown(self, module: str, name: str) -> object:
        """Return a placeholder for a name that is not allowed; it does nothing."""
        return Inert

    def persistent_load(self, pid: Any) -> object:
        kind, *rest = pid
        if kind == "module":  # a class with its source, as in whole models saved before PyTorch 1.6
            return rest[0]
        dtype, key, *_ = rest
        if not isinstance(dtype, torch.dtype):  # a dtype that no weights have
            return Inert()
        self.dtypes[str(key)] = dtype
        return Storage(str(key), dtype)


def wrapped(call: Callable[..., object]) -> Callable[..., object]:
    """Wrap a function, so that a pickle cannot set attributes on the original."""
    return lambda *arguments: call(*arguments)


def first(value: object, *_: object) -> object:
    """Return the first argument."""
    return value


def _rebuild(storage: object, offset: int, size: Any, stride: Any, *_: object) -> object:
    return Stored(storage, offset, size, stride) if isinstance(storage, Storage) else Inert()


def _rebuild_inner(function: Any, _: object, arguments: Any, *__: object) -> object:
    """Return the inner tensor of a tensor with attributes."""
    return _rebuild(*arguments) if callable(function) and not isinstance(function, type) else Inert()


def stored_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a member of an archive that PyTorch wrote.

    Raises:
        InputError: The member is compressed.
    """
    # PyTorch never compresses these members. Refusing compression keeps a small file from filling the
    # memory.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise InputError(f"its member {name} is compressed, as PyTorch never writes it")
    return archive.read(name)


def numbers(raw: bytes, dtype: torch.dtype) -> Tensor:
    """Return raw bytes as a one-dimensional tensor."""
    return torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)


@dataclass
class Saved:
    """An open file of `torch.save`.

    Attributes:
        content: The saved object, with `Stored` for tensors and `Inert` for objects that are not plain
            containers.
        raw: Reads the bytes of a storage.
        asks: Names of the requested classes and functions that belong to neither tensors nor plain
            containers.
    """

    content: object
    raw: Callable[[Storage], bytes]
    asks: tuple[str, ...] = ()

    def tensors(self, table: dict[str, object], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Read the tensors of a dictionary, each in this precision if one is given; skip its other entries.

        Raises:
            InputError: A number is too large for the precision.
        """
        stored = {name: value for name, value in table.items() if isinstance(value, Stored)}
        uses_left = Counter(value.storage for value in stored.values())  # tensors may share a storage
        storages: dict[Storage, Tensor] = {}
        tensors: dict[str, Tensor] = {}
        for name, value in stored.items():
            storage = value.storage
            if storage not in storages:
                storages[storage] = numbers(self.raw(storage), storage.dtype)
            tensors[name] = in_precision(name, value.of(storages[storage]), dtype)
            uses_left[storage] -= 1
            if not uses_left[storage]:
                del storages[storage]
        return tensors


@contextmanager
def open_saved(path: Path) -> Generator[Saved]:
    """Open a `torch.save` file of any PyTorch version from 0.4.

    Raises:
        InputError: The file has another format.
        Exception: Any class, if the file is damaged.
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
    folder = next((name for name in names if name.endswith("data.pkl")), "").removesuffix("data.pkl")
    if not folder:
        raise InputError("is a zip archive, but none that PyTorch saved")
    order_member = f"{folder}byteorder"
    if order_member in names and stored_member(archive, order_member) != sys.byteorder.encode():
        raise InputError("was saved on a machine that writes numbers the other way round")
    unpickler = TensorUnpickler(io.BytesIO(stored_member(archive, f"{folder}data.pkl")))
    content = unpickler.load()

    def raw(storage: Storage) -> bytes:
        return stored_member(archive, f"{folder}data/{storage.key}")

    return Saved(content, raw, tuple(unpickler.asks))


def _open_legacy(file: io.BufferedReader) -> Saved:
    """Open the format before PyTorch 1.6: several pickles, then each storage after its length."""
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
    locations: dict[str, tuple[int, int]] = {}
    for key in cast("list[str]", _next(file)):
        length = int.from_bytes(_read_exactly(file, 8), sys.byteorder) * unpickler.dtypes[key].itemsize
        locations[key] = (file.tell(), length)
        file.seek(length, io.SEEK_CUR)

    def raw(storage: Storage) -> bytes:
        start, length = locations[storage.key]
        file.seek(start)
        return _read_exactly(file, length)

    return Saved(content, raw, tuple(unpickler.asks))


def _next(file: File) -> object:
    return TensorUnpickler(file).load()


def _read_exactly(file: io.BufferedReader, length: int) -> bytes:
    if length > os.fstat(file.fileno()).st_size - file.tell():  # check before memory is allocated
        raise EOFError("the file ends before its numbers do")
    return file.read(length)


# Reads tensors from a TorchScript archive, OpenAI's CLIP format, without running its code.
#
# The archive is a zip file. `data.pkl` pickles the module tree and `data/N` hold the raw values. `code/`
# is code that `torch.jit.load` would compile; it is never read here. The pickle may name only the few
# globals below.


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive; plain `torch.save` writes no `constants.pkl`."""
    try:
        if not path.is_file() or not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError):  # the reader reports it
        return False


def read_torchscript(path: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return all tensors of the archived module, by dotted name, each in this precision if one is given.

    Raises:
        InputError: The pickle names a global that is not allowed.
        zipfile.BadZipFile, pickle.UnpicklingError, ...: The archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        folder = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).removesuffix(
            "constants.pkl"
        )
        module = _ModuleUnpickler(io.BytesIO(stored_member(archive, folder + "data.pkl"))).load()
        if not isinstance(module, _Bag):
            raise InputError("its pickle holds no module, so no weights")
        stored: dict[str, object] = {}
        _collect(module, "", stored)
        saved = Saved(module, lambda storage: stored_member(archive, f"{folder}data/{storage.key}"))
        return saved.tensors(stored, dtype)


class _Bag:
    """Module of the archive; it only has attributes."""


class _ModuleUnpickler(TensorUnpickler):
    """Unpickler that also supports modules (as attribute containers) and TorchScript's lists."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.bag = type("Bag", (_Bag,), {})
        self.known["torch.jit._pickle", "restore_type_tag"] = wrapped(first)
        for kind in ("int", "double", "bool", "tensor"):
            self.known["torch.jit._pickle", f"build_{kind}list"] = wrapped(list)

    def unknown(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return self.bag
        raise InputError(f"its pickle asks for {module}.{name}, which weights never need: not loaded")


def _collect(module: object, prefix: str, stored: dict[str, object]) -> None:
    for name, value in vars(module).items():
        if isinstance(value, Stored):
            stored[prefix + name] = value
        elif isinstance(value, _Bag):
            _collect(value, f"{prefix}{name}.", stored)
