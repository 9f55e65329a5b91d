"""Models of the `transformers` library: their files found or fetched, checked, and quietly loaded.

Weights are read from safetensors alone; pickles are neither fetched nor opened, and no model brings code.
"""

import hashlib
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor

from foveate.clip.checkpoints import check_start, naming, read_settings
from foveate.clip.weights import demand_device
from foveate.errors import InputError
from foveate.foreground.proposers.registry import demand
from foveate.readers import one_line

Precision = Literal["float32", "bfloat16", "float16"]

SETTINGS = (
    *("config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt"),
)
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_FETCHED = (*SETTINGS, *WEIGHTS, "model-*.safetensors")


@dataclass(frozen=True)
class HubModel:
    """The files of one model.

    Attributes:
        name: The hub id it was asked for by, or the name of its folder.
        folder: Where its files are.
        commit: Its commit on the hub; None for a folder of one's own.
    """

    name: str
    folder: Path
    commit: str | None = None

    @property
    def key(self) -> dict[str, object]:
        """What identifies it: JSON values."""
        return {"name": self.name, "commit": self.commit, "files": self.digest}

    @cached_property
    def digest(self) -> str:
        """16 hex digits that name its settings and weights; every byte is read once for it."""
        state = hashlib.sha256()
        shards = (path.name for path in self.folder.glob("model-*.safetensors"))
        for name in sorted({*SETTINGS, *WEIGHTS, *shards}):
            path = self.folder / name
            if path.is_file():
                with path.open("rb") as file:
                    state.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return state.hexdigest()[:16]


def find_model(source: str, kinds: Sequence[str], option: str) -> HubModel:
    """Find a model's files, in a folder or on the hub, and check that they are what they should be.

    Args:
        source: A folder, or a hub id such as "CIDAS/clipseg-rd64-refined"; behind an "@" may stand a branch,
            tag or commit.
        kinds: The `model_type`s it may be of.
        option: By which it is given, for messages: "--clipseg.model".

    Raises:
        InputError: It is not there, may not be had, or is another kind of model; says how to get it.
    """
    if Path(source).is_dir():
        found = HubModel(Path(source).resolve().name, Path(source))
    elif named := re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\S+))?", source):
        folder = _fetch(named[1], named[2], option)
        found = HubModel(named[1], folder, folder.name)  # a snapshot is called by its commit
    else:
        raise InputError(f"{source}: no such folder, and no hub id (owner/name): give one as {option}")
    _check(found.folder, kinds)
    return found


def _fetch(source: str, revision: str | None, option: str) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    download = cast(Callable[..., str], huggingface_hub.snapshot_download)  # pyright: ignore[reportUnknownMemberType]
    instead = f"give its folder as {option}"
    try:
        return Path(download(source, revision=revision, allow_patterns=list(_FETCHED)))
    except errors.GatedRepoError as error:
        access = f"ask for access at https://huggingface.co/{source} and run `hf auth login`"
        raise InputError(f"{source}: its owners hand it out on request: {access}, or {instead}") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{source}: the hub has no revision {revision} of it") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"{source}: no folder here, nor on the hub (private? `hf auth login`)") from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, RuntimeError) as error:
        advice = f"fetch it where there is a network (`hf download {source}`) and {instead}"
        raise InputError(f"{source}: not here, and the hub does not answer: {advice}") from error


def _check(folder: Path, kinds: Sequence[str]) -> None:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: holds no model: there is no config.json")
    kind = read_settings(folder / "config.json").get("model_type")
    if kind not in kinds:
        raise InputError(f"{folder}: is a model of type {kind}, not {' or '.join(kinds)}")
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        pickled = (folder / "pytorch_model.bin").is_file()
        why = "its weights are a pickle, which is never opened" if pickled else "has settings but no weights"
        raise InputError(f"{folder}: {why}; take a copy, or a revision, with model.safetensors")
    with naming(weights):
        check_start(weights)


def load_model(found: HubModel, kind: str, device: str, dtype: Precision) -> Any:
    """Load a model to be asked, never trained.

    Args:
        found: Its files.
        kind: Its class in `transformers`.
        device: Where it runs.
        dtype: Precision of its weights.

    Raises:
        InputError: Its files are damaged or lack tensors; there is no such device.
    """
    demand_device(device)
    load = library(kind).from_pretrained
    options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    with _quiet(), naming(found.folder):
        try:
            model, report = load(str(found.folder), dtype=getattr(torch, dtype), **options)
        except Exception as error:  # damaged files and foreign settings have no common class
            raise InputError(f"transformers cannot load it ({one_line(error)})") from error
        # transformers draws at random what a file lacks, and says so in a log alone.
        missing = sorted(str(name) for name in report["missing_keys"])
        if missing:
            raise InputError(f"its weights lack {len(missing)} tensors of {kind} (first: {missing[0]})")
    return model.to(device).eval().requires_grad_(False)


def load_tokenizer(found: HubModel, kind: str) -> Any:
    """Load a model's tokenizer.

    Args:
        found: The model's files.
        kind: Its class in `transformers`.

    Raises:
        InputError: It is missing or damaged.
    """
    with _quiet(), naming(found.folder):
        try:
            return library(kind).from_pretrained(str(found.folder), local_files_only=True)
        except Exception as error:  # as above
            raise InputError(f"its tokenizer cannot be loaded ({one_line(error)})") from error


def token_ids(tokenizer: Any, text: str, limit: int) -> Int[Tensor, "1 tokens"]:
    """Return a text's token ids, special ones included.

    Raises:
        InputError: It has more than `limit` tokens.
    """
    ids: Tensor = tokenizer(text, return_tensors="pt", verbose=False)["input_ids"]
    if ids.shape[1] > limit:
        raise InputError(
            f"prompt {text[:40]!r} has {ids.shape[1]} tokens, the model reads {limit}: shorten it"
        )
    return ids


def library(name: str) -> Any:
    """Return a class of `transformers`.

    Raises:
        InputError: The library is not installed, too old to have it, or fails to import.
    """
    demand("transformers", name, "transformers")
    try:
        import transformers

        return getattr(transformers, name)
    except (ImportError, AttributeError, RuntimeError) as error:
        # It imports torchvision where that is installed, which fails where it does not fit PyTorch.
        advice = "update transformers, and torchvision where it is installed"
        raise InputError(f"transformers cannot give {name} ({one_line(_root(error))}): {advice}") from error


def library_version() -> str:
    """Return the version of `transformers`, for keys."""
    from importlib.metadata import version

    return version("transformers")


def in_unit(name: str, value: float) -> float:
    """Return a threshold.

    Raises:
        InputError: It is not in [0, 1).
    """
    if not 0 <= value < 1:
        raise InputError(f"{name} is {value}: give a number from 0 to below 1")
    return value


def _root(error: Exception) -> Exception:
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


@contextmanager
def _quiet() -> Generator[None]:
    """Keep transformers from writing to the terminal, and leave its settings as they were."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
