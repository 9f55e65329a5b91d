"""Reads a weight file into tensors by name; a file that is no weight file gives a one-line error.

It reads CLIP weights and checkpoints of tuned prompts: safetensors, `torch.save` files, TorchScript
archives, shard indexes. The format is detected from the content, not from the name. No pickle is
executed.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from foveate.clip.layouts import in_precision, without_wrappers
from foveate.clip.pickles import Stored, is_torchscript, open_saved, read_torchscript
from foveate.errors import InputError
from foveate.readers import as_table, one_line, parse_table, read_bytes

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "state_dict_ema", "model_ema", "net")
"""Keys under which training programs store weights, next to the optimiser state and other entries."""

_UNSAFE_MODULES = frozenset(
    (
        *("os", "posix", "nt", "sys", "subprocess", "builtins", "__builtin__", "shutil", "importlib"),
        *("runpy", "socket", "ctypes", "pty", "code", "webbrowser"),
    )
)
"""Modules whose functions have side effects. All other names in a pickle are ignored without a message."""

# First bytes of the files that a failed download leaves.
_NO_WEIGHTS = {
    b"": "is empty: download it again",
    b"version https://git-lfs": "is a Git LFS pointer, not the weights: run `git lfs pull` in its folder",
    b"<": "is a web page, not weights: download it again (is the address a page about the file?)",
}
_PART = 64_000_000
"""Bytes that are read before the file is opened again."""

_DAMAGED = "cut short or damaged, or no file of weights"


@dataclass(frozen=True)
class Weights:
    """Content of a weight file.

    Attributes:
        tensors: Tensors by name, without common prefixes of wrappers ("module.", "_orig_mod.",
            "model.").
        beside: Other entries, such as "epoch"; objects of classes and functions are left out.
        asks: Names of classes and functions that the pickle requests; none is called.
        archived: Whether the file is a TorchScript archive, as OpenAI published CLIP.
    """

    tensors: dict[str, Tensor]
    beside: Mapping[str, object]
    asks: tuple[str, ...] = ()
    archived: bool = False

    def demand_harmless(self) -> None:
        """Refuse a file whose pickle requests a function with side effects; the function is not called.

        Raises:
            InputError: The message names the function.
        """
        unsafe = next((name for name in self.asks if name.partition(".")[0] in _UNSAFE_MODULES), None)
        if unsafe:
            raise InputError(f"its pickle asks for {unsafe}, code that weights never need: not loaded")


def read_weights(path: Path, dtype: torch.dtype | None = None) -> Weights:
    """Read a weight file; its name does not matter.

    Args:
        path: A safetensors file, a file of `torch.save`, a TorchScript archive, or a shard index.
        dtype: Precision into which each tensor is converted as soon as it is read; None converts none.

    Raises:
        InputError: The file is unusable; the message is one line and names the file.
    """
    if path.name.endswith(".index.json"):
        return unwrapped(_read_shards(path, dtype))
    with naming(path):
        try:
            return _read(path, dtype)
        except InputError:
            raise
        except SafetensorError as error:
            raise InputError(f"cut short, or no safetensors file ({one_line(error)})") from error
        except OSError as error:
            raise InputError(error.strerror or one_line(error)) from error
        except Exception as error:  # a damaged pickle can raise anything
            raise InputError(f"{_DAMAGED} ({one_line(error)})") from error


def read_tensors(path: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return the tensors of a file that holds only model weights; `dtype` is that of `read_weights`.

    Raises:
        InputError: As in `read_weights`; or the pickle requests a function with side effects.
    """
    weights = read_weights(path, dtype)
    with naming(path):
        weights.demand_harmless()
    return weights.tensors


