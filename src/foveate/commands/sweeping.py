"""Progress bars of a sweep: one of all runs, and one of each worker's current work."""

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from foveate.errors import printable
from foveate.sweep.events import Died, Event, Failed, Finished, LaneProgress


class SweepBars:
    """Progress bars on stderr, hidden if it is no terminal; failures are always printed.

    Args:
        total: Number of runs.
        finished: Number of runs that were finished before.
        work: Expected work of each other run by key, in any unit; used for the remaining time.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        total: int,
        finished: int,
        work: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = dict(work or {})
        self._total_work, self._clock = sum(self._work.values()), clock
        self._begun: float | None = None  # runs start after the sets have been drawn
        self._console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        quiet = not self._console.is_terminal
        self._progress = Progress(*columns, console=self._console, transient=True, disable=quiet)
        self._all = self._progress.add_task("runs", total=total, completed=finished)
        self._lanes: dict[int, TaskID] = {}
        self._noted: set[str] = set()

    def __enter__(self) -> "SweepBars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, message: str) -> None:
        """Print a note without breaking the bars."""
        self._console.print(f"note: {printable(message)}", soft_wrap=True, markup=False)

    def show(self, event: Event) -> None:
        """Show an event."""
        if self._begun is None:
            self._begun = self._clock()
        if isinstance(event, LaneProgress):
            self._show_lane(event)
        elif isinstance(event, Finished):
            self._ended(event.job.key)
            for message in event.done.notes:
                if message not in self._noted:  # hundreds of runs may give the same note
                    self._noted.add(message)
                    self.note(message)
        elif isinstance(event, Failed):
            self._ended(event.job.key, *event.lost)
            self.note(f"{event.job.key} failed: {event.line}")
        else:
            assert isinstance(event, Died)
            self.note(f"a worker died at {event.job.key}, which is tried again")

    def _ended(self, *keys: str) -> None:
        for key in keys:
            self._work.pop(key, None)
        self._progress.update(self._all, advance=len(keys), description=f"runs{self.left()}")

    def left(self) -> str:
        """Return the remaining time in words; an empty string until a fiftieth of the work is done."""
        remaining = sum(self._work.values())
        done = self._total_work - remaining
        if self._begun is None or done < self._total_work / 50 or not remaining:
            return ""
        minutes = (self._clock() - self._begun) * remaining / done / 60
        return (
            f", about {minutes / 60:.1f} h left"
            if minutes > 90
            else f", about {max(1, round(minutes))} min left"
        )

    def count(self, what: str, done: int, total: int) -> None:
        """Update the bar of the preparation."""
        if -1 not in self._lanes:
            self._lanes[-1] = self._progress.add_task(what, total=total)
        self._progress.update(self._lanes[-1], completed=done, total=total, visible=done < total)

    def _show_lane(self, event: LaneProgress) -> None:
        if event.lane not in self._lanes:
            self._lanes[event.lane] = self._progress.add_task("", total=None)
        description = f"{event.job.key}: {event.what}"
        self._progress.update(
            self._lanes[event.lane], description=description, completed=event.done, total=event.total
        )
