"""Trackers: a run's log, copied once whatever stops it, and nothing of the user's own in it."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from foveate.classifier import Classifier
from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.train import tracking
from foveate.train.journal import Reporter, Step
from foveate.train.tracking import MlflowTracker, TensorBoardTracker, Tracker, WandbTracker, settings_of

EPOCHS, STEPS = 4, 2
"""2 shots of 2 classes, 2 pictures a step."""


class Dying(Reporter):
    """Stops a run at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, stage: str, total: int, step: Step) -> None:
        if step.step == self.at:
            raise KeyboardInterrupt


class Kept(Tracker):
    """Keeps what it is told, beside the run."""

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        self.file = folder / "kept.jsonl"
        self.about = about
        (folder / "about.json").write_text(json.dumps(about))

    def rows(self) -> list[tuple[int, dict[str, float]]]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [(row["step"], row["values"]) for row in map(json.loads, lines)]

    def last(self) -> dict[str, int]:
        return {name: step for step, values in self.rows() for name in values}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps({"step": step, "values": values}) + "\n")

    def close(self, *, finished: bool) -> None:
        (self.file.parent / "closed").write_text(str(finished))


@pytest.fixture
def run(
    shapes: Callable[..., Path], few_sentences: None, tiny_clip: Clip, tmp_path: Path
) -> Callable[..., Path]:
    data = shapes("red disc", "blue box", pictures=2)

    def train(name: str, *, dies: int | None = None, method: str = "fvgpt+coop", **more: Any) -> Path:
        out = tmp_path / name
        masks = data / "masks" if "fvgpt" in method else None
        options = {"shots": 2, "recipe": {"epochs": EPOCHS, "batch_size": 2}, "log_answers": True, **more}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of so short a training
            try:
                reporter = None if dies is None else Dying(dies)
                classifier = Classifier(method, tiny_clip)
                classifier.fit(data / "photos", masks=masks, out=out, reporter=reporter, **options)
            except KeyboardInterrupt:
                assert dies is not None
        return out

    return train


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking._KINDS, "mlflow", Kept)
    monkeypatch.setattr(tracking, "demand", lambda *_: None)


