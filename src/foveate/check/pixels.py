"""What pixels alone tell of a picture: its size, its sharpness, its exposure, and a thumbnail."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from foveate.data.pictures import BadPicture, open_picture
from foveate.data.samples import Sample

SIDE = 32
"""Of thumbnails, which are compared pixel by pixel."""

_LOOKED_AT = 256  # longest side that sharpness is measured on: focus, and not how many pixels there are
_BRIGHT, _DARK = 250, 5


@dataclass(frozen=True)
class Look:
    """What was measured of a picture.

    Attributes:
        width: In pixels.
        height: Likewise.
        sharpness: Variance of the Laplacian of its grey, on a longest side of 256.
        bright: Share of pixels that are white or nearly so.
        dark: Share that are black or nearly so.
        thumbnail: `[3, 32, 32]` its colours.
    """

    width: int
    height: int
    sharpness: float
    bright: float
    dark: float
    thumbnail: UInt8[Tensor, "3 side side"]


def look(samples: Sequence[Sample], workers: int = 2) -> Iterator[Look | BadPicture]:
    """Yield what was measured of each picture, in their order; of one that cannot be read, why."""

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
    small = np.array(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
    return torch.from_numpy(small).permute(2, 0, 1)
