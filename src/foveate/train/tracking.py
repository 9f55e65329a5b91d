"""Trackers of runs: TensorBoard, Weights & Biases and MLflow, each behind one `log(step, values)`.

A tracker gets a copy of the run's log, `log.jsonl`, after each epoch. A run that resumes removes lines of its
log and writes them again; a tracker gets each step once.
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
from foveate.train.config import TrackerName, digest
from foveate.train.context import Context
from foveate.train.folder import LOG, TRACKED
from foveate.train.journal import Reporter, Step

PROJECT = "foveate"
"""Name of the project in W&B, and of the experiment in MLflow."""

_OTHER = ("stage", "epoch", "step")


class Tracker(ABC):
    """A destination for the numbers of one run.

    Args:
        folder: Existing folder of all trackers of the run.
        about: The run's settings, by name.
    """

    @abstractmethod
    def __init__(self, folder: Path, about: Mapping[str, Any]):
        """Open the tracker; a run that was tracked before is continued."""

    @abstractmethod
    def last(self) -> Mapping[str, int]:
        """Return the last step of each value that was logged before the tracker was opened."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step; each name begins with the stage: "coop/loss"."""

    @abstractmethod
    def close(self, *, finished: bool) -> None:
        """Close the tracker; a run that has not finished can be opened again."""


class TensorBoardTracker(Tracker):
    """Event files in `tensorboard`."""

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        events = import_module("tensorboard.backend.event_processing.event_accumulator")
        writer = import_module("torch.utils.tensorboard").SummaryWriter
        path, self._last = folder / "tensorboard", dict[str, int]()
        resumed = path.is_dir()
        if resumed:
            accumulator = events.EventAccumulator(str(path), size_guidance={"scalars": 0})
            accumulator.Reload()
            self._last = {
                name: max(event.step for event in accumulator.Scalars(name))
                for name in accumulator.Tags()["scalars"]
            }
        self._writer = writer(str(path))
        if not resumed:
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
    """A run of W&B, offline: `wandb sync` sends it. It has no data about this computer.

    W&B cannot read its own files, so a resumed run is written from the beginning.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read at the import
        wandb = import_module("wandb")
        run_id = digest({**about, "folder": str(folder.absolute())})[:12]
        for path in (folder / "wandb").glob(f"offline-run-*-{run_id}"):
            shutil.rmtree(path)
        blank = {"host": "", "username": "", "email": "", "program": "", "program_relpath": ""}
        flags = ("disable_git", "x_disable_meta", "x_disable_stats", "x_disable_machine_info", "silent")
        settings = wandb.Settings(
            **blank,
            **dict.fromkeys(flags, True),
            console="off",
            save_code=False,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=PROJECT, id=run_id, dir=str(folder), mode="offline", config=dict(about), settings=settings
        )
        self._stages: set[str] = set()

    def last(self) -> Mapping[str, int]:
        return {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        stages = {name.partition("/")[0] for name in values}
        for stage in sorted(stages - self._stages):  # W&B's own steps cannot restart with a stage
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._stages |= stages
        self._run.log({**values, **{f"{stage}/step": step for stage in stages}})

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MlflowTracker(Tracker):
    """A run of MLflow, in `mlruns` or at the address in MLFLOW_TRACKING_URI."""

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        # Read at the import. MLflow's file store needs no server and no database.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow, self._entities = import_module("mlflow"), import_module("mlflow.entities")
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = mlflow.MlflowClient(tracking_uri=uri or (folder / "mlruns").absolute().as_uri())
        id_file = folder / "mlflow-run"
        if id_file.is_file():
            self._run = id_file.read_text(encoding="utf-8").strip()
        else:
            existing = self._client.get_experiment_by_name(PROJECT)
            # No artifact is written, so the location need not name a folder of this computer.
            artifacts = None if uri else f"mlflow-artifacts:/{PROJECT}"
            experiment = (
                existing.experiment_id if existing else self._client.create_experiment(PROJECT, artifacts)
            )
            self._run = self._client.create_run(experiment, run_name=str(about["method"])).info.run_id
            params = [self._entities.Param(name, str(value)[:500]) for name, value in about.items()]
            self._client.log_batch(self._run, params=params)
            id_file.write_text(self._run, encoding="utf-8")

    def last(self) -> Mapping[str, int]:
        names = self._client.get_run(self._run).data.metrics
        histories = {name: self._client.get_metric_history(self._run, name) for name in names}
        return {name: max(metric.step for metric in history) for name, history in histories.items()}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        timestamp = int(1000 * time.time())
        metrics = [self._entities.Metric(name, value, timestamp, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")


_KINDS: dict[TrackerName, type[Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}


class TrackedReporter(Reporter):
    """Forwards to another reporter, and copies the log of a run to a tracker after each epoch.

    Args:
        reporter: The other reporter.
        log: The run's `log.jsonl`.
        open_tracker: Opens the tracker; called when there is something to copy.
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
        """Copy what the run has logged since the last call."""
        for step, values in self._new():
            if self._tracker is None:
                self._tracker = self._open()
                self._last = self._tracker.last()
            new = {name: value for name, value in values.items() if step > self._last.get(name, -1)}
            if new:
                self._tracker.log(step, new)

    def close(self, *, finished: bool) -> None:
        """Copy the rest of the log, and close the tracker."""
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
            # The answers for single pictures are left out, because file names are private.
            numbers = row.get("figures") or {k: v for k, v in row.items() if k not in (*_OTHER, "right")}
            if numbers:
                stage = re.sub(r"[^\w.-]", "-", row["stage"])  # MLflow takes no "+" in a name
                yield row["step"], {f"{stage}/{name}": float(v) for name, v in numbers.items()}


def demand_tracker(name: TrackerName | None, folder: Path | None) -> None:
    """Refuse an unavailable tracker before any work is done.

    Args:
        name: The tracker; None: no tracker.
        folder: Run folder, if there is one.

    Raises:
        InputError: Its package is not installed, or the run writes nothing to disk.
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
    """Yield the context of a run, with a reporter that tracks the run.

    Args:
        name: The tracker; with None, and in all processes but the first, nothing is tracked.
        context: Context of the run.
        folder: Run folder.
        identity: All that determines the result of the run.
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
    """Return a run's settings by name, as "recipe.epochs", without class names; paths lose their folders."""
    settings: dict[str, Any] = {}
    for name, value in identity.items():
        if isinstance(value, dict):
            nested = settings_of(value)
            settings |= {
                f"{name}.{key}" if name != "settings" else key: setting for key, setting in nested.items()
            }
        elif value is not None and name not in ("names", "data", "val"):
            settings[name] = _without_folders(value)
    return settings


def _without_folders(value: Any) -> Any:
    """Return a value; of an existing or absolute path, only the last part."""
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if isinstance(value, str) and "/" in value.replace("\\", "/"):
        path = Path(value).expanduser()
        return path.name if path.is_absolute() or path.exists() else value
    return value
