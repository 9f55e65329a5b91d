"""Measures a picture by its pixels alone: size, sharpness, exposure, and a thumbnail."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from foveate.data.samples import Sample
from foveate.foreground.opening import BadPicture
from foveate.foreground.pictures import open_picture

SIDE = 32
"""Side of the thumbnails, which are compared pixel by pixel."""

_LOOKED_AT = 256  # longest side for the sharpness, which then measures focus and not resolution
_BRIGHT, _DARK = 250, 5


@dataclass(frozen=True)
class Look:
    """Measurements of a picture.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        sharpness: Variance of the Laplacian of the grey picture, reduced to a longest side of 256.
        bright: Share of pixels that are white or almost white.
        dark: Share of pixels that are black or almost black.
        thumbnail: `[3, 32, 32]` RGB thumbnail.
    """

    width: int
    height: int
    sharpness: float
    bright: float
    dark: float
    thumbnail: UInt8[Tensor, "3 side side"]


def look(samples: Sequence[Sample], workers: int = 2) -> Iterator[Look | BadPicture]:
    """Yield the measurements of each picture, in order; for an unreadable one, the error."""

    def attempt(sample: Sample) -> Look | BadPicture:
        try:
            return measure(open_picture(sample.picture))
        except BadPicture as error:
            return error

    with ThreadPoolExecutor(max(1, workers)) as pool:
        yield from pool.map(attempt, samples)


def measure(picture: Image.Image) -> Look:
    """Measure one picture in RGB."""
    scale = min(1.0, _LOOKED_AT / max(picture.size))
    size = max(3, round(picture.width * scale)), max(3, round(picture.height * scale))
    grey = np.asarray(picture.convert("L").resize(size, Image.Resampling.BOX), np.float64)
    return Look(
        picture.width,
        picture.height,
        float(_laplacian(grey).var()),
        float((grey >= _BRIGHT).mean()),
        float((grey <= _DARK).mean()),
        _thumbnail(picture),
    )


def _laplacian(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    inner = grey[1:-1, 1:-1]
    return grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner


def _thumbnail(picture: Image.Image) -> UInt8[Tensor, "3 side side"]:
    thumbnail = np.array(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
    return torch.from_numpy(thumbnail).permute(2, 0, 1)
