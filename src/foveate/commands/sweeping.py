"""Progress bars of a sweep: of all runs and of each worker's work; and the estimate of `--dry-run`."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from foveate.commands.screen import note, print_table
from foveate.errors import printable
from foveate.sweep.estimate import Estimator, JobCost, rates_from
from foveate.sweep.jobs import Job
from foveate.sweep.plan import SweepPlan, standing
from foveate.sweep.results import read_result
from foveate.sweep.schedule import Died, Event, Failed, Finished, LaneProgress


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


# `foveate sweep --dry-run`: list the runs and estimate time and disk space.


def show(planned: SweepPlan, folder: Path, workers: int, *, as_json: bool) -> None:
    """Print all runs, their state, and an estimate of time and disk space for the unfinished ones.

    Args:
        planned: All runs.
        folder: Folder of the sweep; it does not change.
        workers: Number of parallel runs.
        as_json: Whether to print JSON.
    """
    status = standing(planned.jobs, folder, tidy=False)
    for message in status.notes:
        note(message)
    jobs = {job.key: job for job in planned.jobs}
    results = [result for job in status.finished if (result := read_result(folder / job.key)) is not None]
    estimator = Estimator(rates_from(results, jobs))
    costs = {job.key: estimator.cost(job) for job in status.left}
    total = _total(planned, costs, workers)
    if as_json:
        rows = [_entry(job, costs.get(job.key)) for job in planned.jobs]
        sys.stdout.write(json.dumps({**total, "jobs": rows}, indent=1) + "\n")
        return
    print_table(["run", "", "minutes"], [_line(job, costs.get(job.key)) for job in planned.jobs])
    print_table(["", ""], [[name, value] for name, value in _said(total)])


def _total(planned: SweepPlan, costs: dict[str, JobCost], workers: int) -> dict[str, Any]:
    seconds = sum(cost.seconds for cost in costs.values())
    return {
        "runs": len(planned.jobs),
        "done": len(planned.jobs) - len(costs),
        "left": len(costs),
        "seconds": round(seconds),
        "workers": workers,
        "seconds_with_workers": round(seconds / workers),
        "disk_mb": round(sum(cost.disk for cost in costs.values()) / 1e6),
        "rates_from": sorted({costs[job.key].source for job in planned.jobs if _needs_training(job, costs)}),
    }


def _needs_training(job: Job, costs: dict[str, JobCost]) -> bool:
    return job.key in costs and job.copies is None


def _entry(job: Job, cost: JobCost | None) -> dict[str, Any]:
    return {
        "key": job.key,
        "protocol": job.protocol,
        "row": job.row,
        "dataset": job.dataset,
        "seed": job.seed,
        "method": job.config.method,
        "recipe": job.recipe,
        "stands_on": job.needs,
        "same_run_as": job.copies,
        "asks": [f"{question.dataset}, {question.split}" for question in job.questions],
        "done": cost is None,
        "seconds": None if cost is None else round(cost.seconds, 1),
        "rates_from": None if cost is None else cost.source,
    }


def _line(job: Job, cost: JobCost | None) -> list[str]:
    if cost is None:
        return [job.key, "done", ""]
    state = "copied" if job.copies else "to do"
    return [job.key, state, f"{cost.seconds / 60:.1f}"]


def _said(total: dict[str, Any]) -> Sequence[tuple[str, str]]:
    summary = [("runs", f"{total['runs']}, {total['done']} done, {total['left']} left")]
    if not total["left"]:
        return summary
    workers = total["workers"]
    return [
        *summary,
        ("time", f"{_hours(total['seconds_with_workers'])} with {workers} worker{'s' * (workers > 1)}"),
        ("disk", f"{total['disk_mb'] / 1000:.1f} GB"),
        ("worked out from", " and ".join(total["rates_from"])),
    ]


def _hours(seconds: int) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' * (minutes > 1)}"
