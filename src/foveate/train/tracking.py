"""Trackers of runs: TensorBoard, Weights & Biases and MLflow, each behind one `log(step, values)`.

A tracker is a copy of the run's log, `log.jsonl`, made epoch by epoch. A stopped run that goes on takes lines
of its log back, and so copies them once: what a tracker has, it is not told again.
"""

import json
import os
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from foveate.errors import InputError
from foveate.foreground.proposers.registry import demand
from foveate.train.answered import LOG
from foveate.train.config import TrackerName, digest
from foveate.train.context import Context
from foveate.train.folder import TRACKED
from foveate.train.journal import Step
from foveate.train.reporter import Reporter

PROJECT = "foveate"
"""Of W&B, and the experiment of MLflow."""

_OTHER = ("stage", "epoch", "step")


class Tracker(ABC):
    """A place for the numbers of one run.

    Args:
        folder: Of all trackers of the run; it is there.
        about: The run's settings, by name.
    """

    @abstractmethod
    def __init__(self, folder: Path, about: Mapping[str, Any]):
        """Open it; a run that was tracked before goes on."""

    @abstractmethod
    def last(self) -> Mapping[str, int]:
        """Return the last step of each value that was logged before it was opened."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step; a stage's begin with its name: "coop/loss"."""

    @abstractmethod
    def close(self, *, finished: bool) -> None:
        """End; a run that has not finished can be opened again."""


class TensorBoardTracker(Tracker):
    """Event files in `tensorboard`."""

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        events = import_module("tensorboard.backend.event_processing.event_accumulator")
        writer = import_module("torch.utils.tensorboard").SummaryWriter
        place, self._last = folder / "tensorboard", dict[str, int]()
        if place.is_dir():
            read = events.EventAccumulator(str(place), size_guidance={"scalars": 0})
            read.Reload()
            self._last = {
                name: max(one.step for one in read.Scalars(name)) for name in read.Tags()["scalars"]
            }
        fresh = not place.is_dir()
        self._writer = writer(str(place))
        if fresh:
            rows = "\n".join(f"| {name} | {value} |" for name, value in about.items())
            self._writer.add_text("run", f"| setting | value |\n|---|---|\n{rows}")

    def last(self) -> Mapping[str, int]:
        return self._last

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, finished: bool) -> None:
        self._writer.close()


