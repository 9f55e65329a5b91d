"""Measures the speed of repeated work: after a warm-up, in several time windows."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

WARM = 2
"""Minimum number of work items in the warm-up, which also lasts at least one window."""


@dataclass(frozen=True)
class Speed:
    """Speed in pictures per second.

    Attributes:
        typical: Median over the windows.
        least: Speed in the slowest window.
        most: Speed in the fastest window.
    """

    typical: float
    least: float
    most: float


class Windows:
    """Counts work until the windows are full.

    Args:
        number: Number of windows after the warm-up.
        seconds: Minimum duration of a window; each window has at least one complete work item.
        settle: Waits for the device to finish; the clock is read after it.
        clock: Returns seconds from any start.
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
        """Start a window now; time since the last work item is not counted."""
        self._settle()
        self._pieces = self._pictures = 0
        self._start = self._clock()

    def count(self, pictures: int) -> None:
        """Count one finished work item."""
        self._pieces, self._pictures = self._pieces + 1, self._pictures + pictures
        if self._clock() - self._start < self._seconds or (not self._warmed and self._pieces < WARM):
            return
        self._settle()
        if self._warmed:
            self._rates.append(self._pictures / (self._clock() - self._start))
        self._warmed = True
        self.begin()

    def speed(self) -> Speed:
        """Return the speed over the windows.

        Raises:
            ValueError: No window is full.
        """
        return _speed(self._rates)


def _speed(rates: Sequence[float]) -> Speed:
    if not rates:
        raise ValueError("no window is full")
    return Speed(median(rates), min(rates), max(rates))
