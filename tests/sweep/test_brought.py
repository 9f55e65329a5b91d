"""What people bring to a sweep: own methods, tuned backbones, an array of jobs; and files of the package."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveate.classifier import Classifier
from foveate.errors import InputError
from foveate.sweep.config import find_sweep, read_sweep
from foveate.sweep.plan import plan
from foveate.sweep.results import alone_in
from foveate.sweep.running import SweepContext, WorkerState, run_job

Call = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("own_registry")

METHOD = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from torch import nn
from foveate.methods.base import SentenceMethod
from foveate.methods.config import MethodConfig
from foveate.methods.texts import PlainTexts


@dataclass(frozen=True)
class ShiftConfig(MethodConfig):
    scale: float = 1.0


class TextShift(SentenceMethod):
    name, title, config_type = "text_shift", "text shift", ShiftConfig

    def __init__(self, clip, config=None, generator=None):
        super().__init__(clip)
        self.config = config or ShiftConfig()
        self.plain = PlainTexts(clip, None)
        self.shift = nn.Parameter(torch.zeros(clip.config.embed))

    def encode_text(self):
        return self.plain.features() + self.config.scale * self.shift
"""


def brought(root: Path, out: Path, file: Path) -> dict[str, Any]:
    """Run all jobs of a file in this process; return the results by key."""
    planned = plan(file)
    desk = WorkerState(SweepContext(root, out, imported=planned.sweep.imported))
    for job in planned.jobs:
        run_job(job, desk)
    return {job.key: json.loads((out / job.key / "result.json").read_text()) for job in planned.jobs}


def test_a_method_of_ones_own_is_named_by_its_module(
    config: Call, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "own_shift.py").write_text(METHOD)
    monkeypatch.chdir(tmp_path)
    rows = "rows:\n  Mine: {method: own_shift:TextShift, text_shift: {scale: 0.5}}"
    rows += "\n  Mine + FVG-PT: {method: fvgpt+own_shift:TextShift}\n"
    file = config(("rows:\n", f"{rows}  #"), ("sets: [eurosat, dtd]", "sets: [dtd]"))
    file.write_text(file.read_text().partition("  #")[0])
    sweep = read_sweep(file)
    assert [row.method for row in sweep.tables[0].rows] == ["text_shift", "fvgpt+text_shift"]
    assert sweep.imported == ("own_shift:TextShift",)
    found = brought(root, tmp_path / "out", file)
    assert found["base-to-new/dtd/mine/seed-1"]["method"] == "text_shift"
    assert len(found) == 3  # the second row stands on another training, with the default scale


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("nowhere_at_all:Mine", "No module named 'nowhere_at_all'"),
        ("json:Mine", "has no attribute 'Mine'"),
        ("json:JSONDecoder", "is no class of methods"),
    ],
)
def test_a_class_that_is_no_method_is_refused(config: Call, named: str, why: str):
    with pytest.raises(InputError, match=why):
        read_sweep(config(("{method: coop}", f"{{method: {named}}}")))


def test_loading_a_model_imports_nothing(tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "harmful.py").write_text("raise SystemExit('it ran')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there is no method"):
        Classifier("harmful:Mine", clip_folder)


def test_backbones_are_taken_from_folders_and_from_checkpoints(config: Call, root: Path, tmp_path: Path):
    whole = ("sets: [eurosat, dtd]", "sets: [dtd]")
    own = brought(root, tmp_path / "out", config(whole))
    tuned = tmp_path / "out/base-to-new/dtd/coop/seed-1/run"
    (tmp_path / "tuned/dtd").mkdir(parents=True)
    (tmp_path / "tuned/dtd/seed-1").symlink_to(tuned)
    place = tmp_path / "tuned" / "{set}" / "seed-{seed}"
    row = ("{method: fvgpt+coop}", f"{{method: fvgpt+coop, backbone: '{place}'}}")
    planned = plan(config(whole, row, name="brought.yaml"))
    over = next(job for job in planned.jobs if job.row == "CoOp + FVG-PT")
    assert over.needs is None
    assert over.config.backbone == str(tmp_path / "tuned/dtd/seed-1")
    run_job(over, WorkerState(SweepContext(root, tmp_path / "other")))
    found = json.loads((tmp_path / "other" / over.key / "result.json").read_text())
    assert found["measured"] == own[over.key]["measured"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("{method: coop, backbone: there}", "stands on no backbone"),
        ("{method: fvgpt+coop, backbone: 'there/{shots}'}", r"only \{set\} and \{seed\}"),
        ("{method: fvgpt+coop, backbone: 3}", "backbone is 3: give a path"),
    ],
)
def test_a_wrong_backbone_is_refused_at_once(config: Call, row: str, why: str):
    with pytest.raises(InputError, match=why):
        read_sweep(config(("{method: coop}", row)))


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_shards_are_disjoint_and_complete_and_keep_chains_together(config: Call, of: int):
    whole = plan(config(("seeds: [1]", "seeds: [1, 2, 3]")))
    parts = [whole.shard(number, of).jobs for number in range(1, of + 1)]
    keys = [job.key for part in parts for job in part]
    assert sorted(keys) == sorted(job.key for job in whole.jobs)
    for part in parts:
        there = [job.key for job in part]
        assert all(job.waits_for in there[: there.index(job.key)] for job in part if job.waits_for)
    assert max(map(len, parts)) < len(keys) or of == 1


