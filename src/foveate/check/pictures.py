"""Measures of a picture by its pixels (size, sharpness, exposure, thumbnail), and duplicates of pictures."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from foveate.data.samples import Sample
from foveate.foreground.opening import BadPicture
from foveate.foreground.pictures import open_picture

# Measures of one picture.


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


# Finds duplicates of pictures: resized, compressed again, cropped a little, or mirrored.


COARSE = 16
"""Side of the coarse colours by which candidate pairs are found; they tolerate small shifts."""

CANDIDATE = 0.80
"""Minimum correlation of the coarse colours of a candidate pair."""

SAME, SAME_CROPPED = 0.975, 0.95
"""Minimum correlation of coarse colours without cropping; of fine colours with one picture cropped."""

SEEN_ALIKE, SEEN_ALIKE_CROPPED = 0.55, 0.70
"""Minimum cosine of the features in these two cases."""

FITS = 0.45
"""Maximum error of the worst of 64 blocks of the fine colours, in standard deviations, if features differ."""

NEAREST = 5
"""Maximum number of candidates of one picture: those with the most similar coarse colours."""

_CHUNK, _PAIRS, _BLOCK = 1024, 16, 8
_AXIS = [(0.0, 1.0), *((step * (1 - size) / 2, size) for size in (0.95, 0.9) for step in range(3))]
_WINDOWS = [(x, y) for x in _AXIS for y in _AXIS if 1.0 in (x[1], y[1]) or x[1] == y[1]]
"""Crops as (left, width) and (top, height), in shares of the picture; at most a tenth is cut off."""


def twins(
    thumbnails: UInt8[Tensor, "pictures 3 side side"], features: Float[Tensor, "pictures dim"]
) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of indices of the same picture, the earlier first, and the correlation of their pixels.

    Pixels and features must both agree: by pixels alone, two things before one wall would be equal; by
    features alone, two photos of one thing. Features are ignored if the pixels agree in every part, because a
    smaller size may change the features.

    Args:
        thumbnails: Thumbnail of each picture; see `foveate.check.pictures.Look`.
        features: Raw features of a frozen image tower.
    """
    unit = F.normalize(features.float(), dim=-1)
    colours = _coarse(thumbnails)
    mirrored = colours.unflatten(1, (3, COARSE, COARSE)).flip(-1).flatten(1)
    grids = _grids(thumbnails.shape[-1])
    for start in range(0, len(colours), _CHUNK):
        rows = slice(start, start + _CHUNK)
        as_is, flipped = colours[rows] @ colours.T, mirrored[rows] @ colours.T
        coarse = torch.maximum(as_is, flipped)
        later = torch.where(coarse >= CANDIDATE, coarse, 0).triu(diagonal=start + 1)
        nearest = later.topk(min(NEAREST, len(colours)), dim=1)
        row, column = nearest.values.nonzero().T
        neighbour = nearest.indices[row, column]
        for chunk in torch.arange(len(row)).split(_PAIRS):
            left, right = row[chunk], neighbour[chunk]
            picture = thumbnails[start + left]
            flip = (flipped > as_is)[left, right]
            picture = torch.where(flip[:, None, None, None], picture.flip(-1), picture)
            fine, off = _fit(picture.float(), thumbnails[right].float(), grids)
            pixels, cosine = coarse[left, right], (unit[start + left] * unit[right]).sum(dim=1)
            cropped = (fine >= SAME_CROPPED) & ((cosine >= SEEN_ALIKE_CROPPED) | (off <= FITS))
            same = ((pixels >= SAME) & (cosine >= SEEN_ALIKE)) | cropped
            similarity = torch.maximum(pixels, fine)
            yield from zip(
                (start + left[same]).tolist(), right[same].tolist(), similarity[same].tolist(), strict=True
            )


def _coarse(thumbnails: UInt8[Tensor, "pictures 3 side side"]) -> Float[Tensor, "pictures numbers"]:
    """Return the coarse colours as unit vectors with mean 0."""
    parts = [F.adaptive_avg_pool2d(part.float(), COARSE) for part in thumbnails.split(_CHUNK)]
    colours = torch.cat(parts).flatten(1)
    return F.normalize(colours - colours.mean(dim=1, keepdim=True), dim=1, eps=1e-6)


def _fit(
    left: Float[Tensor, "pairs 3 side side"],
    right: Float[Tensor, "pairs 3 side side"],
    grids: Float[Tensor, "windows side side 2"],
) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """Compare pairs of pictures with either of the two cropped.

    Returns:
        The highest correlation over all crops, and for that crop the root mean square error of the worst
        block, in standard deviations of the picture.
    """
    whole, cropped = torch.cat([left, right]), torch.cat([right, left])
    repeated = whole.repeat_interleave(len(grids), dim=0)
    crops = F.grid_sample(
        repeated, grids.repeat(len(whole), 1, 1, 1), padding_mode="border", align_corners=False
    )
    crops = crops.unflatten(0, (len(whole), len(grids)))
    crops = crops - crops.mean(dim=(2, 3, 4), keepdim=True)
    target = cropped - cropped.mean(dim=(1, 2, 3), keepdim=True)
    correlation = F.cosine_similarity(crops.flatten(2), target.flatten(1)[:, None], dim=2, eps=1e-6)
    fine, index = correlation.max(dim=1)
    squared_error = (crops[torch.arange(len(whole)), index] - target).square().mean(dim=1, keepdim=True)
    worst = F.adaptive_avg_pool2d(squared_error, _BLOCK).amax(dim=(1, 2, 3)).sqrt()
    off = worst / target.square().mean(dim=(1, 2, 3)).sqrt().clamp(min=1)
    highest, direction = fine.view(2, -1).max(dim=0)
    return highest, off.view(2, -1).gather(0, direction[None])[0]


def _grids(side: int) -> Float[Tensor, "windows side side 2"]:
    """Return the sampling grid of each window for `grid_sample`: in [-1, 1], x first."""
    steps = (torch.arange(side) + 0.5) / side
    grids = list[Tensor]()
    for (left, width), (top, height) in _WINDOWS:
        y, x = torch.meshgrid(top + height * steps, left + width * steps, indexing="ij")
        grids.append(torch.stack([x, y], dim=-1) * 2 - 1)
    return torch.stack(grids)


def first_of(pairs: list[tuple[int, int, float]], number: int) -> list[int]:
    """Return the index of the first equal picture of each picture, along chains of pairs; else its own."""
    parents = list(range(number))  # union-find: an earlier picture of the same chain, or itself

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for left, right, _ in pairs:
        low, high = sorted((root(left), root(right)))
        parents[high] = low
    return [root(index) for index in range(number)]
