"""Masks, from files to a picture's foreground: the public functions of this package.

`find_masks` matches files (also packed masks and COCO files), `detect_values` and `read_mask` decode
them, `fit_mask` resizes a mask to its picture, and `check_masks` checks a set. A mask is a picture of
mode "L": 255 on the foreground and 0 elsewhere.
"""

from foveate.foreground.checks import (
    Fault,
    MaskEntry,
    MaskFault,
    MaskReport,
    OnBad,
    check_masks,
    fit_mask,
)
from foveate.foreground.matching import MaskFile, demand_masks, find_masks
from foveate.foreground.values import MaskSource, MaskValues, detect_values, looks_like_mask, read_mask

__all__ = [
    "Fault",
    "MaskEntry",
    "MaskFault",
    "MaskFile",
    "MaskReport",
    "MaskSource",
    "MaskValues",
    "OnBad",
    "check_masks",
    "demand_masks",
    "detect_values",
    "find_masks",
    "fit_mask",
    "looks_like_mask",
    "read_mask",
]
