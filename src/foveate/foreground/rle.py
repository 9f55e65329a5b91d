"""COCO run lengths: alternating numbers of background and foreground pixels, column by column.

There are two forms: a list of numbers, or a string with the numbers in groups of five bits (from the
fourth on as the difference to the number two before). Source: `maskApi.c` of the COCO API. This decoder
checks its input: it refuses a broken mask, where the C code may write out of bounds.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool

from foveate.foreground.opening import PIXEL_LIMIT

Inside = Bool[np.ndarray, "height width"]


def decode(counts: str | bytes | Sequence[object], height: int, width: int) -> Inside:
    """Decode a mask.

    Args:
        counts: The runs, in either form.
        height: Height in pixels.
        width: Width in pixels.

    Raises:
        ValueError: The runs do not form a mask of this size.
    """
    total = height * width
    if not 0 < total <= PIXEL_LIMIT:
        raise ValueError(f"it is {height} x {width} pixels")
    numbers = _from_text(counts) if isinstance(counts, str | bytes) else counts
    runs = [run for run in numbers if isinstance(run, int) and 0 <= run <= total]
    if len(runs) < len(numbers) or sum(runs) != total:
        raise ValueError(f"its runs do not make {height} x {width} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def encode(mask: Inside) -> list[int]:
    """Return the runs of a mask as numbers."""
    flat = np.concatenate(([False], mask.T.ravel()))
    edges = [0, *(int(edge) for edge in np.flatnonzero(flat[1:] != flat[:-1])), mask.size]
    return [end - start for start, end in pairwise(edges)]


def _from_text(text: str | bytes) -> list[int]:
    codes = (text.encode() if isinstance(text, str) else text).strip()
    runs: list[int] = []
    value, shift = 0, 0
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its runs are not in COCO's letters")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # more groups of this number follow
            continue
        if bits & 16:  # negative: extend the sign
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("its runs end within a number")
    return runs
