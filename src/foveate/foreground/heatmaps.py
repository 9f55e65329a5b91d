"""Arithmetic on heat maps, which give the foreground likelihood of each pixel."""

import numpy as np
from jaxtyping import Float
from PIL import Image

from foveate.foreground.proposers.base import Heat, Mask

_BINS = 256


def stretch(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Rescale values to [0, 1] by their minimum and maximum; zeros if all are equal."""
    low, high = values.min(), values.max()
    if not high > low:
        return np.zeros_like(values)
    return (values - low) / (high - low)


def otsu(heat: Float[np.ndarray, "*shape"]) -> float:
    """Return the threshold that splits values into two groups with the most distant means.

    A value equal to the threshold belongs to the lower group. If all values are equal, none is above it.

    Source: Otsu, "A threshold selection method from gray-level histograms", 1979, Eq. 14.
    """
    low, high = float(heat.min()), float(heat.max())
    if not high > low:
        return high
    counts, edges = np.histogram(heat, bins=_BINS, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts)[:-1], np.cumsum(counts * centres)
    above = heat.size - below
    distance = sums[:-1] / below - (sums[-1] - sums[:-1]) / above  # the first and last bins are never empty
    return float(edges[1 + np.argmax(below * above * distance**2)])


def contrast(heat: Heat, mask: Mask) -> float:
    """Return the heat's mean inside the mask minus its mean outside; heat must be in [0, 1]."""
    if mask.all() or not mask.any():
        return 0.0
    return float(np.clip(heat[mask].mean() - heat[~mask].mean(), 0, 1))


def resized(heat: Heat, size: tuple[int, int]) -> Float[np.ndarray, "rows columns"]:
    """Resize a heat map to another (width, height): averaging to shrink, bilinear to enlarge."""
    if heat.shape == (size[1], size[0]):
        return heat
    return np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))


def small_size(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """Return a (width, height) of at most `short` by `long` pixels and nearly the same shape."""
    scale = min(1.0, short / min(size), long / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