def logged(out: Path) -> dict[str, list[tuple[int, float]]]:
    """What the run's log has, by name."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in map(json.loads, (out / "log.jsonl").read_text().splitlines()):
        numbers = row.get("figures", {k: v for k, v in row.items() if isinstance(v, float)})
        for name, value in numbers.items():
            found.setdefault(f"{row['stage'].replace('+', '-')}/{name}", []).append((row["step"], value))
    return found


def told(out: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for step, values in Kept(out / "tracked", {}).rows():
        for name, value in values.items():
            found.setdefault(name, []).append((step, value))
    return found


@pytest.mark.usefixtures("kept")
def test_a_tracker_is_told_what_the_log_has(run: Callable[..., Path]):
    out = run("out", track="mlflow")
    assert told(out) == logged(out)
    assert len(told(out)["coop/loss"]) == len(told(out)["fvgpt-coop/loss"]) == EPOCHS * STEPS
    assert {"coop/lr", "coop/grad_norm", "coop/loss.ce", "fvgpt-coop/adapted"} <= told(out).keys()
    assert (out / "tracked" / "closed").read_text() == "True"


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("dies", [0, 3, 4, 7])
def test_a_stopped_run_goes_on_and_tells_no_step_twice(dies: int, run: Callable[..., Path]):
    out = run("out", track="mlflow", dies=dies)
    assert told(out).get("coop/loss", []) == logged(out).get("coop/loss", [])
    assert not (out / "config.json").exists()
    run("out", track="mlflow")
    assert told(out) == logged(out)
    assert [step for step, _ in told(out)["coop/loss"]] == list(range(EPOCHS * STEPS))


@pytest.mark.usefixtures("kept")
def test_a_run_that_was_not_tracked_is_tracked_when_it_is_asked_for_again(run: Callable[..., Path]):
    out = run("out")
    assert not (out / "tracked").exists()
    for _ in range(2):
        run("out", track="mlflow")
        assert told(out) == logged(out)


@pytest.mark.usefixtures("kept")
def test_another_run_in_the_folder_of_one_that_saved_nothing_is_tracked_anew(run: Callable[..., Path]):
    out = run("out", track="mlflow", dies=1)
    (out / "tracked").mkdir(exist_ok=True)
    (out / "tracked" / "kept.jsonl").write_text('{"step": 99, "values": {"coop/loss": 1.0}}\n')
    run("out", track="mlflow", seed=2)
    assert told(out) == logged(out)


@pytest.mark.usefixtures("kept")
def test_nothing_private_is_told(run: Callable[..., Path], tmp_path: Path):
    out = run("out", track="mlflow")
    about = json.loads((out / "tracked" / "about.json").read_text())
    assert about["recipe.epochs"] == EPOCHS
    assert about["coop.tokens"] == 4
    everything = (out / "tracked" / "kept.jsonl").read_text() + json.dumps(about)
    for private in (str(tmp_path), "red disc", ".png"):
        assert private not in everything
    paths = {"clip": str(tmp_path / "mine.pt"), "settings": {"kdpl": {"teacher": str(tmp_path)}}}
    assert settings_of({**paths, "names": ["x"]}) == {"clip": "mine.pt", "kdpl.teacher": tmp_path.name}
    assert settings_of({"clip": "openai/clip-vit-base-patch16"}) == {"clip": "openai/clip-vit-base-patch16"}


def test_what_is_not_installed_is_one_line_before_any_work(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_clip: Clip
):
    monkeypatch.setattr("foveate.foreground.proposers.registry.find_spec", lambda module: None)
    for name in ("tensorboard", "wandb", "mlflow"):
        with pytest.raises(
            InputError, match=rf"^track={name} needs {name}, .* pip install 'foveate\[{name}\]'$"
        ):
            run("out", track=name)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="track is 'comet': give"):
        run("out", track="comet")
    with pytest.raises(InputError, match="say where with out="):
        Classifier("coop", tiny_clip).fit(tmp_path, track="tensorboard")


# --- the trackers themselves ---


def read_tensorboard(out: Path) -> dict[str, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(out / "tracked" / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    return {name: [one.step for one in read.Scalars(name)] for name in read.Tags()["scalars"]}


def read_mlflow(out: Path) -> dict[str, list[int]]:
    tracker = MlflowTracker(out / "tracked", {})
    client, run = tracker._client, tracker._run
    names = client.get_run(run).data.metrics
    return {name: [one.step for one in client.get_metric_history(run, name)] for name in names}


@pytest.mark.filterwarnings("default")  # those of the packages
@pytest.mark.parametrize(
    ("name", "read"),
    [("tensorboard", read_tensorboard), ("mlflow", read_mlflow)],
    ids=["tensorboard", "mlflow"],
)
def test_a_tracker_has_each_step_once(
    name: str,
    read: Callable[[Path], dict[str, list[int]]],
    run: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    pytest.importorskip(name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = run("out", track=name, dies=5)
    assert read(out)["coop/loss"] == [step for step, _ in logged(out)["coop/loss"]] != []
    run("out", track=name)
    for stage in ("coop", "fvgpt-coop"):
        assert read(out)[f"{stage}/loss"] == list(range(EPOCHS * STEPS))
    assert read(out).keys() == logged(out).keys()
    written = [path for path in (out / "tracked").rglob("*") if path.is_file() and path.parent.name != "0"]
    assert not [path for path in written if str(tmp_path).encode() in path.read_bytes()]


@pytest.mark.filterwarnings("default")
def test_wandb_has_each_step_once(run: Callable[..., Path], tmp_path: Path):
    pytest.importorskip("wandb")
    told: list[dict[str, float]] = []
    out = run("out", track="wandb", dies=5)
    assert len(list((out / "tracked" / "wandb").glob("offline-run-*"))) == 1
    log = WandbTracker.log
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            WandbTracker, "log", lambda self, step, values: (told.append(values), log(self, step, values))
        )
        run("out", track="wandb")
    for stage in ("coop", "fvgpt-coop"):  # all of them, written anew
        assert sum(f"{stage}/loss" in values for values in told) == EPOCHS * STEPS
    (folder,) = (out / "tracked" / "wandb").glob("offline-run-*")
    written = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "logs"]
    assert written
    assert not [path for path in written if str(tmp_path).encode() in path.read_bytes()]


@pytest.mark.filterwarnings("default")
def test_a_kill_that_nobody_hears_of_loses_no_step_of_the_log(tmp_path: Path):
    pytest.importorskip("tensorboard")
    (tmp_path / "tracked").mkdir()
    words = f"""
import os
from pathlib import Path
from foveate.train.tracking import TensorBoardTracker
tracker = TensorBoardTracker(Path({str(tmp_path / "tracked")!r}), {{"method": "coop"}})
for step in range(40):
    tracker.log(step, {{"coop/loss": 1.0}})
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 9
    (events,) = (tmp_path / "tracked" / "tensorboard").iterdir()
    events.rename(events.with_name("events.out.tfevents.1000000000.there.1.0"))  # of another second
    lines = [{"stage": "coop", "epoch": 0, "step": step, "loss": 1.0} for step in range(50)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    reporter = tracking.TrackedReporter(
        Reporter(), tmp_path / "log.jsonl", lambda: TensorBoardTracker(tmp_path / "tracked", {})
    )
    reporter.close(finished=True)
    assert read_tensorboard(tmp_path) == {"coop/loss": list(range(50))}
