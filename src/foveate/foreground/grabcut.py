"""Refining a coarse foreground by the picture's own colours.

GrabCut (Rother, Kolmogorov, Blake: "GrabCut", SIGGRAPH 2004) learns the colours of a foreground and of a
background from seeds, and cuts where neighbouring pixels differ. OpenCV does the work; the seeds are ours.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from foveate.foreground.heatmaps import otsu, resized, small_size
from foveate.foreground.proposers.base import Heat, Mask
from foveate.foreground.proposers.registry import demand

SHORT, LONG = 320, 1280
"""Pixels that the copy to cut has at most along its shorter and its longer side."""

ITERATIONS = 5
FRAME = 0.08
"""How wide the picture's frame is, as a share of each side."""

_SURE_BACK, _SURE_FRONT, _MAYBE_BACK, _MAYBE_FRONT = range(4)  # OpenCV's GC_BGD, GC_FGD, GC_PR_BGD, GC_PR_FGD
Seeds = UInt8[np.ndarray, "height width"]


class NoSeeds(ValueError):
    """A heat map leaves no foreground, or no background, to begin with."""


def grabcut(picture: Image.Image, heat: Heat) -> Mask:
    """Cut the foreground out along the picture's colours, from a coarse idea of where it is.

    The same input gives the same mask, whatever OpenCV's number of threads. A large picture is cut on a
    smaller copy, and the mask's outline is smooth when it comes back.

    Args:
        picture: Upright, of mode "RGB".
        heat: How likely each pixel is foreground; of the picture's size.

    Raises:
        NoSeeds: The heat is level, or of a shape that seeds only one of the two.
        InputError: OpenCV is not installed.
    """
    demand("masks", "refining masks by the picture's colours (--refine none leaves that out)", "cv2")
    import cv2

    size = small_size(picture.size, SHORT, LONG)
    labels = seeds(resized(heat, size))
    colours = np.asarray(picture.resize(size, Image.Resampling.BOX) if size != picture.size else picture)
    if min(np.isin(labels, kinds).sum() for kinds in ((0, 2), (1, 3))) == 0:
        raise NoSeeds("the heat map seeds no foreground, or no background")
    # OpenCV draws its first colours from a generator of this thread, which it lets nobody read or pass; left
    # alone, each call differs. Seeding it changes nothing else that foveate asks of OpenCV.
    cv2.setRNGSeed(0)
    pixels, whole = np.ascontiguousarray(colours[..., ::-1]), (0, 0, *size)
    back, front = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(pixels, labels, whole, back, front, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(labels, (_SURE_FRONT, _MAYBE_FRONT))
    return resized(inside.astype(np.float32), picture.size) > 0.5


def seeds(heat: Heat) -> Seeds:
    """Say of each pixel whether it begins as sure or possible foreground or background (OpenCV's codes).

    Above Otsu's threshold: foreground, its hottest 30 % for sure. Below: background where it is among the
    coldest 35 % of the picture, and for sure in the frame; possible foreground elsewhere.
    """
    height, width = heat.shape
    hot = heat > otsu(heat)
    top, left = round(FRAME * height), round(FRAME * width)
    frame = np.ones_like(hot)
    frame[top : height - top, left : width - left] = False
    labels = np.where(heat <= np.quantile(heat, 0.35), _MAYBE_BACK, _MAYBE_FRONT).astype(np.uint8)
    labels[frame] = _SURE_BACK
    labels[hot] = _MAYBE_FRONT
    if hot.any():
        labels[hot & (heat >= np.quantile(heat[hot], 0.7))] = _SURE_FRONT
    return labels
