"""A tuned model as a folder: `config.json`, `model.safetensors` and a model card, `README.md`.

It holds what was learned and how; never the towers, never anything made of class names but the names.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from foveate.errors import InputError
from foveate.files import write_atomically

CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT, VERSION = "foveate", 1


@dataclass(frozen=True)
class ModelConfig:
    """Everything but tensors that a tuned model is.

    Attributes:
        method: E.g. "fvgpt+coop".
        settings: Per part of the method, all its settings.
        clip: Where the towers come from, as `load_clip` takes it.
        fingerprint: Hash of the towers' weights, to notice others.
        names: Names of the classes it was trained on, in label order.
        precision: Of the towers when it was trained.
        template: The data set's sentence, if one was given.
        seed: Of the run.
        shots: Pictures a class, at most; 0 where a selector chose them.
        selection: How that was, e.g. "herding, fraction 0.2"; empty otherwise.
        pictures: Pictures trained on.
        val_pictures: Further pictures that settings were chosen on; no test pictures are among them.
        recipe: Settings of the training.
        data: Hash of the pictures' names and labels.
        imported: The checkpoint of the authors' code that it was made of, if it was; pictures and recipe are
            unknown then.
        version: Of foveate.
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
    imported: str = ""
    version: str = ""


def save_model(folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write a tuned model; the config comes last, so a folder with one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(folder / TENSORS, save(plain, {"format": FORMAT}))
    write_atomically(folder / CARD, model_card(config, sum(t.numel() for t in plain.values())))
    text = json.dumps({"format": FORMAT, "format_version": VERSION, **asdict(config)}, indent=2)
    write_atomically(folder / CONFIG, text + "\n")


def load_model(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read a tuned model.

    Raises:
        InputError: The folder has none, or one that is damaged or of a newer format.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} has no {CONFIG}: it is no tuned model, or its fit has not finished")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format", None) != FORMAT:
            raise InputError(f"{path} is not foveate's: give a folder that `foveate fit --out` wrote")
        if values.pop("format_version") > VERSION:
            raise InputError(f"{path} was written by a newer foveate ({values.get('version')}): upgrade")
        config = ModelConfig(**values)
        _check_kinds(config)
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(_damaged(path, error)) from error
    try:
        return config, load_file(folder / TENSORS)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(_damaged(folder / TENSORS, error)) from error


def _check_kinds(config: ModelConfig) -> None:
    """Refuse values no fit ever wrote.

    Raises:
        TypeError: A value is of another kind.
    """
    settings, names = cast("object", config.settings), cast("object", config.names)
    if not isinstance(names, list) or not all(isinstance(n, str) for n in cast("list[object]", names)):
        raise TypeError("names is no list of names")
    if not isinstance(settings, dict):
        raise TypeError("settings is no table")
    if not all(isinstance(one, dict) for one in cast("dict[str, object]", settings).values()):
        raise TypeError("settings is no table of tables")
    for name, kind in (("method", str), ("clip", str), ("fingerprint", str), ("seed", int), ("shots", int)):
        if not isinstance(getattr(config, name), kind):
            raise TypeError(f"{name} is {getattr(config, name)!r}")
    if not isinstance(cast("object", config.template), str | None):
        raise TypeError("template is no sentence")


def _damaged(path: Path, error: Exception) -> str:
    why = " ".join(str(getattr(error, "strerror", None) or error).split())[:160]
    return f"{path} is damaged ({why}): bring it back from a copy, or delete {path.parent} and fit again"


def model_card(config: ModelConfig, parameters: int) -> str:
    """Return the README of a tuned model."""
    names = ", ".join(config.names[:20]) + (
        f", … ({len(config.names)} in all)" if len(config.names) > 20 else ""
    )
    return f"""---
library_name: foveate
pipeline_tag: image-classification
tags: [clip, few-shot, {config.method}]
---

# {config.method} on {config.clip}

{_origin(config, parameters)}

Classes: {names}

```python
from foveate import Classifier

classifier = Classifier.from_pretrained("this folder or hub id")
classifier.predict(["photo.jpg"])                       # among the classes above
classifier.predict(["photo.jpg"], classes=["another"])  # and one it never saw
```

- Towers: `{config.clip}` (weights {config.fingerprint}); they are not in this folder.
- Settings: `config.json`.{f" Its data's hash: `{config.data}`." if config.data else ""}
- Limits: it answers with one of the names it is given, whatever the picture shows. Accuracy was not
  measured by writing this card; `foveate evaluate` measures it.
"""


def _origin(config: ModelConfig, parameters: int) -> str:
    learned, classes = f"{parameters:,} learned numbers over a frozen CLIP", f"{len(config.names)} classes"
    if config.imported:
        return (
            f"An image classifier from a checkpoint of the method authors' code ({config.imported}),\n"
            f"imported into foveate: {learned}, for {classes}."
        )
    how = f"chosen by {config.selection}" if config.selection else f"up to {config.shots} each"
    return (
        f"An image classifier tuned with foveate: {learned}, from\n"
        f"{config.pictures} pictures of {classes} ({how}, seed {config.seed})."
    )
