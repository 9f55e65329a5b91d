"""Reads tensors from a TorchScript archive, OpenAI's CLIP format, without running its code.

The archive is a zip file. `data.pkl` pickles the module tree and `data/N` hold the raw values. `code/`
is code that `torch.jit.load` would compile; it is never read here. The pickle may name only the few
globals below.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate.clip.pickles import Saved, Stored, TensorUnpickler, first, stored_member, wrapped
from foveate.errors import InputError


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
