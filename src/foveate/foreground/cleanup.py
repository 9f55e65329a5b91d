"""One clean-up for the masks of every proposer, so that proposers differ in what they see alone."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from foveate.foreground.grabcut import NoSeeds, grabcut
from foveate.foreground.proposers.base import Mask, Proposal
from foveate.foreground.proposers.registry import demand


@dataclass(frozen=True)
class TidyConfig:
    """What is done to a proposed mask.

    Attributes:
        opening: Pixels: what is thinner than twice as much goes; 0 leaves all.
        keep: Components smaller than this share of the largest go.
        least: A mask with a smaller share of the picture is no answer.
        most: Nor is one with a larger share.
        refine: "grabcut" cuts along the picture's colours wherever there is a heat map; "auto" does where the
            proposer is coarse besides; "none" never does, and needs no OpenCV.
    """

    opening: int = 1
    keep: float = 0.15
    least: float = 0.02
    most: float = 0.95
    refine: Literal["auto", "grabcut", "none"] = "auto"


@dataclass(frozen=True)
class Tidied:
    """A mask that can be used.

    Attributes:
        mask: The foreground; never empty.
        score: The proposer's score; 0 where its answer could not be used.
        area: Share of the picture that is foreground.
        fallback: Whether the mask is the whole picture because there was no usable answer. A method that
            weighs foregrounds learns to pass over such a picture.
        refined: Whether the mask is the one cut along the picture's colours.
    """

    mask: Mask
    score: float
    area: float
    fallback: bool
    refined: bool


def tidy(
    picture: Image.Image, proposal: Proposal, *, coarse: bool, config: TidyConfig | None = None
) -> Tidied:
    """Refine and clean a proposed mask; where too little or too much is left of it, take the next best.

    That is the mask before the refinement, and after it the whole picture.

    Args:
        picture: Upright, of mode "RGB".
        proposal: The answer about it.
        coarse: Whether its proposer is coarse.
        config: What to do; the defaults without.

    Raises:
        ValueError: The mask is not of the picture's size.
        InputError: scipy is not installed, or OpenCV where it is needed.
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
        mask: Any mask, also an empty one.
        opening: Pixels by which it is shrunk and grown again.
        keep: Components smaller than this share of the largest are dropped.

    Raises:
        InputError: scipy is not installed.
    """
    demand("masks", "tidying masks", "scipy")
    from scipy import ndimage

    if opening:
        # What lies beyond the border is taken to be like the border: an object that the picture cuts off
        # is not thin there.
        wide = np.pad(mask, opening, mode="edge")
        wide = ndimage.binary_opening(wide, np.ones((3, 3)), iterations=opening)  # a square keeps corners
        mask = wide[opening:-opening, opening:-opening]
    label: Any = ndimage.label
    outside, _ = label(np.pad(~mask, 1, constant_values=True))
    mask = (outside != outside[0, 0])[1:-1, 1:-1]
    parts, number = label(mask)
    if number < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0  # the background
    return (sizes >= keep * sizes.max())[parts] & mask


def _refine(picture: Image.Image, proposal: Proposal, coarse: bool, config: TidyConfig) -> Mask | None:
    if proposal.heat is None or config.refine == "none" or (config.refine == "auto" and not coarse):
        return None
    try:
        return grabcut(picture, proposal.heat)
    except NoSeeds:
        return None
