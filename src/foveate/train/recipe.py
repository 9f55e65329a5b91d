"""The training recipe of a method as one value: duration, learning rate, optimiser, augmentation.

- Schedule and defaults: Dassl, https://github.com/KaiyangZhou/Dassl.pytorch; figures per method as in the
  FVG-PT paper's protocol (10 epochs, batch 4).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from foveate.configs import ADDED, check_types, typed
from foveate.errors import InputError
from foveate.foreground.options import GroundFill

Optimiser = Literal["sgd", "adamw"]
View = Literal["rrc-flip", "squash", "none"]
Augment = Literal["rrc-flip", "squash", "none", "exchange", "exchange-rrc-flip"]

_CUT: dict[str, View] = {"rrc-flip": "rrc-flip", "exchange-rrc-flip": "rrc-flip", "squash": "squash"}

_BOUNDS = {
    "epochs": (1, 1e6),
    "batch_size": (1, 1e6),
    "lr": (0, 1e30),
    "weight_decay": (0, 1e6),
    "warmup_lr": (0, 1e6),
    "momentum": (0, 1e6),
    "exchange_share": (0, 1),
    "warmup_epochs": (0, 1e6),
    "clip_grad": (0, 1e30),
    "explode_at": (0, 1e30),
    "average_mean": (-1e6, 1e6),
    "average_std": (1e-3, 1e12),
}
"""Lower and upper bounds; larger numbers overflow or make a run endless."""


@dataclass(frozen=True)
class Recipe:
    """Settings of one `fit`.

    Attributes:
        epochs: Passes over the training pictures.
        batch_size: Pictures per step.
        optimiser: SGD with momentum, or AdamW.
        lr: Peak learning rate.
        weight_decay: On every learned tensor, as in the field.
        momentum: Of SGD.
        warmup_epochs: Epochs at `warmup_lr` before the cosine begins, from its start.
        warmup_lr: Their constant rate.
        augment: Random resized crop and flip; the field's squash to a square; or the centred test view. With
            "exchange" some objects stand on the ground of a picture of another class, in the centred view or
            before crop and flip; that needs masks.
        exchange_share: How many views of these show the object on another ground; the others are as they are.
        exchange_grounds: What fills the place of the object in a picture that lends its ground: the colours
            around it ("inpaint"), or CLIP's mean colour ("mean"). It decides all exchanged pictures, those of
            Exchange and of FVG-PT's exchanged teacher too.
        crop_scale: Least share of the picture a random crop keeps.
        average_mean: Epoch, counted from 1, around which learned tensors are averaged with Gaussian weights
            (PromptSRC); None takes those of the last epoch. A plug-in's own stage never averages.
        average_std: Deviation of those weights, in epochs.
        clip_grad: Largest norm of all gradients together; None leaves them as they are.
        explode_at: Stop when the loss is so many times its first value.
    """

    epochs: int = 10
    batch_size: int = 4
    optimiser: Optimiser = "sgd"
    lr: float = 0.0035
    weight_decay: float = 5e-4
    momentum: float = 0.9
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5
    augment: Augment = "rrc-flip"
    exchange_share: float = 0.5
    exchange_grounds: GroundFill = field(default="inpaint", metadata=ADDED)
    crop_scale: float = 0.08
    average_mean: float | None = None
    average_std: float = 1.0
    clip_grad: float | None = None
    explode_at: float = 1000.0

    def __post_init__(self) -> None:
        check_types(self)
        for name in (
            "epochs",
            "batch_size",
            "lr",
            "clip_grad",
            "explode_at",
            "average_std",
            "exchange_share",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} is {value}: give a number above zero")
        for name in ("weight_decay", "momentum", "warmup_epochs", "warmup_lr"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}: give zero or more")
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise InputError(f"{name} is {value}: give a number from {least:g} to {most:g}")
        if not 0 < self.crop_scale <= 1:
            raise InputError(
                f"crop_scale is {self.crop_scale}: give a share of the picture, above 0 and up to 1"
            )

    @property
    def view(self) -> View:
        """How a view is cut out of its picture."""
        return _CUT.get(self.augment, "none")

    @property
    def varies(self) -> bool:
        """Whether each epoch has views of its own."""
        return self.view == "rrc-flip" or self.exchanged > 0

    @property
    def exchanged(self) -> float:
        """Share of views whose object stands on another picture's ground; above 0 it takes masks."""
        return self.exchange_share if self.augment.startswith("exchange") else 0.0


def recipe_for(method: str, changes: Mapping[str, object] | None = None) -> Recipe:
    """Return the recipe of "coop" or "fvgpt+coop" with changes; a plug-in uses its backbone's recipe.

    Raises:
        InputError: A change is out of range, is not a number, or names an unknown setting.
    """
    from foveate.methods.registry import methods, parts

    values = {**methods()[parts(method)[-1]].config_type.recipe}
    values |= {name: value for name, value in (changes or {}).items() if value is not None}
    return replace(Recipe(), **typed(Recipe, values, ""))


def average_weight(recipe: Recipe, epoch: int) -> float:
    """Return the weight of an epoch, counted from 0, in the Gaussian average (PromptSRC, Sec. 3.2.2).

    The weights of all epochs sum to 1: w(e) ∝ exp(−½ ((e + 1 − mean) / std)²).
    """
    if recipe.average_mean is None:
        return float(epoch + 1 == recipe.epochs)
    mean = recipe.average_mean
    exponents = [-0.5 * ((e + 1 - mean) / recipe.average_std) ** 2 for e in range(recipe.epochs)]
    highest = max(exponents)  # without this, a mean far after the last epoch would give only zeros
    return math.exp(exponents[epoch] - highest) / sum(math.exp(exponent - highest) for exponent in exponents)


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 0.

    The cosine starts after the W warm-up epochs, and its length is all `epochs`, T. So the rate never
    reaches zero: lr · (1 + cos(π (e − W) / T)) / 2.
    """
    if epoch < recipe.warmup_epochs:
        return recipe.warmup_lr
    angle = math.pi * (epoch - recipe.warmup_epochs) / recipe.epochs
    return recipe.lr * (1 + math.cos(angle)) / 2
