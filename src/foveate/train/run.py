"""One run: its folder, its stages one after the other, each of them resumable.

A run folder has `run.json` (what the run is; written first), `log.jsonl`, `stages/<method>.safetensors` (the
resume state of each stage), and in the end the tuned model.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from foveate.clip.model import Clip
from foveate.data.loader import PictureSet
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.methods.base import Method
from foveate.methods.registry import Settings, build, parts, stages, wrap
from foveate.train.checkpoint import CONFIG
from foveate.train.journal import Journal
from foveate.train.loop import Step, fit
from foveate.train.recipe import Recipe
from foveate.types import Batch

RUN = "run.json"

OnStep = Callable[[str, int, Step], None]
"""Told of each step: the stage's method, the steps it has in all, and the step."""


def open_run(folder: Path, identity: Mapping[str, Any], sources: Mapping[str, Any]) -> bool:
    """Make or re-open a run folder.

    Args:
        folder: Made when missing.
        identity: Everything that decides the run's outcome, as JSON; another is another run.
        sources: Where its pictures were, for `evaluate`; they may have moved since.

    Returns:
        Whether the run has finished already.

    Raises:
        InputError: The folder holds another run, or files that are no run's.
    """
    wanted = json.loads(json.dumps(identity))
    path = folder / RUN
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is not empty and holds no run: choose another output folder")
        folder.mkdir(parents=True, exist_ok=True)
        _write_run(path, wanted, sources)
        return False
    held = read_run(folder)["identity"]
    differing = [key for key in sorted(wanted.keys() | held.keys()) if wanted.get(key) != held.get(key)]
    if differing:
        key = differing[0]
        was, now = _short(held.get(key)), _short(wanted.get(key))
        raise InputError(
            f"{folder} holds another run ({key} was {was}, now {now}):"
            " choose another output folder, or delete it"
        )
    finished = (folder / CONFIG).exists()
    if not finished:
        _write_run(path, wanted, sources)
    return finished


def read_run(folder: Path) -> dict[str, Any]:
    """Return `identity` and `sources` of a run folder.

    Raises:
        InputError: There is no `run.json`, or it is damaged.
    """
    path = folder / RUN
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {"identity": dict(values["identity"]), "sources": dict(values["sources"])}
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no {RUN}: say where the pictures are with --data") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: delete {folder}, or choose another output folder") from error


def _write_run(path: Path, identity: Mapping[str, Any], sources: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps({"identity": identity, "sources": sources}, indent=2) + "\n")


def run_stages(  # noqa: PLR0913  (everything that decides a run, all by name)
    method: str,
    clip: Clip,
    photos: Photos,
    recipe: Recipe,
    *,
    settings: Settings | None = None,
    template: str | None = None,
    seed: int = 1,
    folder: Path | None = None,
    on_step: OnStep | None = None,
) -> Method:
    """Train backbone and plug-ins, each on the frozen one before.

    Args:
        method: E.g. "fvgpt+coop": CoOp first, then FVG-PT on it.
        clip: The frozen towers.
        photos: Pictures to train on, with masks where the method needs them.
        recipe: Of every stage.
        settings: Per part of the method, what differs from its defaults.
        template: The data set's sentence.
        seed: Of starts, orders and views.
        folder: The run folder; None keeps nothing and cannot resume.
        on_step: Told of each step.
    """
    config = clip.config
    built: Method | None = None
    for stage in stages(method):
        plugin = parts(stage)[0]
        own = {name: dict(values) for name, values in (settings or {}).items()}
        built = (
            build(stage, clip, {k: v for k, v in own.items() if k == stage}, seed)
            if built is None
            else wrap(plugin, built, own, seed)
        )
        built.set_classes(photos.names, template)
        # Orders and views are the seed's, so every stage sees the same shots in the same views.
        pictures = PictureSet(
            photos,
            config.image_size,
            config.mean,
            config.std,
            augment=recipe.augment,
            scale=(recipe.crop_scale, 1.0),
            seed=seed,
        )
        _fit_stage(stage, built, pictures, recipe, folder, on_step)
    assert built is not None
    return built


def _fit_stage(
    stage: str,
    method: Method,
    pictures: PictureSet,
    recipe: Recipe,
    folder: Path | None,
    on_step: OnStep | None,
) -> None:
    device = method.clip.logit_scale.device

    def batches(epoch: int):
        for batch in pictures.batches(epoch, recipe.batch_size, shuffle=True, drop_last=True):
            yield to_device(batch, device)

    total = recipe.epochs * pictures.steps(recipe.batch_size, drop_last=True)
    state = journal = None
    if folder:
        (folder / "stages").mkdir(exist_ok=True)
        state = folder / "stages" / f"{re.sub('[^a-z0-9]+', '-', stage)}.safetensors"
        journal = Journal(folder / "log.jsonl", stage)
    watch = partial(on_step, stage, total) if on_step else None
    fit(method, batches, recipe, state=state, journal=journal, on_step=watch)


def to_device(batch: Batch, device: Any) -> Batch:
    """Return the batch on another device."""

    def move(tensor: Any) -> Any:
        return None if tensor is None else tensor.to(device, non_blocking=True)

    frozen = {name: move(tensor) for name, tensor in batch.frozen.items()}
    return Batch(move(batch.images), move(batch.labels), move(batch.masks), move(batch.areas), frozen)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "…"
