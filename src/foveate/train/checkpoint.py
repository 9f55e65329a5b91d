"""A tuned model as a folder: `config.json`, `model.safetensors` and a model card, `README.md`.

It holds the learned tensors and the settings. It holds neither the towers nor tensors made from class
names.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from foveate.clip.layouts import check_numbers
from foveate.clip.templates import fill
from foveate.configs import as_dataclass
from foveate.data.naming import clean_name
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.readers import one_line, parse_table, read_bytes

CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"
TRUST, SCORES = "trust.safetensors", "evaluated.json"
FORMAT, VERSION = "foveate", 1
PRECISIONS = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class ModelConfig:
    """All data of a tuned model except its tensors.

    Attributes:
        method: Name of the method, e.g. "fvgpt+coop".
        settings: All settings of each part of the method.
        clip: Source of the towers, for `load_clip`.
        fingerprint: Hash of the towers' weights, to detect other weights.
        names: Names of the trained classes, in label order.
        precision: Precision of the towers during training.
        template: The data set's sentence, if one was given.
        seed: Seed of the run.
        shots: Largest number of pictures per class; 0 if a selector chose them.
        selection: Selector and fraction, e.g. "herding, fraction 0.2"; otherwise empty.
        pictures: Number of training pictures.
        val_pictures: Number of validation pictures used to choose settings; none is a test picture.
        recipe: The training recipe.
        data: Hash of the pictures' names and labels.
        chosen: How the method was chosen, if `--method auto` chose it.
        imported: The authors' checkpoint that the model was converted from, if any; pictures and recipe
            are then unknown.
        version: Version of foveate.
    """

    method: str
    settings: dict[str, dict[str, Any]]
    clip: str
    fingerprint: str
    names: list[str]
    precision: str = "float32"
    template: str | None = None
    seed: int = 1
    shots: int = 16
    selection: str = ""
    pictures: int = 0
    val_pictures: int = 0
    recipe: dict[str, Any] = field(default_factory=dict[str, Any])
    data: str = ""
    chosen: str = ""
    imported: str = ""
    version: str = ""


def save_model(
    folder: Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    trust: Mapping[str, Tensor] | None = None,
    card: str = "",
) -> None:
    """Write a tuned model; the config is written last, so a folder with a config is complete.

    Args:
        folder: Folder of the model; it is created if missing.
        config: All data of the model except its tensors.
        tensors: Learned tensors.
        trust: Tensors for the reliability of its answers, if there are any.
        card: The model card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    learned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(folder / TENSORS, save(learned, {"format": FORMAT}))
    if trust is None:
        (folder / TRUST).unlink(missing_ok=True)
    else:
        trust_tensors = {name: tensor.cpu().contiguous() for name, tensor in trust.items()}
        write_atomically(folder / TRUST, save(trust_tensors, {"format": FORMAT}))
    write_atomically(folder / CARD, card)
    text = json.dumps({"format": FORMAT, "format_version": VERSION, **asdict(config)}, indent=2)
    write_atomically(folder / CONFIG, text + "\n")


def load_model(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Load a tuned model.

    Raises:
        InputError: The folder has no tuned model, or one that is damaged or in a newer format.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} has no {CONFIG}: it is no tuned model, or its fit has not finished")
    try:
        values = parse_table(read_bytes(path), CONFIG)
        if values.pop("format", None) != FORMAT:
            raise InputError("is not foveate's: give a folder that `foveate fit --out` wrote")
        format_version = values.pop("format_version", None)
        if isinstance(format_version, int) and format_version > VERSION:
            raise InputError(f"was written by a newer foveate ({values.get('version')}): upgrade")
        config = as_dataclass(ModelConfig, values, CONFIG)
        _check(config, format_version)
    except InputError as error:
        raise InputError(_damaged(path, error)) from error
    return config, _read_tensors(folder / TENSORS)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(_damaged(path, error)) from error
    try:
        check_numbers(tensors)
    except InputError as error:
        raise InputError(_damaged(path, error)) from error
    return tensors


def _check(config: ModelConfig, version: object) -> None:
    """Refuse values that have the right type, but that no fit writes."""
    if version != VERSION:
        raise InputError(f"format_version is {version!r}")
    if config.precision not in PRECISIONS:
        raise InputError(f"precision is {config.precision!r}: there are {', '.join(PRECISIONS)}")
    for name in ("seed", "shots", "pictures", "val_pictures"):
        if getattr(config, name) < 0:
            raise InputError(f"{name} is {getattr(config, name)}")
    if config.template is not None:
        fill(config.template, "name")
    for name in config.names:
        clean_name(name)


def _damaged(path: Path, error: Exception) -> str:
    reason = one_line(error)
    if reason.startswith(("is not foveate's", "was written by")):
        return f"{path} {reason}"
    if isinstance(error, PermissionError) or "Permission" in reason:
        return f"{path} may not be read (no permission): change its permissions"
    reason = getattr(error, "strerror", None) or reason
    return f"{path} is damaged ({reason}): bring it back from a copy, or delete {path.parent} and fit again"
