"""Preprocesses pictures for hub models: with the model's sizes and statistics, and foveate's arithmetic.

The processors in `transformers` give the same values, but those of SAM 2 and SAM 3 need torchvision.
`union` joins the instances that a model finds into one mask.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from foveate.clip.checkpoints import naming, read_settings
from foveate.errors import InputError
from foveate.foreground.cleanup import resized
from foveate.foreground.proposers.base import Proposal
from foveate.readers import as_table

Triple = tuple[float, float, float]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF: Triple = (0.5, 0.5, 0.5)

_STEPS = ("do_resize", "do_rescale", "do_normalize")


@dataclass(frozen=True)
class Pixels:
    """Preprocessing settings of a model.

    Attributes:
        size: (width, height) of the input in pixels; with `keeps_shape`, the length of the shorter side
            and the maximum length of the longer side.
        keeps_shape: Whether pictures keep their aspect ratio.
        mean: Channel means that are subtracted from values in [0, 1].
        std: Channel standard deviations to divide by.
        resample: Pillow's filter.
    """

    size: tuple[int, int]
    keeps_shape: bool = False
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    resample: Image.Resampling = Image.Resampling.BILINEAR

    def target(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (width, height) of the input for a picture of this (width, height)."""
        if not self.keeps_shape:
            return self.size
        short, long = self.size
        shorter, longer = min(size), max(size)
        exact = min(float(short), long * shorter / longer)
        new_shorter, new_longer = max(1, round(exact)), int(exact * longer / shorter)
        if new_shorter == shorter:  # as in training: no resampling if the size differs only by rounding
            return size
        return (new_shorter, new_longer) if size[0] < size[1] else (new_longer, new_shorter)

    def tensor(self, picture: Image.Image) -> Float[Tensor, "3 height width"]:
        """Return the model's input for one picture of mode "RGB"."""
        size = self.target(picture.size)
        small = picture if size == picture.size else picture.resize(size, self.resample)
        values = np.asarray(small, dtype=np.float32) / 255
        mean, std = (np.asarray(numbers, dtype=np.float32) for numbers in (self.mean, self.std))
        return torch.from_numpy(np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1)))


def read_pixels(folder: Path, default: Pixels) -> Pixels:
    """Read the preprocessing settings of a model folder; missing ones are taken from `default`.

    Raises:
        InputError: The settings require unsupported processing.
    """
    path, settings = _settings(folder)
    with naming(path):
        for step in _STEPS:
            if settings.get(step) is False:
                raise InputError(f"{step} = false is not supported")
        size, keeps_shape = _size(settings, default)
        return replace(
            default,
            size=size,
            keeps_shape=keeps_shape,
            mean=_triple(settings, "image_mean", default.mean),
            std=_triple(settings, "image_std", default.std),
            resample=_filter(settings.get("resample"), default.resample),
        )


def _settings(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    path = folder / "preprocessor_config.json"
    if path.is_file():
        return path, read_settings(path)
    path = folder / "processor_config.json"  # location in newer releases
    content = read_settings(path) if path.is_file() else {}
    return path, as_table(content.get("image_processor")) or {}


def _size(settings: Mapping[str, Any], default: Pixels) -> tuple[tuple[int, int], bool]:
    size = settings.get("size")
    if size is None:
        return default.size, default.keeps_shape
    if isinstance(size, int):  # format of the oldest files
        longest = settings.get("max_size", default.size[1])
        table: Mapping[str, Any] = {"height": size, "width": size}
        if default.keeps_shape:
            table = {"shortest_edge": size, "longest_edge": longest}
    else:
        table = as_table(size) or {}
    for names, keeps_shape in ((("width", "height"), False), (("shortest_edge", "longest_edge"), True)):
        pair = [table.get(name) for name in names]
        if all(isinstance(value, int) and value > 0 for value in pair):
            return (cast(int, pair[0]), cast(int, pair[1])), keeps_shape
    raise InputError(f"size is {size!r}: neither height and width nor shortest_edge and longest_edge")


def _triple(settings: Mapping[str, Any], name: str, default: Triple) -> Triple:
    values = settings.get(name)
    if values is None:
        return default
    if not isinstance(values, list) or len(cast(list[object], values)) != 3:
        raise InputError(f"{name} is {values!r}, not three numbers")
    numbers = [float(value) for value in cast(list[float], values)]
    return numbers[0], numbers[1], numbers[2]


def _filter(value: object, default: Image.Resampling) -> Image.Resampling:
    if value is None:
        return default
    try:
        return Image.Resampling(value)
    except ValueError as error:
        raise InputError(f"resample is {value!r}, no filter of Pillow's") from error


# Joins several instances of one class into one mask.


@dataclass(frozen=True)
class Instances:
    """Instances found in one picture; possibly none.

    Attributes:
        scores: Score of each instance, in [0, 1].
        boxes: Left, top, right and bottom of each instance, in the picture's pixels.
        heats: Map of each instance: the membership of each pixel, at the model's size.
    """

    scores: Float[Tensor, " instances"]
    boxes: Float[Tensor, "instances 4"]
    heats: Float[np.ndarray, "instances rows columns"]


def union(instances: Instances, size: tuple[int, int], threshold: float, *, logits: bool = False) -> Proposal:
    """Return the union of all instances as one mask, with the best instance's score.

    Args:
        instances: The instances.
        size: (width, height) of the picture.
        threshold: Threshold for heat that is resized to the picture; pixels above it are foreground.
        logits: Whether the maps are logits; otherwise they are probabilities.

    Returns:
        The proposal; without instances, an empty mask with score 0 and no heat.
    """
    width, height = size
    mask, heat = np.zeros((height, width), dtype=bool), np.zeros((height, width), dtype=np.float32)
    for small in instances.heats:  # one at a time, because each is as large as the picture
        large = resized(small, size)
        mask |= large > threshold
        np.maximum(heat, _sigmoid(large) if logits else large, out=heat)
    if not len(instances.scores):
        return Proposal(mask, 0.0, None, {"boxes": [], "scores": []})
    meta = {
        "boxes": instances.boxes.round(decimals=1).tolist(),
        "scores": instances.scores.round(decimals=4).tolist(),
    }
    return Proposal(mask, float(instances.scores.max()), heat, meta)


def _sigmoid(values: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    return 0.5 * (1 + np.tanh(values / 2))  # never overflows
