"""Finds the foreground without trained weights: saliency, then a cut along the colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image

from foveate.errors import InputError
from foveate.foreground.cleanup import contrast, otsu, resized, small_size, stretch
from foveate.foreground.proposers.base import Heat, Proposal, Proposer, Request
from foveate.foreground.proposers.registry import demand

SHORT, LONG = 320, 1280
"""Maximum shorter and longer side of the analysed copy, in pixels."""


class Classical(Proposer):
    """Masks by saliency; they are coarse, so the clean-up refines them by GrabCut.

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


# Salient regions: unlike the rest of the picture, and with little contact to its border.
#
# Source: Zhu, Liang, Wei, Sun, "Saliency Optimization from Robust Background Detection", CVPR 2014.
#     Background touches the border along much of its own extent; an object cut off by the border touches
#     it along little. Regions are superpixels (Achanta et al., "SLIC Superpixels", 2012).


Colours = UInt8[np.ndarray, "height width 3"]
Labels = Int64[np.ndarray, "height width"]
PerRegion = Float[np.ndarray, "regions"]
Between = Float[np.ndarray, "regions regions"]
BorderRegions = Bool[np.ndarray, "regions"]
Links = Bool[np.ndarray, "regions regions"]

COMPACTNESS = 15.0
SAME_COLOUR = 3.0
"""Lab distance between neighbours that counts as zero: shading and texture."""

COLOUR_REACH, PLACE_REACH = 10.0, 0.4
"""Standard deviations of the Gaussians on Lab distance, and on distance as a share of the picture."""

BACKGROUND_WEIGHT = 5.0
LEAST_LINK = 0.1
"""Minimum link weight between neighbours of any colours."""


@dataclass(frozen=True)
class Regions:
    """Superpixels of a picture.

    Attributes:
        labels: Region of each pixel, [H, W].
        colour: Mean Lab colour, [R, 3].
        position: Mean row and column as a share of the picture, [R, 2].
        border: Whether a region touches the picture's border, [R].
        touching: Whether two regions are neighbours, [R, R].
    """

    labels: Labels
    colour: Float[np.ndarray, "regions 3"]
    position: Float[np.ndarray, "regions 2"]
    border: BorderRegions
    touching: Links


def saliency(colours: Colours, number: int = 200, centre: float | None = 0.6) -> Heat:
    """Return the saliency of each pixel, in [0, 1]; zeros if nothing is salient.

    Args:
        colours: The picture.
        number: Approximate number of regions.
        centre: Width of a Gaussian weight around the picture's middle, as a share of its sides. None
            gives all positions equal weight.
    """
    regions = find_regions(colours, number)
    colour_distance = _distances(regions.colour)
    background = background_probability(regions, colour_distance)
    proximity = np.exp(-(_distances(regions.position) ** 2) / (2 * PLACE_REACH**2))
    contrast = stretch((colour_distance * proximity) @ background)
    salient = smooth(contrast, background, regions, colour_distance)
    if centre is not None:
        salient = salient * np.exp(-(((regions.position - 0.5) / centre) ** 2).sum(axis=1))
    # Multithreaded linear algebra differs in the last bits, and a later threshold would change pixels.
    return np.round(stretch(salient), 5)[regions.labels].astype(np.float32)


def find_regions(colours: Colours, number: int) -> Regions:
    """Segment a picture into about this many superpixels."""
    from skimage.color import rgb2lab
    from skimage.segmentation import slic

    lab = rgb2lab(colours)
    labels = slic(colours, n_segments=number, compactness=COMPACTNESS, start_label=0)
    _, labels = np.unique(labels, return_inverse=True)
    labels = labels.reshape(lab.shape[:2])
    count = int(labels.max()) + 1
    height, width = labels.shape
    row, column = np.mgrid[0:height, 0:width] + 0.5
    edge_labels = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    touching = np.zeros((count, count), dtype=bool)
    touching[labels[1:], labels[:-1]] = True
    touching[labels[:, 1:], labels[:, :-1]] = True
    np.fill_diagonal(touching, False)
    return Regions(
        labels,
        _means(labels, *np.moveaxis(lab, -1, 0)),
        _means(labels, row / height, column / width),
        np.isin(np.arange(count), edge_labels),
        touching | touching.T,
    )


def background_probability(regions: Regions, apart: Between) -> PerRegion:
    """Return the background probability of each region, from its boundary connectivity.

    The soft area of a region counts all regions on paths without a colour jump. The soft border length
    counts those of them at the border. Background has a long border for its area.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    border = regions.border
    links = np.triu(regions.touching | np.outer(border, border), 1)  # all border regions are linked directly
    start, end = np.nonzero(links)
    # scipy treats a zero length as no link.
    steps = np.maximum(apart[start, end] - SAME_COLOUR, 0) + 1e-6
    geodesic = dijkstra(coo_array((steps, (start, end)), shape=links.shape), directed=False)
    similarity = np.exp(-(geodesic**2) / (2 * COLOUR_REACH**2))
    connectivity = similarity[:, border].sum(axis=1) / np.sqrt(similarity.sum(axis=1))
    return 1 - np.exp(-(connectivity**2) / 2)


def smooth(unlike: PerRegion, background: PerRegion, regions: Regions, apart: Between) -> PerRegion:
    """Compute saliencies near 1 for regions unlike their surroundings, near 0 for background.

    Neighbours, neighbours of neighbours, and border regions are linked with a weight that depends on
    colour similarity. The least-squares problem has a closed solution.
    """
    neighbours = regions.touching
    linked = (
        neighbours
        | (neighbours.astype(np.float64) @ neighbours > 0)
        | np.outer(regions.border, regions.border)
    )
    link_weights = np.where(linked, np.exp(-(apart**2) / (2 * COLOUR_REACH**2)) + LEAST_LINK, 0.0)
    np.fill_diagonal(link_weights, 0)
    laplacian = np.diag(link_weights.sum(axis=1)) - link_weights
    # 1e-6 keeps the system solvable if all other weights are 0.
    weights = BACKGROUND_WEIGHT * background + unlike + 1e-6
    return np.linalg.solve(np.diag(weights) + laplacian, unlike)


def _means(labels: Labels, *values: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "regions values"]:
    flat = labels.ravel()
    counts = np.bincount(flat)
    return np.stack([np.bincount(flat, channel.ravel()) / counts for channel in values], axis=1)


def _distances(points: Float[np.ndarray, "regions axes"]) -> Between:
    return np.linalg.norm(points[:, None] - points[None], axis=-1)
