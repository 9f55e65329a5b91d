"""Tensors out of a TorchScript archive, the form OpenAI published CLIP in, without running its code.

Such a file is a zip: `data.pkl` pickles the module tree, `data/N` hold the raw numbers, `code/` is code that
`torch.jit.load` would compile and that is never looked at here. The pickle may name the few things below and
nothing else.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate.errors import InputError

_DTYPES = {
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


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive; plain `torch.save` writes no `constants.pkl`."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Return every tensor of the archived module by its dotted name.

    Raises:
        InputError: The pickle names something it has no business with.
        zipfile.BadZipFile, pickle.UnpicklingError, ...: The archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        folder = next(n for n in archive.namelist() if n.endswith("/constants.pkl")).removesuffix(
            "constants.pkl"
        )
        module = _Reader(archive, folder).load()
    if not isinstance(module, _Bag):
        raise InputError("its pickle holds no module, so no weights")
    tensors: dict[str, Tensor] = {}
    _collect(module, "", tensors)
    return tensors


class _Bag:
    """A module of the archive: nothing but its attributes."""


class _Reader(pickle.Unpickler):
    """An unpickler that knows modules as bags of attributes, tensors, and lists."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(_stored(archive, folder + "data.pkl")))
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Tensor] = {}
        # Made anew for each file: a pickle can set attributes on what it is handed.
        self.bag = type("Bag", (_Bag,), {})
        self.known: dict[tuple[str, str], object] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _function(_rebuild),
            ("torch.jit._pickle", "restore_type_tag"): _function(_first),
        }
        for kind in ("int", "double", "bool", "tensor"):
            self.known["torch.jit._pickle", f"build_{kind}list"] = _function(list)
        self.known |= {("torch", name): dtype for name, dtype in _DTYPES.items()}

    def find_class(self, module: str, name: str, /) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return self.bag
        if (module, name) not in self.known:
            raise InputError(f"its pickle asks for {module}.{name}, which weights never need: not loaded")
        return self.known[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, *_ = pid
        if key not in self.storages:
            raw = bytearray(_stored(self.archive, f"{self.folder}data/{key}"))
            self.storages[key] = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        return self.storages[key]


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    # PyTorch never compresses these members; refusing others keeps a small file from filling the memory.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise InputError(f"its member {name} is compressed, as PyTorch never writes it")
    return archive.read(name)


def _function(call: Callable[..., object]) -> Callable[..., object]:
    """Wrap a function so that nothing can be set on the original through it."""
    return lambda *arguments: call(*arguments)


def _first(value: object, _: object) -> object:
    return value


def _rebuild(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    # as_strided refuses to reach beyond the storage.
    return torch.as_strided(storage, tuple(size), tuple(stride), offset).clone()


def _collect(module: object, prefix: str, into: dict[str, Tensor]) -> None:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            into[prefix + name] = value
        elif isinstance(value, _Bag):
            _collect(value, f"{prefix}{name}.", into)
