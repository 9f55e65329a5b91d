"""Arithmetic on heat maps: how likely each pixel of a picture is foreground."""

import numpy as np
from jaxtyping import Float
from PIL import Image

from foveate.foreground.proposers.base import Heat, Mask

_BINS = 256


def stretch(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Bring values to [0, 1] by their least and greatest; zeros where all are equal."""
    least, most = values.min(), values.max()
    if not most > least:
        return np.zeros_like(values)
    return (values - least) / (most - least)


def otsu(heat: Float[np.ndarray, "*shape"]) -> float:
    """Return the threshold that parts values into two groups with the most distant means.

    Values equal to it belong to the lower group, so nothing is above the threshold of equal values.

    Source: Otsu, "A threshold selection method from gray-level histograms", 1979, Eq. 14.
    """
    least, most = float(heat.min()), float(heat.max())
    if not most > least:
        return most
    counts, edges = np.histogram(heat, bins=_BINS, range=(least, most))
    centres = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts)[:-1], np.cumsum(counts * centres)
    above = heat.size - below
    apart = sums[:-1] / below - (sums[-1] - sums[:-1]) / above  # the first and last bins are never empty
    return float(edges[1 + np.argmax(below * above * apart**2)])


def contrast(heat: Heat, mask: Mask) -> float:
    """How far a mask is from a guess: the heat's mean inside minus its mean outside, within [0, 1]."""
    if mask.all() or not mask.any():
        return 0.0
    return float(np.clip(heat[mask].mean() - heat[~mask].mean(), 0, 1))


def resized(heat: Heat, size: tuple[int, int]) -> Float[np.ndarray, "rows columns"]:
    """Bring a heat map to another (width, height): averages downwards, bilinear upwards."""
    if heat.shape == (size[1], size[0]):
        return heat
    return np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))


def small_size(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """Return the (width, height) that is at most `short` by `long` pixels, of about the same shape."""
    scale = min(1.0, short / min(size), long / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
