"""`foveate sweep --dry-run`: list the runs and estimate time and disk space."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foveate.commands.screen import note, print_table
from foveate.sweep.estimate import Estimator, JobCost, rates_from
from foveate.sweep.jobs import Job
from foveate.sweep.plan import SweepPlan, standing
from foveate.sweep.results import read_result


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
