"""The foreground without any trained weights: what stands out, then a cut along the colours."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.foreground.heatmaps import contrast, otsu, resized, small_size
from foveate.foreground.proposers.base import Heat, Proposal, Proposer, Request
from foveate.foreground.proposers.registry import demand
from foveate.foreground.saliency import saliency

SHORT, LONG = 320, 1280
"""Pixels that the copy looked at has at most along its shorter and its longer side."""


class Classical(Proposer):
    """Masks by `foveate.foreground.saliency`; being coarse, they are refined by GrabCut as they are tidied.

    The score is the saliency's mean inside the mask minus its mean outside. Nothing random is drawn.

    Args:
        regions: About how many superpixels a picture is cut into.
        centre: How strongly the middle of the picture is preferred: the width of a Gaussian, as a share of
            the picture's sides. 0 prefers no place.

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
        """Return how much each pixel stands out, from 0 to 1, at the picture's size."""
        small = picture.resize(small_size(picture.size, SHORT, LONG), Image.Resampling.BOX)
        return resized(saliency(np.asarray(small), self.regions, self.centre or None), picture.size)
