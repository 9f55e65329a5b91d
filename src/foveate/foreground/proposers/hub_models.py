"""Models of the `transformers` library: finds, downloads, checks and loads them without output.

Weights are read only from safetensors. Pickles are neither downloaded nor opened, and no model code is
run.
"""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor

from foveate.clip.checkpoints import check_start, naming, read_settings
from foveate.clip.weights import demand_device
from foveate.errors import InputError
from foveate.files import sha256_of
from foveate.foreground.proposers.base import Proposal, Proposer, Request
from foveate.foreground.proposers.hub_pixels import Pixels, read_pixels
from foveate.foreground.proposers.registry import demand
from foveate.memory import Pieces
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
    """Files of one model.

    Attributes:
        name: The requested hub id, or the name of its folder.
        folder: Folder of the files.
        commit: Its commit on the hub; None for a local folder.
    """

    name: str
    folder: Path
    commit: str | None = None

    @property
    def key(self) -> dict[str, object]:
        """Identity of the model; JSON values."""
        return {"name": self.name, "commit": self.commit, "files": self.digest}

    @cached_property
    def digest(self) -> str:
        """Hash of settings and weights, 16 hex digits; the first access reads all bytes."""
        state = hashlib.sha256()
        shards = (path.name for path in self.folder.glob("model-*.safetensors"))
        for name in sorted({*SETTINGS, *WEIGHTS, *shards}):
            path = self.folder / name
            if path.is_file():
                state.update(f"{name} {sha256_of(path)}\n".encode())
        return state.hexdigest()[:16]


class HubProposer(Proposer):
    """A proposer with one model of the hub that looks for a text.

    Args:
        model: A folder with the model's files, or a hub id; a branch, tag or commit may follow an "@".
        device: Device of the model.
        dtype: Precision of the weights.
        batch: Number of pictures in one pass; halved if the device runs out of memory.
        thresholds: The thresholds, by name; part of the key.

    Attributes:
        model_types: Allowed `model_type` values.
        model_class: Name of the model's class in `transformers`.
        default_pixels: Preprocessing settings where the model's folder has none.

    Raises:
        InputError: `transformers` is not installed; the model does not exist; a threshold is out of range.
    """

    reads_text = True
    model_types: ClassVar[tuple[str, ...]]
    model_class: ClassVar[str]
    default_pixels: ClassVar[Pixels]

    def __init__(self, model: str, device: str, dtype: Precision, batch: int, **thresholds: float):
        demand("transformers", self.name, "transformers")
        self._thresholds = {name: in_unit(name, value) for name, value in thresholds.items()}
        self._hub_model = find_model(model, self.model_types, f"--{self.name}.model")
        self._tokenizer = load_tokenizer(self._hub_model, "CLIPTokenizer")
        self._pixels = read_pixels(self._hub_model.folder, self.default_pixels)
        self._model = load_model(self._hub_model, self.model_class, device, dtype)
        self.batch, self._dtype, self._pieces = batch, dtype, Pieces(batch)
        self._texts: dict[str, Any] = {}

    @torch.inference_mode()
    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        def in_parts(size: int) -> list[Proposal]:
            parts = [requests[start : start + size] for start in range(0, len(requests), size)]
            return [proposal for part in parts for proposal in self.propose_together(part)]

        return self._pieces.run(in_parts)

    @abstractmethod
    def propose_together(self, requests: Sequence[Request]) -> list[Proposal]:
        """Return a proposal for each request, from one pass of the model."""

    @property
    def key(self) -> Mapping[str, object]:
        settings = {"dtype": self._dtype, **self._thresholds}
        return {"model": self._hub_model.key, **settings, "transformers": library_version()}

    def close(self) -> None:
        self._model.to("meta")  # frees its memory even if this object is still referenced
        self._texts.clear()


def find_model(source: str, kinds: Sequence[str], option: str) -> HubModel:
    """Find a model's files, in a folder or on the hub, and check them.

    Args:
        source: A folder, or a hub id such as "CIDAS/clipseg-rd64-refined", optionally followed by "@"
            and a branch, tag or commit.
        kinds: Allowed `model_type` values.
        option: Name of the option, for messages: "--clipseg.model".

    Raises:
        InputError: The model does not exist, is not accessible, or has another type; the message says
            how to get it.
    """
    if Path(source).is_dir():
        model = HubModel(Path(source).resolve().name, Path(source))
    elif match := re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\S+))?", source):
        folder = _fetch(match[1], match[2], option)
        model = HubModel(match[1], folder, folder.name)  # the folder of a snapshot is named by its commit
    else:
        raise InputError(f"{source}: no such folder, and no hub id (owner/name): give one as {option}")
    _check(model.folder, kinds)
    return model


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


def load_model(hub_model: HubModel, kind: str, device: str, dtype: Precision) -> Any:
    """Load a model for inference.

    Args:
        hub_model: Files of the model.
        kind: Name of its class in `transformers`.
        device: Device of the model.
        dtype: Precision of the weights.

    Raises:
        InputError: Files are damaged or lack tensors; the device does not exist.
    """
    demand_device(device)
    load = library(kind).from_pretrained
    options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    with _quiet(), naming(hub_model.folder):
        try:
            model, report = load(str(hub_model.folder), dtype=getattr(torch, dtype), **options)
        except Exception as error:  # errors of damaged files and foreign settings have no common class
            raise InputError(f"transformers cannot load it ({one_line(error)})") from error
        # transformers initialises missing tensors at random, and only logs this.
        missing = sorted(str(name) for name in report["missing_keys"])
        if missing:
            raise InputError(f"its weights lack {len(missing)} tensors of {kind} (first: {missing[0]})")
    return model.to(device).eval().requires_grad_(False)


def load_tokenizer(hub_model: HubModel, kind: str) -> Any:
    """Load a model's tokenizer.

    Args:
        hub_model: Files of the model.
        kind: Name of its class in `transformers`.

    Raises:
        InputError: The tokenizer is missing or damaged.
    """
    with _quiet(), naming(hub_model.folder):
        try:
            return library(kind).from_pretrained(str(hub_model.folder), local_files_only=True)
        except Exception as error:  # as above
            raise InputError(f"its tokenizer cannot be loaded ({one_line(error)})") from error


def token_ids(tokenizer: Any, text: str, limit: int) -> Int[Tensor, "1 tokens"]:
    """Return the token ids of a text, including special tokens.

    Raises:
        InputError: The text has more than `limit` tokens.
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
        InputError: The library is not installed, is too old for this class, or fails to import.
    """
    demand("transformers", name, "transformers")
    try:
        import transformers

        return getattr(transformers, name)
    except (ImportError, AttributeError, RuntimeError) as error:
        # It imports torchvision if that is installed, which fails if it does not fit PyTorch.
        advice = "update transformers, and torchvision where it is installed"
        raise InputError(f"transformers cannot give {name} ({one_line(_root(error))}): {advice}") from error


def library_version() -> str:
    """Return the version of `transformers`, as a part of keys."""
    from importlib.metadata import version

    return version("transformers")


def in_unit(name: str, value: float) -> float:
    """Return a threshold after checking its range.

    Raises:
        InputError: The threshold is not in [0, 1).
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
    """Suppress the output of transformers, and restore its settings afterwards."""
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
