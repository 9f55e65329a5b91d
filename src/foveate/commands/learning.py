"""From the options of `foveate fit` to a tuned model; for one run, and for each of many."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foveate.classifier import Classifier
from foveate.commands.screen import Bars, note, notes_for_warnings
from foveate.data.tables import read_columns
from foveate.train.banking import one_view
from foveate.train.checkpoint import CONFIG
from foveate.train.journal import Step
from foveate.train.parallel import Team

GROUPS = {
    "reading pictures and masks": (
        "masks",
        "images",
        "columns",
        "mask_values",
        "invert_masks",
        "on_bad",
        "strict_shots",
    ),
    "training": (
        "epochs",
        "batch_size",
        "lr",
        "optimiser",
        "weight_decay",
        "warmup_epochs",
        "augment",
        "crop_scale",
        "average_mean",
        "average_std",
        "clip_grad",
    ),
    "keeping features of frozen towers": ("bank", "bank_dir", "bank_dtype"),
}
"""Options by the headline of the help they stand under; those of "training" are changes to the recipe."""

Options = Mapping[str, Any]
"""The arguments of `foveate.commands.fit.fit` by name."""


@dataclass(frozen=True)
class Learned:
    """What a run has come to.

    Attributes:
        method: E.g. "fvgpt+coop".
        numbers: How many it learned.
        pictures: How many it learned from.
        classes: How many it learned.
        folder: Where the tuned model is.
        finished: Whether it was there before.
    """

    method: str
    numbers: int
    pictures: int
    classes: int
    folder: Path
    finished: bool

    @property
    def ended(self) -> str:
        """How it ended, in words."""
        return "had finished before, in" if self.finished else "saved in"


def recipe_of(options: Options) -> dict[str, Any]:
    """Return the changes to the recipe."""
    return one_view({name: options[name] for name in GROUPS["training"]}, options["bank"])


def classifier_of(options: Options, like: Classifier | None = None, team: Team | None = None) -> Classifier:
    """Build an untrained classifier.

    Args:
        options: Of the run.
        like: One on the same towers, if there is one already.
        team: Processes that train together, each on a GPU of its own.
    """
    method, settings = options["method"], options["settings"]
    if like:
        return like.beside(method, settings)
    precision = getattr(torch, options["dtype"])
    device = team.device(options["device"]) if team else options["device"]
    return Classifier(method, options["clip"], settings=settings, device=device, dtype=precision)


def learn(options: Options, classifier: Classifier, title: str = "", team: Team | None = None) -> Learned:
    """Fit a classifier, with progress bars.

    Args:
        options: Of the run.
        classifier: Built of them.
        title: Stands before what bars are called.
        team: Processes that train together.
    """
    reading = {name: options[name] for name in ("mask_values", "invert_masks")}
    if options["images"] is not None:
        reading["images"] = options["images"]
    if options["columns"] is not None:
        reading["columns"] = read_columns(options["columns"])
    finished = (Path(options["out"]) / CONFIG).is_file()
    with notes_for_warnings(), Bars() as bars:

        def step(stage: str, total: int, step: Step) -> None:
            bars.step(title + stage, total, step)

        classifier.fit(
            options["photos"],
            masks=options["masks"],
            shots=options["shots"],
            select=options["select"],
            fraction=options["fraction"],
            seed=options["seed"],
            classes=options["classes"],
            template=options["template"],
            backbone=options["backbone"],
            recipe=recipe_of(options),
            out=options["out"],
            on_bad=options["on_bad"],
            strict_shots=options["strict_shots"],
            reading=reading,
            bank=options["bank"],
            bank_dir=options["bank_dir"],
            bank_dtype=options["bank_dtype"],
            log_answers=options["log_answers"],
            on_step=step,
            on_count=bars.count,
            on_note=note,
            team=team,
        )
    assert classifier.config is not None
    return Learned(
        classifier.method_name,
        sum(tensor.numel() for tensor in classifier.method.learned().values()),
        classifier.config.pictures,
        len(classifier.config.names),
        Path(options["out"]),
        finished,
    )
