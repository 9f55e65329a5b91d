"""How fast equal pieces of work follow one another: after a warm-up, in several windows of time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

WARM = 2
"""Pieces of work that are done before the clock counts, at least; and at least as long as a window."""


@dataclass(frozen=True)
class Speed:
    """Pictures a second.

    Attributes:
        typical: Median over the windows.
        least: Of the slowest window.
        most: Of the fastest.
    """

    typical: float
    least: float
    most: float


class Windows:
    """Counts work until there is enough of it to tell its speed.

    Args:
        number: Windows, after the warm-up.
        seconds: A window is at least so long, and has at least one whole piece of work.
        settle: Waits until the device has done what it was given; the clock is read behind it.
        clock: Seconds, from any beginning.
    """

    def __init__(
        self,
        number: int,
        seconds: float,
        settle: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._number, self._seconds, self._settle, self._clock = number, seconds, settle, clock
        self._rates: list[float] = []
        self._warmed, self._pieces, self._pictures, self._start = False, 0, 0, 0.0
        self.begin()

    @property
    def done(self) -> bool:
        """Whether all windows are full."""
        return len(self._rates) >= self._number

    def begin(self) -> None:
        """Start a window now: what happened since the last piece of work is not counted."""
        self._settle()
        self._pieces = self._pictures = 0
        self._start = self._clock()

    def count(self, pictures: int) -> None:
        """Count one piece of work that has just been done."""
        self._pieces, self._pictures = self._pieces + 1, self._pictures + pictures
        if self._clock() - self._start < self._seconds or (not self._warmed and self._pieces < WARM):
            return
        self._settle()
        if self._warmed:
            self._rates.append(self._pictures / (self._clock() - self._start))
        self._warmed = True
        self.begin()

    def speed(self) -> Speed:
        """Return what the windows say.

        Raises:
            ValueError: No window is full.
        """
        return _speed(self._rates)


def _speed(rates: Sequence[float]) -> Speed:
    if not rates:
        raise ValueError("no window is full")
    return Speed(median(rates), min(rates), max(rates))
