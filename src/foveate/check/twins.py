"""Pictures that are there twice: resized, compressed again, cropped a little, or mirrored."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

COARSE = 16
"""Side of the colours by which pairs are looked for, and which need not fit by a pixel."""

CANDIDATE = 0.80
"""Least correlation of the coarse colours of two pictures that are compared further."""

SAME, SAME_CROPPED = 0.975, 0.95
"""Least correlation of coarse colours as they are; of fine ones, one picture cropped like the other."""

SEEN_ALIKE, SEEN_ALIKE_CROPPED = 0.55, 0.70
"""Least cosine of the features then."""

FITS = 0.45
"""Whatever the features: how far the worst 64th of the fine colours may be off, in standard deviations."""

NEAREST = 5
"""Of one picture, so many are compared further at most: the most alike."""

_CHUNK, _PAIRS, _BLOCK = 1024, 16, 8
_AXIS = [(0.0, 1.0), *((place * (1 - size) / 2, size) for size in (0.95, 0.9) for place in range(3))]
_WINDOWS = [(x, y) for x in _AXIS for y in _AXIS if 1.0 in (x[1], y[1]) or x[1] == y[1]]
"""Crops as (left, width) and (top, height), in shares of the picture: up to a tenth cut off."""


def twins(
    thumbnails: UInt8[Tensor, "pictures 3 side side"], features: Float[Tensor, "pictures dim"]
) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of places of the same picture, the earlier first, and how alike their pixels are.

    Pixels and features must agree: pixels alone take two things before one wall for the same, features
    alone two photos of one thing. Pixels that agree in every part need no features, which a smaller size may
    change.

    Args:
        thumbnails: Of each picture; see `foveate.check.pixels.Look`.
        features: Raw features of a frozen image tower.
    """
    unit = F.normalize(features.float(), dim=-1)
    plain = _coarse(thumbnails)
    mirrored = plain.unflatten(1, (3, COARSE, COARSE)).flip(-1).flatten(1)
    grids = _grids(thumbnails.shape[-1])
    for start in range(0, len(plain), _CHUNK):
        rows = slice(start, start + _CHUNK)
        as_is, turned = plain[rows] @ plain.T, mirrored[rows] @ plain.T
        coarse = torch.maximum(as_is, turned)
        later = torch.where(coarse >= CANDIDATE, coarse, 0).triu(diagonal=start + 1)
        likeliest = later.topk(min(NEAREST, len(plain)), dim=1)
        low, column = likeliest.values.nonzero().T
        high = likeliest.indices[low, column]
        for some in torch.arange(len(low)).split(_PAIRS):
            one, other = low[some], high[some]
            first = thumbnails[start + one]
            flip = (turned > as_is)[one, other]
            first = torch.where(flip[:, None, None, None], first.flip(-1), first)
            fine, off = _fit(first.float(), thumbnails[other].float(), grids)
            pixels, seen = coarse[one, other], (unit[start + one] * unit[other]).sum(dim=1)
            cropped = (fine >= SAME_CROPPED) & ((seen >= SEEN_ALIKE_CROPPED) | (off <= FITS))
            found = ((pixels >= SAME) & (seen >= SEEN_ALIKE)) | cropped
            alike = torch.maximum(pixels, fine)
            yield from zip(
                (start + one[found]).tolist(), other[found].tolist(), alike[found].tolist(), strict=True
            )


def _coarse(thumbnails: UInt8[Tensor, "pictures 3 side side"]) -> Float[Tensor, "pictures numbers"]:
    """Return the coarse colours as unit vectors without mean."""
    parts = [F.adaptive_avg_pool2d(part.float(), COARSE) for part in thumbnails.split(_CHUNK)]
    colours = torch.cat(parts).flatten(1)
    return F.normalize(colours - colours.mean(dim=1, keepdim=True), dim=1, eps=1e-6)


def _fit(
    one: Float[Tensor, "pairs 3 side side"],
    other: Float[Tensor, "pairs 3 side side"],
    grids: Float[Tensor, "windows side side 2"],
) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """Return how well pictures fit, whichever of the two was cropped, and the worst part of the best fit.

    Returns:
        The highest correlation over all crops, and there the root mean square of the difference in the worst
        block, in standard deviations of the picture.
    """
    whole, cropped = torch.cat([one, other]), torch.cat([other, one])
    spread = whole.repeat_interleave(len(grids), dim=0)
    crops = F.grid_sample(
        spread, grids.repeat(len(whole), 1, 1, 1), padding_mode="border", align_corners=False
    )
    crops = crops.unflatten(0, (len(whole), len(grids)))
    crops = crops - crops.mean(dim=(2, 3, 4), keepdim=True)
    target = cropped - cropped.mean(dim=(1, 2, 3), keepdim=True)
    correlation = F.cosine_similarity(crops.flatten(2), target.flatten(1)[:, None], dim=2, eps=1e-6)
    fine, place = correlation.max(dim=1)
    wrong = (crops[torch.arange(len(whole)), place] - target).square().mean(dim=1, keepdim=True)
    worst = F.adaptive_avg_pool2d(wrong, _BLOCK).amax(dim=(1, 2, 3)).sqrt()
    off = worst / target.square().mean(dim=(1, 2, 3)).sqrt().clamp(min=1)
    best, turn = fine.view(2, -1).max(dim=0)
    return best, off.view(2, -1).gather(0, turn[None])[0]


def _grids(side: int) -> Float[Tensor, "windows side side 2"]:
    """Return where each window looks, as `grid_sample` takes it: in [-1, 1], x first."""
    steps = (torch.arange(side) + 0.5) / side
    found = list[Tensor]()
    for (left, width), (top, height) in _WINDOWS:
        y, x = torch.meshgrid(top + height * steps, left + width * steps, indexing="ij")
        found.append(torch.stack([x, y], dim=-1) * 2 - 1)
    return torch.stack(found)


def first_of(pairs: list[tuple[int, int, float]], number: int) -> list[int]:
    """Return for each picture the first one that it is the same as, along chains of pairs; else itself."""
    above = list(range(number))  # an earlier one of the same chain; the first of a chain is its own

    def first(place: int) -> int:
        while above[place] != place:
            above[place] = above[above[place]]
            place = above[place]
        return place

    for one, other, _ in pairs:
        low, high = sorted((first(one), first(other)))
        above[high] = low
    return [first(place) for place in range(number)]
