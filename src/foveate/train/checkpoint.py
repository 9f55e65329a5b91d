"""A tuned model as a folder: `config.json`, `model.safetensors` and a model card, `README.md`.

It holds the learned tensors and the settings. It holds neither the towers nor tensors made from class
names.
"""

import json
import re
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
from foveate.errors import InputError, printable
from foveate.files import write_atomically
from foveate.readers import one_line, parse_table, read_bytes

CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"
TRUST = "trust.safetensors"
FORMAT, VERSION = "foveate", 1
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
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
    trusted: str = "",
) -> None:
    """Write a tuned model; the config comes last, so a folder with one is whole.

    Args:
        folder: Made when missing.
        config: All but tensors.
        tensors: What was learned.
        trust: What it knows of its own answers, if it does.
        trusted: How the card tells of that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(folder / TENSORS, save(plain, {"format": FORMAT}))
    if trust is None:
        (folder / TRUST).unlink(missing_ok=True)
    else:
        known = {name: tensor.cpu().contiguous() for name, tensor in trust.items()}
        write_atomically(folder / TRUST, save(known, {"format": FORMAT}))
    write_atomically(folder / CARD, model_card(config, sum(t.numel() for t in plain.values()), trusted))
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
    """Refuse values of the right types that no fit writes."""
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
    why = one_line(error)
    if why.startswith(("is not foveate's", "was written by")):
        return f"{path} {why}"
    if isinstance(error, PermissionError) or "Permission" in why:
        return f"{path} may not be read (no permission): change its permissions"
    why = getattr(error, "strerror", None) or why
    return f"{path} is damaged ({why}): bring it back from a copy, or delete {path.parent} and fit again"


def model_card(config: ModelConfig, parameters: int, trusted: str = "") -> str:
    """Return the README of a tuned model; `trusted` tells what it knows of its own answers."""
    more = f", … ({len(config.names)} in all)" if len(config.names) > 20 else ""
    names = ", ".join(plain_text(name) for name in config.names[:20]) + more
    return f"""{card_head(config)}
# {config.method} on {plain_text(config.clip)}

{_origin(config, parameters)}

Classes: {names}

```python
from foveate import Classifier

classifier = Classifier.from_pretrained("this folder or hub id")
classifier.predict(["photo.jpg"])                       # among the classes above
classifier.predict(["photo.jpg"], classes=["another"])  # and one it never saw
```

- Towers: `{config.clip.replace("`", "'")}` (weights {config.fingerprint}); they are not in this folder.
- Settings: `config.json`.{f" Its data's hash: `{config.data}`." if config.data else ""}
- Licence: that of the towers and of the pictures.
- Limits: it answers with one of the names it is given, whatever the picture shows. Accuracy was not
  measured by writing this card; `foveate evaluate` measures it.
{f"- Trust: {trusted}{chr(10)}" if trusted else ""}"""


def card_head(config: ModelConfig, licence: str = "") -> str:
    """Return what a card tells programs, between two lines of dashes.

    Args:
        config: Of the model.
        licence: Of the towers and the pictures, if it is known.
    """
    from huggingface_hub import ModelCardData  # a second's work

    data = ModelCardData(
        base_model=config.clip if _HUB_ID.fullmatch(config.clip) else None,
        library_name="foveate",
        license=licence.lower() or None,
        pipeline_tag="image-classification",
        tags=["clip", "few-shot", config.method],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def plain_text(text: str) -> str:
    """Return text as Markdown shows it: nothing in it is a link, a picture or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#~!&])", r"\\\1", printable(text).replace("\n", " "))


def _origin(config: ModelConfig, parameters: int) -> str:
    learned, classes = f"{parameters:,} learned numbers over a frozen CLIP", f"{len(config.names)} classes"
    if config.imported:
        return (
            f"An image classifier from a checkpoint of the method authors' code ({config.imported}),\n"
            f"imported into foveate: {learned}, for {classes}."
        )
    how = f"chosen by {config.selection}" if config.selection else f"up to {config.shots} each"
    chosen = f"\n\nThe method was chosen: {plain_text(config.chosen)}" if config.chosen else ""
    return (
        f"An image classifier tuned with foveate: {learned}, from\n"
        f"{config.pictures} pictures of {classes} ({how}, seed {config.seed}).{chosen}"
    )
