"""What the benchmarks on drawn scenes share: train a method on the demo's task, ask it about the test scenes.

A task's test scenes are encoded once a method and label space; every figure is then read from logits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveate.clip.weights import load_clip
from foveate.data.loader import PictureSet
from foveate.data.samples import Photos
from foveate.demo import RECIPE, Task
from foveate.evaluate.metrics import harmonic_mean
from foveate.methods.base import Method
from foveate.methods.frozen import extract
from foveate.methods.fvgpt import FvgPt
from foveate.methods.registry import build, wrap
from foveate.train.loop import fit
from foveate.train.recipe import Recipe, recipe_for
from foveate.train.run import training_pictures
from foveate.types import Batch, Branch, Features


def world_recipe(method: str, **changes: object) -> Recipe:
    """Return the method's own recipe with the demo's wider crops: scenes are small."""
    return recipe_for(method, {**RECIPE, **changes})


Views = list[list[Batch]]
"""Batches of each epoch; what frozen towers say of them is there already."""


@torch.no_grad()
def views(method: Method, task: Task, recipe: Recipe, seed: int) -> Views:
    """Draw every view of a stage and show it to the frozen towers once, an epoch's views in one pass.

    Stages that differ in nothing but what they learn share them.
    """
    pictures = training_pictures(task.train, method.clip.config, recipe, seed)
    epochs: Views = []
    for epoch in range(recipe.epochs):
        batches = list(pictures.batches(epoch, recipe.batch_size, shuffle=True, drop_last=True))
        masks = torch.cat([b.masks for b in batches if b.masks is not None])
        whole = Batch(torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches]), masks)
        seen = {name: t.split(recipe.batch_size, dim=1) for name, t in extract(method, whole).items()}
        epochs.append(
            [
                replace(b, frozen={name: parts[i] for name, parts in seen.items()})
                for i, b in enumerate(batches)
            ]
        )
    return epochs


def learn(method: Method, task: Task, recipe: Recipe, seed: int, drawn: Views | None = None) -> Method:
    """Train one stage on the task's scenes."""
    method.set_classes(task.base)
    epochs = views(method, task, recipe, seed) if drawn is None else drawn
    fit(method, lambda epoch: epochs[epoch], recipe)
    return method


def tuned(backbone: str, task: Task, seed: int, recipe: Recipe, scale: float | None = None) -> Method:
    """Return a backbone trained on the task; `scale` replaces the temperature of the embedded CLIP."""
    clip = load_clip("tiny")
    if scale is not None:
        clip.logit_scale.data.fill_(math.log(scale))
    return learn(build(backbone, clip, seed=seed), task, recipe, seed)


def plugged(backbone: Method, task: Task, seed: int, settings: dict | None = None) -> FvgPt:
    """Return FVG-PT over a tuned backbone, before its training."""
    method = wrap("fvgpt", backbone, {"fvgpt": settings or {}}, seed)
    assert isinstance(method, FvgPt)
    method.set_classes(task.base)
    return method


def as_set(method: Method, photos: Photos, names: Sequence[str]) -> PictureSet:
    """Return the scenes of `names`, labelled by their place among them."""
    kept = [s for s in photos.samples if photos.names[s.label] in names]
    labelled = tuple(replace(s, label=names.index(photos.names[s.label])) for s in kept)
    config = method.clip.config
    return PictureSet(Photos(tuple(names), labelled, "binary255"), config.image_size, config.mean, config.std)


@dataclass(frozen=True)
class Asked:
    """One label space, asked about once.

    Attributes:
        names: In the order of columns.
        features: Of all scenes of these names.
        labels: `[N]` columns.
    """

    names: tuple[str, ...]
    features: Features
    labels: Tensor


@torch.no_grad()
def encode(method: Method, photos: Photos, names: tuple[str, ...], trained: Sequence[str]) -> Asked:
    """Set the classes and encode all scenes of `names`."""
    method.eval()
    method.set_classes(names, trained=trained)
    batch = next(iter(as_set(method, photos, names).batches(None, len(photos))))
    return Asked(names, method.features(batch.images), batch.labels)  # to be asked about in every branch


def right(logits: Tensor, labels: Tensor) -> float:
    """Return percent right."""
    return 100 * (logits.argmax(-1) == labels).float().mean().item()


@torch.no_grad()
def split_wise(method: Method, task: Task) -> dict[str, float]:
    """Return base, new and HM, each split among its own names, as the papers measure."""
    new = tuple(name for name in task.test.names if name not in task.base)
    found: dict[str, float] = {}
    spaces: tuple[tuple[Branch, tuple[str, ...]], ...] = (("base", task.base), ("new", new))
    for branch, names in spaces:
        asked = encode(method, task.test, names, task.base)
        found[branch] = right(method.logits(asked.features, branch), asked.labels)
    return found | {"hm": harmonic_mean(found["base"], found["new"])}


def generalised(logits: Tensor, labels: Tensor, bases: int) -> dict[str, float]:
    """Return base, new and HM among all names together; the first `bases` of them are trained."""
    base = labels < bases
    found = {"gbase": right(logits[base], labels[base]), "gnew": right(logits[~base], labels[~base])}
    return found | {"ghm": harmonic_mean(found["gbase"], found["gnew"])}


@torch.no_grad()
def everything(method: Method, task: Task) -> dict[str, float]:
    """Return split-wise and generalised figures of a method."""
    new = tuple(name for name in task.test.names if name not in task.base)
    found = split_wise(method, task)
    asked = encode(method, task.test, task.base + new, task.base)
    return found | generalised(method.logits(asked.features, "mixed"), asked.labels, len(task.base))


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Return a Markdown table of mean ± sd over seeds; HM is that of the means, as the field has it."""
    columns = list(next(iter(rows.values()))[0])
    lines = [f"| method | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, seeds in rows.items():
        cells: list[str] = []
        for column in columns:
            values = torch.tensor([one[column] for one in seeds])
            middle = values.mean().item()
            if column in ("hm", "ghm"):
                of = ("base", "new") if column == "hm" else ("gbase", "gnew")
                middle = harmonic_mean(*(torch.tensor([s[key] for s in seeds]).mean().item() for key in of))
            cells.append(f"{middle:.1f} ± {values.std().item() if len(values) > 1 else 0.0:.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
