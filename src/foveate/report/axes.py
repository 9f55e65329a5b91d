"""Scales of charts: from numbers to places in a picture, and where their ticks are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A straight line from numbers to places.

    Attributes:
        low: Number at `start`.
        high: Number at `end`.
        start: Place, in units of the picture.
        end: Likewise.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float | int) -> float:
        """Return where a number is."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round numbers within, three to seven."""
        step = _step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(place * step, 10) for place in range(first, last + 1)]


def scale(values: Iterable[float], start: float, end: float) -> Scale:
    """Return a scale that holds these numbers, with a little air."""
    known = list(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    air = 0.06 * (high - low)
    return Scale(low - air, high + air, start, end)


def _step(width: float) -> float:
    """Return 1, 2, 2.5 or 5 times a power of ten, so that there are three to seven ticks."""
    rough = width / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)


def number_text(value: float | int) -> str:
    """Return a tick's number, as short as it is."""
    return f"{value:.4g}".replace("-", "−")