def refused(said: Any) -> str:
    assert said.code == 2
    return said.err


def test_shards_work_side_by_side_and_refuse_a_whole_sweep(
    config: Call, foveate: Call, root: Path, tmp_path: Path
):
    file, out = config(("sets: [eurosat, dtd]", "sets: [dtd]")), tmp_path / "out"
    words = ["sweep", str(file), "--root", str(root), "--out", str(out), "--workers", "1"]
    with alone_in(out, "1-of-2"):
        assert "another sweep is at work" in refused(foveate(*words))
        assert "another sweep is at work" in refused(foveate(*words, "--shard", "1/2"))
        foveate(*words, "--shard", "2/2")
    foveate(*words, "--shard", "1/2")
    assert "runs\t5, 5 done, 0 left" in foveate(*words[:-2], "--dry-run").out
    for wrong in ("0/2", "3/2", "2", "a/b", "1/"):
        assert f"--shard is {wrong!r}" in refused(foveate(*words, "--shard", wrong))


def test_a_dry_run_says_what_is_missing(config: Call, foveate: Call, root: Path, tmp_path: Path):
    file = config(("sets: [eurosat, dtd]", "sets: [eurosat, ucf101]"))
    said = foveate("sweep", str(file), "--root", str(root), "--out", str(tmp_path / "out"), "--dry-run")
    assert "missing: " in said.err
    assert "ucf101" in said.err
    assert "eurosat" not in said.err


def test_files_of_the_package_are_found_by_name(tmp_path: Path):
    for given in ("table1", "table1.yaml", "configs/table1.yaml"):
        assert read_sweep(Path(given)).title == "table1"
    assert find_sweep(Path("claims")).is_file()
    with pytest.raises(InputError, match="did you mean table1"):
        find_sweep(Path("tabel1"))
    with pytest.raises(InputError, match="no such file"):
        find_sweep(tmp_path / "table1.yaml")


def test_fit_takes_a_method_of_ones_own(tmp_path: Path, clip_folder: Path, root: Path):
    (tmp_path / "own_shift_2.py").write_text(METHOD.replace("text_shift", "text_shift_2"))
    words = [*("-m", "foveate", "fit", root / "dtd/images", "--method", "own_shift_2:TextShift")]
    words += [*("--clip", clip_folder, "--shots", "1", "--epochs", "1", "--out", tmp_path / "mine")]
    done = subprocess.run([sys.executable, *map(str, words)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "mine/config.json").read_text())["method"] == "text_shift_2"


def test_backbones_that_are_not_there_are_told_of_before_anything_is_trained(
    config: Call, foveate: Call, root: Path, tmp_path: Path
):
    place = tmp_path / "tuned" / "{set}"
    file = config(("{method: fvgpt+coop}", f"{{method: fvgpt+coop, backbone: '{place}'}}"))
    words = ["sweep", str(file), "--root", str(root), "--out", str(tmp_path / "out")]
    why = f"there is no backbone at {tmp_path / 'tuned' / 'eurosat'}, and 1 more of 2: tune it"
    assert why in foveate(*words, "--dry-run").err
    assert why in refused(foveate(*words))
    assert not list((tmp_path / "out").rglob("result.json"))


def test_each_training_of_a_sweep_is_tracked(
    config: Call, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from foveate.train import tracking

    told: list[tuple[str, int]] = []

    class Kept(tracking.Tracker):
        def __init__(self, folder: Path, about: dict[str, object]):
            self.name = folder.parent.parent.relative_to(tmp_path).as_posix()

        def last(self) -> dict[str, int]:
            return {}

        def log(self, step: int, values: object) -> None:
            told.append((self.name, step))

        def close(self, *, finished: bool) -> None:
            assert finished

    monkeypatch.setitem(tracking._KINDS, "mlflow", Kept)
    monkeypatch.setattr(tracking, "demand", lambda *_: None)
    planned = plan(config(("sets: [eurosat, dtd]", "sets: [dtd]")))
    desk = WorkerState(SweepContext(root, tmp_path, track="mlflow"))
    for job in planned.jobs[:2]:
        run_job(job, desk)
    trained = [job.key for job in planned.jobs[:2] if job.config.method != "zeroshot"]
    assert {name for name, _ in told} == set(trained)