@contextmanager
def naming(path: Path) -> Generator[None]:
    """Add the file's name to the start of an error message."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """Read a settings file.

    Raises:
        InputError: It cannot be read, or is not a JSON object.
    """
    return parse_table(read_bytes(path), str(path))


def check_start(path: Path) -> None:
    """Refuse a file that a failed download left.

    Raises:
        InputError: The file is empty, a web page, or a Git LFS pointer.
    """
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    for beginning, problem in _NO_WEIGHTS.items():
        if start == beginning or (beginning and start.startswith(beginning)):
            raise InputError(problem)


def _read(path: Path, dtype: torch.dtype | None) -> Weights:
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "is a pipe or a device"
        raise InputError(f"{kind}, no file" if path.exists() else "no such file")
    check_start(path)
    if _is_safetensors(path):
        return unwrapped(_read_safetensors(path, dtype))
    if is_torchscript(path):
        return Weights(read_torchscript(path, dtype), {}, archived=True)
    with open_saved(path) as saved:
        return unwrapped(saved.content, saved.asks, partial(saved.tensors, dtype=dtype))


def _read_safetensors(path: Path, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Map a safetensors file into memory; in another precision, read it a part at a time.

    Pages of a mapped file that were read count as memory until the file is closed.
    """
    mapped = dict(load_file(path))
    if dtype is None or all(tensor.dtype == dtype for tensor in mapped.values() if tensor.numel() > 1):
        return mapped
    names, tensors = list(mapped), dict[str, Tensor]()
    del mapped
    while names:
        bytes_read = 0
        with safe_open(path, "pt") as file:
            while names and bytes_read < _PART:
                name = names.pop()
                tensor = file.get_tensor(name)
                bytes_read += tensor.nbytes
                converted = in_precision(name, tensor, dtype)
                # A view would keep the file mapped.
                tensors[name] = converted.clone() if converted is tensor else converted
                del tensor, converted
    return tensors


def _is_safetensors(path: Path) -> bool:
    """Whether the suffix is .safetensors, or the file starts with a JSON header after its length."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def unwrapped(content: object, asks: Iterable[str] = (), read: Callable[[Any], Any] = dict) -> Weights:
    """Find the tensors in the content of a file and remove the wrappers' prefixes from their names.

    Args:
        content: A dictionary of tensors, or a dictionary that contains one.
        asks: See `Weights`.
        read: Reads the tensors of a dictionary.
    """
    table = _texts(content)
    if table is None:
        if asks := tuple(asks):
            raise InputError(
                f"its pickle asks for {asks[0]}, code that weights never need: not loaded;"
                " save the state_dict() alone"
            )
        raise InputError(f"holds a {type(content).__name__}, not tensors by name: save its state_dict()")
    beside = {name: value for name, value in table.items() if isinstance(value, int | float | str)}
    while inner := _inner_table(table):
        table = inner
    tensors = {name: tensor for name, tensor in read(table).items() if isinstance(tensor, Tensor)}
    return Weights(without_wrappers(tensors), beside, tuple(asks))


def _texts(value: object) -> dict[str, Any] | None:
    """Return the entries of a dictionary whose keys are strings; None if `value` is not a dictionary."""
    if not isinstance(value, dict):
        return None
    entries = cast("dict[object, Any]", value).items()
    return {name: entry for name, entry in entries if isinstance(name, str)}


def _inner_table(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the inner dictionary that holds the weights; None if the weights are in this one.

    Raises:
        InputError: There are several inner dictionaries.
    """
    tables = {name: inner for name, value in table.items() if (inner := _texts(value))}
    for name in _WRAPPERS:
        if name in tables:
            return tables[name]
    if _has_tensors(table):
        return None
    with_tensors = [name for name, inner in tables.items() if _has_tensors(inner)]
    if len(with_tensors) > 1:
        raise InputError(
            f"holds tensors under {with_tensors[0]!r} and under {with_tensors[1]!r}: save those of one alone"
        )
    return tables[with_tensors[0]] if with_tensors else None


def _has_tensors(table: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Tensor | Stored) for value in table.values())


def _read_shards(index: Path, dtype: torch.dtype | None) -> dict[str, Tensor]:
    shards = as_table(read_settings(index).get("weight_map"))
    if not shards:
        raise InputError(f"{index}: has no weight_map, so it is no shard index")
    tensors: dict[str, Tensor] = {}
    for name in sorted({str(shard) for shard in shards.values()}):
        if Path(name).name != name or name.endswith(".index.json"):
            raise InputError(f"{index}: names the shard {name}, outside its folder")
        tensors |= read_tensors(index.parent / name, dtype)
    return tensors
