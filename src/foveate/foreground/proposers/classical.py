"""Finds the foreground without trained weights: saliency, then a cut along the colours."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.foreground.heatmaps import contrast, otsu, resized, small_size
from foveate.foreground.proposers.base import Heat, Proposal, Proposer, Request
from foveate.foreground.proposers.registry import demand
from foveate.foreground.saliency import saliency

SHORT, LONG = 320, 1280
"""Maximum shorter and longer side of the analysed copy, in pixels."""


class Classical(Proposer):
    """Masks by `foveate.foreground.saliency`; they are coarse, so the clean-up refines them by GrabCut.

    The score is the saliency's mean inside the mask minus its mean outside. It uses no random numbers.

    Args:
        regions: Approximate number of superpixels of a picture.
        centre: Preference for the middle of the picture: the width of a Gaussian, as a share of the
            picture's sides. 0 means no preference.

    Raises:
        InputError: scikit-image or scipy is not installed; a setting is out of range.
    """

    name = "classical"
    coarse = True

    def __init__(self, regions: int = 200, centre: float = 0.6):
        demand("masks", "the proposer classical", "skimage", "scipy")
        if regions < 2:
            raise InputError(f"regions is {regions}; give at least 2 (about 200 do well)")
        if centre < 0:
            raise InputError(f"centre is {centre}; give a width above 0, or 0 for no preference")
        self.regions, self.centre = regions, centre

    @property
    def key(self) -> Mapping[str, object]:
        return {"regions": self.regions, "centre": self.centre}

    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        return [self._propose(request.picture) for request in requests]

    def _propose(self, picture: Image.Image) -> Proposal:
        heat = self.heat(picture)
        mask = heat > otsu(heat)
        return Proposal(mask, contrast(heat, mask), heat)

    def heat(self, picture: Image.Image) -> Heat:
        """Return the saliency of each pixel, from 0 to 1, at the picture's size."""
        small = picture.resize(small_size(picture.size, SHORT, LONG), Image.Resampling.BOX)
        return resized(saliency(np.asarray(small), self.regions, self.centre or None), picture.size)
