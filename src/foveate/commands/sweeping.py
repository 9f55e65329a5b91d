"""What a person sees of a sweep: a bar of all runs, and one for what each worker is at."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from foveate.sweep.events import Died, Event, Failed, Finished
from foveate.sweep.events import Progress as AtWork


class Board:
    """Bars on the error stream, silent where that is no terminal; failures are told everywhere.

    Args:
        total: Runs there are.
        finished: Of them before.
    """

    def __init__(self, total: int, finished: int) -> None:
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

    def __enter__(self) -> "Board":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, message: str) -> None:
        """Say something beside the bars."""
        self._progress.console.print(f"note: {message}", soft_wrap=True, markup=False)

    def show(self, event: Event) -> None:
        """Show what has happened."""
        if isinstance(event, AtWork):
            self._at_work(event)
        elif isinstance(event, Finished):
            self._progress.advance(self._all)
            for one in event.done.notes:
                self.note(one)
        elif isinstance(event, Failed):
            self._progress.advance(self._all, 1 + len(event.lost))
            self.note(f"{event.job.key} failed: {event.line}")
        else:
            assert isinstance(event, Died)
            self.note(f"a worker died at {event.job.key}, which is tried again")

    def count(self, what: str, done: int, total: int) -> None:
        """Move the bar of work before the runs."""
        if -1 not in self._lanes:
            self._lanes[-1] = self._progress.add_task(what, total=total)
        self._progress.update(self._lanes[-1], completed=done, total=total, visible=done < total)

    def _at_work(self, event: AtWork) -> None:
        if event.lane not in self._lanes:
            self._lanes[event.lane] = self._progress.add_task("", total=None)
        said = f"{event.job.key}: {event.what}"
        self._progress.update(
            self._lanes[event.lane], description=said, completed=event.done, total=event.total
        )
