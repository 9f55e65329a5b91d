"""Cleans up the masks of all proposers in the same way."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from foveate.foreground.grabcut import NoSeeds, grabcut
from foveate.foreground.proposers.base import Mask, Proposal
from foveate.foreground.proposers.registry import demand


@dataclass(frozen=True)
class TidyConfig:
    """Settings of the clean-up of a proposed mask.

    Attributes:
        opening: Radius of the opening in pixels: thinner parts than twice this width are removed; 0
            removes none.
        keep: Components smaller than this share of the largest are removed.
        least: Minimum foreground share of a usable mask.
        most: Maximum foreground share of a usable mask.
        refine: "grabcut" refines by the picture's colours if there is a heat map. "auto" also requires a
            coarse proposer. "none" never refines, and needs no OpenCV.
    """

    opening: int = 1
    keep: float = 0.15
    least: float = 0.02
    most: float = 0.95
    refine: Literal["auto", "grabcut", "none"] = "auto"


@dataclass(frozen=True)
class Tidied:
    """A usable mask.

    Attributes:
        mask: The foreground; never empty.
        score: The proposer's score; 0 if its answer was not usable.
        area: Foreground share of the picture.
        fallback: Whether the mask is the whole picture because no answer was usable. Methods that weight
            foregrounds learn to ignore such a picture.
        refined: Whether the mask was refined by the picture's colours.
    """

    mask: Mask
    score: float
    area: float
    fallback: bool
    refined: bool


def tidy(
    picture: Image.Image, proposal: Proposal, *, coarse: bool, config: TidyConfig | None = None
) -> Tidied:
    """Refine and clean a proposed mask; if its area is then out of range, use a fallback.

    The first fallback is the mask before refinement, the second is the whole picture.

    Args:
        picture: Upright, of mode "RGB".
        proposal: The proposer's answer.
        coarse: Whether its proposer is coarse.
        config: Settings; None uses the defaults.

    Raises:
        ValueError: The mask has another size than the picture.
        InputError: scipy is not installed, or OpenCV is needed and not installed.
    """
    config = config or TidyConfig()
    if proposal.mask.shape != (picture.height, picture.width):
        raise ValueError(f"a mask of shape {proposal.mask.shape} for a picture of size {picture.size}")
    refined = _refine(picture, proposal, coarse, config)
    for mask in (refined, proposal.mask):
        if mask is None:
            continue
        cleaned = clean(mask, config.opening, config.keep)
        area = float(cleaned.mean())
        if config.least <= area <= config.most and cleaned.any():
            return Tidied(cleaned, proposal.score, area, fallback=False, refined=mask is refined)
    return Tidied(np.ones_like(proposal.mask), 0.0, 1.0, fallback=True, refined=False)


def clean(mask: Mask, opening: int = 1, keep: float = 0.15) -> Mask:
    """Open a mask, fill its holes, and drop its small components.

    Args:
        mask: Any mask; it may be empty.
        opening: Number of pixels of the erosion and the following dilation.
        keep: Components smaller than this share of the largest are dropped.

    Raises:
        InputError: scipy is not installed.
    """
    demand("masks", "tidying masks", "scipy")
    from scipy import ndimage

    if opening:
        # Pixels beyond the border are treated like the border: an object that the picture cuts off is
        # not thin there.
        padded = np.pad(mask, opening, mode="edge")
        padded = ndimage.binary_opening(padded, np.ones((3, 3)), iterations=opening)  # a square keeps corners
        mask = padded[opening:-opening, opening:-opening]
    label: Any = ndimage.label
    outside, _ = label(np.pad(~mask, 1, constant_values=True))
    mask = (outside != outside[0, 0])[1:-1, 1:-1]
    components, count = label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0  # the background
    return (sizes >= keep * sizes.max())[components] & mask


def _refine(picture: Image.Image, proposal: Proposal, coarse: bool, config: TidyConfig) -> Mask | None:
    if proposal.heat is None or config.refine == "none" or (config.refine == "auto" and not coarse):
        return None
    try:
        return grabcut(picture, proposal.heat)
    except NoSeeds:
        return None
