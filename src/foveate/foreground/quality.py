"""Statistics of a set of masks: areas, failures, and the effect of random crops."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from foveate.errors import InputError
from foveate.foreground.proposers.base import Mask
from foveate.foreground.records import MaskRecord
from foveate.foreground.store import stored_masks

LEAST, MOST = 0.02, 0.95  # masks with areas outside this range carry almost no information
BINS = 10  # number of bins of the histogram of areas
WORST = 20
_SCALE = (0.08, 1.0)  # as in torchvision's RandomResizedCrop and in foveate's training views
_RATIO = (math.log(3 / 4), math.log(4 / 3))
_TRIES = 10
Boxes = np.ndarray  # [number, 4] of left, upper, right, lower


@dataclass(frozen=True)
class Quality:
    """Statistics of a set of masks.

    Attributes:
        masks: Number of masks.
        fallback: Number of masks that are the whole picture because nothing usable was found.
        empty: Number of other masks with an area below `LEAST`.
        full: Number of other masks with an area above `MOST`.
        areas: Number of masks, without fallbacks, with an area in [0, 0.1), [0.1, 0.2) and so on.
        area: Mean area without fallbacks; NaN if all are fallbacks.
        score: Mean score of the same masks.
        cut_away: Share of random crops of all pictures in which the foreground's area is below `LEAST`.
        crops: Number of these crops.
        worst: The records with the lowest score; of equal scores, of the smallest area.
    """

    masks: int
    fallback: int
    empty: int
    full: int
    areas: tuple[int, ...]
    area: float
    score: float
    cut_away: float
    crops: int
    worst: tuple[MaskRecord, ...]

    def rows(self, worst: int = 5) -> list[list[str]]:
        """Return the statistics as rows of two columns, with this many of the worst masks."""
        rows = [
            ["masks", str(self.masks)],
            ["nothing found, whole picture", self._share(self.fallback)],
            [f"nearly empty, below {LEAST:.0%}", self._share(self.empty)],
            [f"nearly full, above {MOST:.0%}", self._share(self.full)],
            ["mean area of the others than fallbacks", _number(self.area)],
            ["mean score of the others than fallbacks", _number(self.score)],
            ["random crops that lose the foreground", f"{self.cut_away:.1%} of {self.crops}"],
        ]
        rows += [[f"area {span}", str(count)] for span, count in zip(spans(), self.areas, strict=True)]
        for record in self.worst[:worst]:
            rows.append(
                [f"worst: {record.name}", score_and_area(record) + ", nothing found" * record.fallback]
            )
        return rows

    def as_json(self) -> dict[str, object]:
        """Return the statistics as JSON values; NaN becomes null."""
        return {
            "masks": self.masks,
            "fallback": self.fallback,
            "empty": self.empty,
            "full": self.full,
            "areas": list(self.areas),
            "area": None if math.isnan(self.area) else self.area,
            "score": None if math.isnan(self.score) else self.score,
            "cut_away": self.cut_away,
            "crops": self.crops,
            "worst": [
                {"name": record.name, "score": record.score, "area": record.area, "fallback": record.fallback}
                for record in self.worst
            ],
        }

    def _share(self, count: int) -> str:
        return f"{count} ({count / self.masks:.1%})"


def quality(records: Sequence[MaskRecord], folder: Path, *, seed: int = 0, crops: int = 10) -> Quality:
    """Compute the statistics of a set; every mask is read.

    Args:
        records: Records of the masks.
        folder: Folder of the masks, as a tree or packed.
        seed: Seed of the crops. The crops of a mask depend only on its name and the seed.
        crops: Number of crops for each picture.

    Raises:
        InputError: There are no records; a mask is missing or cannot be read.
    """
    if not records:
        raise InputError(f"{folder}: there are no masks to look at")
    stored = stored_masks(folder) or {}
    lost_crops = 0
    for record in records:
        if record.name not in stored:
            raise InputError(f"{folder}: the mask of {record.name} is not there; make the masks again")
        mask = np.asarray(stored[record.name].load().convert("L")) >= 128
        generator = np.random.default_rng([seed, crc32(record.name.encode(errors="surrogateescape"))])
        lost_crops += int((areas_within(mask, random_boxes(mask.shape, crops, generator)) < LEAST).sum())
    usable = [entry for entry in records if not entry.fallback]
    bins = np.bincount([min(int(entry.area * BINS), BINS - 1) for entry in usable], minlength=BINS)
    return Quality(
        masks=len(records),
        fallback=len(records) - len(usable),
        empty=sum(entry.area < LEAST for entry in usable),
        full=sum(entry.area > MOST for entry in usable),
        areas=tuple(int(count) for count in bins),
        area=_mean([entry.area for entry in usable]),
        score=_mean([entry.score for entry in usable]),
        cut_away=lost_crops / (crops * len(records)),
        crops=crops * len(records),
        worst=tuple(worst_first(records)[:WORST]),
    )


def worst_first(records: Sequence[MaskRecord]) -> list[MaskRecord]:
    """Return the records sorted by score, then area, then name."""
    return sorted(records, key=lambda record: (record.score, record.area, record.name))


def score_and_area(record: MaskRecord) -> str:
    """Return the numbers of one mask as text: "score 0.31, area 0.22"."""
    return f"score {record.score:.2f}, area {record.area:.2f}"


def spans() -> list[str]:
    """Return the names of the histogram's bins: "0.0 to 0.1"."""
    return [f"{index / BINS:.1f} to {(index + 1) / BINS:.1f}" for index in range(BINS)]


def areas_within(mask: Mask, boxes: Boxes) -> np.ndarray:
    """Return the foreground share of each box, from one cumulative sum of the mask."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.uint32)
    np.cumsum(np.cumsum(mask, 0, np.uint32), 1, np.uint32, out=sums[1:, 1:])
    left, upper, right, lower = boxes.T
    inside = (sums[lower, right] - sums[upper, right]) - (
        sums[lower, left] - sums[upper, left]
    )  # no underflow
    return inside / ((right - left) * (lower - upper))


def random_boxes(size: tuple[int, ...], number: int, generator: np.random.Generator) -> Boxes:
    """Draw boxes as random resized crops do: area 0.08 to 1, aspect ratio 3:4 to 4:3.

    Args:
        size: Height and width of the picture.
        number: Number of boxes.
        generator: Random generator.
    """
    height, width = size
    area = height * width * generator.uniform(*_SCALE, (number, _TRIES))
    ratio = np.exp(generator.uniform(*_RATIO, (number, _TRIES)))
    box_width, box_height = (
        np.rint(np.sqrt(area * ratio)).astype(int),
        np.rint(np.sqrt(area / ratio)).astype(int),
    )
    fits = (box_width > 0) & (box_width <= width) & (box_height > 0) & (box_height <= height)
    first, rows = fits.argmax(1), np.arange(number)
    box_width, box_height = box_width[rows, first], box_height[rows, first]
    left, upper = (
        generator.integers(0, np.maximum(room, 0) + 1) for room in (width - box_width, height - box_height)
    )
    boxes = np.stack([left, upper, left + box_width, upper + box_height], 1)
    boxes[~fits.any(1)] = _middle(height, width)
    return boxes


def _middle(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the largest central box with an allowed aspect ratio: the fallback for very long pictures."""
    box_width = min(width, round(height * 4 / 3))
    box_height = min(height, round(width * 4 / 3))
    left, upper = (width - box_width) // 2, (height - box_height) // 2
    return left, upper, left + box_width, upper + box_height


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"
