"""One weight file in, tensors by name out; and one clear line for whatever is no weight file."""

import json
import pickle
import re
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

from foveate.clip.archive import is_torchscript, read_torchscript
from foveate.errors import InputError

PICKLES = (".pt", ".pth", ".bin")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
# What a failed download leaves behind, by its first bytes.
_NO_WEIGHTS = {
    b"": "is empty: download it again",
    b"version https://git-lfs": "is a Git LFS pointer, not the weights: run `git lfs pull` in its folder",
    b"<": "is a web page, not weights: download it again (is the address a page about the file?)",
}


def read_tensors(path: Path) -> dict[str, object]:
    """Read a `.safetensors`, a plain `.pt`, `.pth` or `.bin`, a TorchScript archive, or a shard index.

    Pickled code is never executed: pickles load with `weights_only=True`, archives through our own reader.

    Raises:
        InputError: One line, naming the file, whatever is wrong with it.
    """
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    with naming(path):
        try:
            if not path.is_file():
                raise InputError("no such file")
            check_start(path)
            if path.suffix == ".safetensors":
                return _read_safetensors(path)
            if path.suffix in PICKLES:
                return _read_pickle(path)
        except SafetensorError as error:
            raise InputError(f"cut short, or no safetensors file ({one_line(error)})") from error
        except OSError as error:
            raise InputError(error.strerror or one_line(error)) from error
        raise InputError(f"weights end in .safetensors, {', '.join(PICKLES)}, not in '{path.suffix}'")


@contextmanager
def naming(path: Path) -> Generator[None]:
    """Put the file's name before what cannot be used about it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a settings file.

    Raises:
        InputError: It cannot be read, or is no JSON object.
    """
    try:
        settings = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or one_line(error)}") from error
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({one_line(error)})") from error
    table = as_table(settings)
    if table is None:
        raise InputError(f"{path}: holds no settings, but a {type(settings).__name__}")
    return table


def as_table(value: object) -> dict[str, Any] | None:
    """Return a dict with texts as keys; None for anything that is no dict."""
    if not isinstance(value, dict):
        return None
    return {str(name): item for name, item in cast(dict[object, Any], value).items()}


def one_line(error: Exception) -> str:
    """Return the beginning of an error's message, or its class where it has none."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def check_start(path: Path) -> None:
    """Refuse what a failed download leaves behind.

    Raises:
        InputError: It is empty, a web page, or a Git LFS pointer.
    """
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    for beginning, problem in _NO_WEIGHTS.items():
        if start == beginning or (beginning and start.startswith(beginning)):
            raise InputError(problem)


def _read_pickle(path: Path) -> dict[str, object]:
    try:
        if is_torchscript(path):
            return dict(read_torchscript(path))
        with warnings.catch_warnings():
            # It says that unusual pickles may be refused; if this one is, we say so.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        # PyTorch's message is a page long; the one thing in it to know is what the pickle wanted to call.
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise InputError(
                f"its pickle asks for {wanted[1]}, code that weights never need: not loaded"
            ) from error
        raise InputError(
            "damaged, or no file of weights; pickles of other things are never loaded"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"damaged, or no file of weights ({one_line(error)})") from error
    return _unwrapped(content)


def _unwrapped(content: object) -> dict[str, object]:
    """Return the tensors of a training checkpoint, which keeps them under a name of their own."""
    table = as_table(content)
    if table is None:
        raise InputError(f"holds a {type(content).__name__}, not tensors by name")
    for wrapper in _WRAPPERS:
        table = as_table(table.get(wrapper)) or table
    return table


def _read_safetensors(path: Path) -> dict[str, object]:
    load = cast(Callable[[Path], dict[str, object]], load_file)  # its own types are partly unknown
    return load(path)


def _read_shards(index: Path) -> dict[str, object]:
    shards = as_table(read_json(index).get("weight_map"))
    if shards is None:
        raise InputError(f"{index}: has no weight_map, so it is no shard index")
    tensors: dict[str, object] = {}
    for name in sorted({str(shard) for shard in shards.values()}):
        if Path(name).name != name:
            raise InputError(f"{index}: names the shard {name}, outside its folder")
        tensors |= read_tensors(index.parent / name)
    return tensors