class WandbTracker(Tracker):
    """A run of W&B, offline: `wandb sync` sends it. Nothing is told of this computer.

    W&B cannot read what it wrote, so a run that goes on is written anew.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read at the import
        wandb = import_module("wandb")
        own = digest({**about, "folder": str(folder.absolute())})[:12]
        for old in (folder / "wandb").glob(f"offline-run-*-{own}"):
            shutil.rmtree(old)
        nothing = {"host": "", "username": "", "email": "", "program": "", "program_relpath": ""}
        without = ("disable_git", "x_disable_meta", "x_disable_stats", "x_disable_machine_info", "silent")
        settings = wandb.Settings(
            **nothing,
            **dict.fromkeys(without, True),
            console="off",
            save_code=False,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=PROJECT, id=own, dir=str(folder), mode="offline", config=dict(about), settings=settings
        )
        self._stages: set[str] = set()

    def last(self) -> Mapping[str, int]:
        return {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        stages = {name.partition("/")[0] for name in values}
        for stage in sorted(stages - self._stages):  # W&B's own steps cannot begin again with a stage
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._stages |= stages
        self._run.log({**values, **{f"{stage}/step": step for stage in stages}})

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MlflowTracker(Tracker):
    """A run of MLflow, in `mlruns`, or where MLFLOW_TRACKING_URI says."""

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        # Read at the import. MLflow's files are what needs no server and no data base.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow, self._entities = import_module("mlflow"), import_module("mlflow.entities")
        there = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = mlflow.MlflowClient(tracking_uri=there or (folder / "mlruns").absolute().as_uri())
        kept = folder / "mlflow-run"
        if kept.is_file():
            self._run = kept.read_text(encoding="utf-8").strip()
        else:
            known = self._client.get_experiment_by_name(PROJECT)
            # No artifact is written, so no folder of this computer has to be named.
            place = None if there else f"mlflow-artifacts:/{PROJECT}"
            experiment = known.experiment_id if known else self._client.create_experiment(PROJECT, place)
            self._run = self._client.create_run(experiment, run_name=str(about["method"])).info.run_id
            params = [self._entities.Param(name, str(value)[:500]) for name, value in about.items()]
            self._client.log_batch(self._run, params=params)
            kept.write_text(self._run, encoding="utf-8")

    def last(self) -> Mapping[str, int]:
        names = self._client.get_run(self._run).data.metrics
        histories = {name: self._client.get_metric_history(self._run, name) for name in names}
        return {name: max(one.step for one in some) for name, some in histories.items()}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")


_KINDS: dict[TrackerName, type[Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}


class TrackedReporter(Reporter):
    """Forwards to another reporter, and copies the log of a run to a tracker whenever an epoch has ended.

    Args:
        reporter: The other reporter.
        log: The run's `log.jsonl`.
        open_tracker: Called when there is something to copy.
    """

    def __init__(self, reporter: Reporter, log: Path, open_tracker: Callable[[], Tracker]):
        self._reporter, self._log, self._open = reporter, log, open_tracker
        self._tracker: Tracker | None = None
        self._last: Mapping[str, int] = {}
        self._read, self._epoch = 0, ("", -1)

    def step(self, stage: str, total: int, step: Step) -> None:
        self._reporter.step(stage, total, step)
        if self._epoch != (stage, step.epoch):
            self._epoch = stage, step.epoch
            self.copy()

    def count(self, what: str, done: int, total: int) -> None:
        self._reporter.count(what, done, total)

    def note(self, message: str) -> None:
        self._reporter.note(message)

    def copy(self) -> None:
        """Log what the run has logged since the last time."""
        for step, values in self._new():
            if self._tracker is None:
                self._tracker = self._open()
                self._last = self._tracker.last()
            new = {name: value for name, value in values.items() if step > self._last.get(name, -1)}
            if new:
                self._tracker.log(step, new)

    def close(self, *, finished: bool) -> None:
        """Log the rest, and end."""
        self.copy()
        if self._tracker is not None:
            self._tracker.close(finished=finished)

    def _new(self) -> Iterator[tuple[int, dict[str, float]]]:
        if not self._log.is_file():
            return
        with self._log.open("rb") as file:
            file.seek(self._read)
            lines = [line for line in file if line.endswith(b"\n")]  # a kill may have cut the last one
        self._read += sum(map(len, lines))
        for line in lines:
            row = json.loads(line)
            # Which pictures were right is left out: names of files are nobody else's business.
            numbers = row.get("figures") or {k: v for k, v in row.items() if k not in (*_OTHER, "right")}
            if numbers:
                stage = re.sub(r"[^\w.-]", "-", row["stage"])  # MLflow takes no "+" in a name
                yield row["step"], {f"{stage}/{name}": float(v) for name, v in numbers.items()}


def demand_tracker(name: TrackerName | None, folder: Path | None) -> None:
    """Refuse a tracker that cannot be had, before any work is done.

    Args:
        name: The tracker, if one is wanted.
        folder: Of the run, if it has one.

    Raises:
        InputError: Its package is not installed, or the run writes nothing to the disk.
    """
    if name is None:
        return
    if folder is None:
        raise InputError(
            f"{name} is given what a run has logged, which is in its folder: say where with out="
        )
    demand(name, f"track={name}", name)


@contextmanager
def tracked(
    name: TrackerName | None, context: Context, folder: Path | None, identity: Mapping[str, Any]
) -> Generator[Context]:
    """Give a run a context whose reporter tracks it.

    Args:
        name: The tracker; None, and other processes than the first, track nothing.
        context: Of the run.
        folder: Of the run.
        identity: What determines its result.
    """
    if name is None or folder is None or not context.first:
        yield context
        return

    def open_tracker() -> Tracker:
        (folder / TRACKED).mkdir(exist_ok=True)
        return _KINDS[name](folder / TRACKED, settings_of(identity))

    reporter, finished = TrackedReporter(context.reporter, folder / LOG, open_tracker), False
    try:
        yield replace(context, reporter=reporter)
        finished = True
    finally:
        reporter.close(finished=finished)


def settings_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings by name, as "recipe.epochs"; of paths only their ends, and no class names."""
    found: dict[str, Any] = {}
    for name, value in identity.items():
        if isinstance(value, dict):
            inner = settings_of(value)
            found |= {f"{name}.{key}" if name != "settings" else key: one for key, one in inner.items()}
        elif value is not None and name not in ("names", "data", "val"):
            found[name] = _without_folders(value)
    return found


def _without_folders(value: Any) -> Any:
    """Return a value; of a path that is there, or a whole one, its last part alone."""
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    if isinstance(value, str) and "/" in value.replace("\\", "/"):
        path = Path(value).expanduser()
        return path.name if path.is_absolute() or path.exists() else value
    return value
