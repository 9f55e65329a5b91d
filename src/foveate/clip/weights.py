"""`load_clip` loads any published CLIP with two plain transformers from a file, a folder or the hub.

A folder has the format of foveate (from `save_clip`), Hugging Face or open_clip. The folder's settings
give the values that tensors do not determine (activation, heads, pixel statistics). A single file is
treated as OpenAI's, with a warning, unless its activation is given.
"""

import json
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib import resources
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save

from foveate.clip.checkpoints import naming, read_weights
from foveate.clip.config import EMBEDDED
from foveate.clip.folders import FORMAT, KINDS, SETTINGS, VERSION, load_folder
from foveate.clip.model import Clip
from foveate.clip.precision import dtype_on
from foveate.errors import InputError
from foveate.files import home_of, write_atomically
from foveate.readers import one_line

_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
"""File endings, which no hub id has."""

OPENAI_MODELS = {
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "ViT-L/14@336px": "openai/clip-vit-large-patch14-336",
}


ACTIVATIONS = {"#quick_gelu": True, "#gelu": False}
"""Suffixes of a single file's name that give its activation; the value is whether it is QuickGELU."""


def is_embedded(name: str) -> bool:
    """Return whether a name is that of an embedded CLIP.

    Raises:
        InputError: The name is similar to one ("tiny-huge"), but does not exist.
    """
    if name.startswith("tiny-") and name not in EMBEDDED and not Path(name).exists():
        raise InputError(f"there is no embedded CLIP {name!r}: take {', '.join(EMBEDDED)}")
    return name in EMBEDDED


def load_clip(
    source: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> Clip:
    """Load a frozen CLIP.

    Args:
        source: "tiny" or another name in `EMBEDDED`, a model folder, a weight file, a hub id such as
            "openai/clip-vit-base-patch16", or OpenAI's name such as "ViT-B/16". A suffix gives the
            activation of a file without settings: "weights.pt#gelu", "weights.pt#quick_gelu".
        dtype: Precision of the towers: a dtype, or a name in `foveate.clip.precision.Precision`; None:
            float32.
        device: Device of the model.
        revision: Branch, tag or commit on the hub.

    Raises:
        InputError: The source does not exist, is not a supported CLIP, or the device does not exist.
    """
    demand_device(device)
    dtype = dtype_on(device, dtype)
    path, activation = split_source(source)
    name = str(source)
    if is_embedded(name):
        path = Path(str(resources.files("foveate.clip") / name))
    if path.is_dir():
        clip = load_folder(path, None, dtype)
    elif path.exists():
        clip = _load_file(path, activation, dtype)
    else:
        clip = _load_hub(OPENAI_MODELS.get(name, name).removeprefix("hf-hub:"), revision, dtype)
    return clip.to(device=device).loaded()


def split_source(source: str | Path) -> tuple[Path, str]:
    """Return the file of a source, and its activation suffix ("#gelu"), if any.

    Raises:
        InputError: The source is of another type, or empty.
    """
    if not isinstance(source, str | Path):
        raise InputError(
            f"clip is of type {type(source).__name__}: give a hub id, a folder, a file of weights, or a Clip"
        )
    if not str(source).strip():
        raise InputError("clip is empty: give a hub id, a folder or a file of CLIP weights, such as tiny")
    for ending in ACTIVATIONS:
        path = home_of(str(source).removesuffix(ending))
        if str(source).endswith(ending) and path.is_file():
            return path, ending
    return home_of(source), ""


def save_clip(clip: Clip, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a folder for `load_clip`: `config.json`, `model.safetensors`, and `tokenizer.json`.

    Args:
        clip: What to save.
        folder: Output folder; created if missing.
        dtype: Precision of the saved tensors; None keeps it. Without a `dtype`, `load_clip` returns float32
            or float64 anyway.

    Raises:
        InputError: A weight is too large for `dtype`, or there is no tokenizer.
        OSError: No space, or no permission.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in clip.state_dict().items()
    }
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(f"{name} does not fit into {tensor.dtype}: save it in float32")
    clip.tokenizer.save(folder / "tokenizer.json")
    write_atomically(folder / "model.safetensors", save(tensors))
    # Settings are written last: a folder without them is not treated as a model.
    settings = {"format": FORMAT, "version": VERSION, **asdict(clip.config)}
    write_atomically(folder / "config.json", json.dumps(settings, indent=2) + "\n")


def demand_device(device: str | torch.device) -> None:
    """Refuse a missing device before anything is loaded; PyTorch raises many kinds of errors.

    Raises:
        InputError: The device does not exist on this machine.
    """
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise InputError(f"there is no device {str(device)!r}: take --device cpu, or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device}: PyTorch finds no GPU to use here; take --device cpu")
    if kind not in ("cpu", "cuda", "mps", "xpu", "meta"):
        raise InputError(f"device {device} is none that foveate runs on; take --device cpu, or cuda")
    if kind == "meta":
        raise InputError(f"device {device} holds no numbers; take --device cpu")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # NotImplementedError is a RuntimeError
        raise InputError(f"device {device} cannot be used ({one_line(error)}); take --device cpu") from error


def _load_file(path: Path, activation: str, dtype: torch.dtype | None) -> Clip:
    """Load one weight file; if it lies in a model folder, use the settings there."""
    in_model_folder = any(
        (path.parent / kind.settings).is_file() and path.name in kind.weights for kind in KINDS
    )
    if in_model_folder and not activation:
        return load_folder(path.parent, None, dtype)
    weights = read_weights(path, dtype)
    with naming(path):
        weights.demand_harmless()
        clip = Clip.from_state_dict(weights.tensors, quick_gelu=ACTIVATIONS.get(activation), dtype=dtype)
    clip.weight_file = path
    if not weights.archived and not activation:
        gelu = "quick GELU" if clip.config.quick_gelu else "GELU"
        warnings.warn(
            f"{path} does not say its activation nor its pixels' mean: taken for {gelu} and OpenAI's mean. If"
            f" that is wrong, give {path.name}#gelu or #quick_gelu, or the model's folder with its settings",
            stacklevel=3,
        )
    return clip


def _load_hub(name: str, revision: str | None, dtype: torch.dtype | None) -> Clip:
    """Load from the hub or its local cache: first the settings, then only the weights they need."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) or Path(name).suffix in _FILES:
        raise InputError(f"{name}: no such file or folder, and no hub id (owner/name)")
    return load_folder(_snapshot(name, revision, SETTINGS), partial(_snapshot, name, revision), dtype)


def _snapshot(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    download = cast(Callable[..., str], huggingface_hub.snapshot_download)  # pyright: ignore[reportUnknownMemberType]
    try:
        return Path(download(name, revision=revision, allow_patterns=list(patterns)))
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{name}: the hub has no revision {revision} of it") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: not a file or folder here, nor on the hub (private? `hf auth login`)"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, RuntimeError) as error:
        advice = f"fetch it where there is a network (`hf download {name}`) and give its folder"
        raise InputError(f"{name}: not here, and the hub does not answer: {advice}") from error
