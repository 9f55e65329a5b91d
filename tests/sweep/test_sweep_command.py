"""`foveate sweep` as a person meets it: runs, skips, estimates, and says in one line what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveate.commands import sweep as command
from foveate.commands.sweeping import SweepBars
from foveate.sweep import local
from foveate.sweep.plan import Standing, plan
from foveate.sweep.results import alone_in
from foveate.sweep.running import Done, SweepContext, WorkerState, run_job
from foveate.sweep.schedule import Failed, Finished, LaneProgress

Call = Callable[..., Any]


def _words(config: Path, root: Path, out: Path, *more: object) -> list[str]:
    return [str(word) for word in ("sweep", config, "--root", root, "--out", out, *more)]


def test_dry_run_lists_the_runs_and_changes_nothing(config: Call, foveate: Call, root: Path, tmp_path: Path):
    words = _words(config(), root, tmp_path / "out", "--dry-run")
    said = foveate(*words)
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[1].split("\t")[:2] == ["base-to-new/eurosat/clip/seed-1", "to do"]
    assert "runs\t10, 0 done, 10 left" in lines
    assert lines[-1] == "worked out from\tthe table of measured rates"
    assert not (tmp_path / "out").exists()
    told = json.loads(foveate(*words, "--json", "--workers", 4).out)
    assert (told["runs"], told["left"], told["workers"]) == (10, 10, 4)
    assert told["seconds_with_workers"] == pytest.approx(told["seconds"] / 4, abs=1)
    guided = next(one for one in told["jobs"] if one["row"] == "CoOp + FVG-PT")
    assert guided["stands_on"] == "base-to-new/eurosat/coop/seed-1"
    assert guided["asks"] == ["eurosat, base", "eurosat, new", "eurosat, all"]


def _workers(driver: int) -> list[int]:
    children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
    return [int(one) for one in children if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


def _found(out: Path, name: str) -> list[Path]:
    """Return files of a sweep that is at work: folders that go meanwhile are passed over."""
    return [Path(folder) / name for folder, _, names in os.walk(out) if name in names]


def _wait(until: Callable[[], Any], running: subprocess.Popen[Any]) -> Any:
    while not (found := until()):
        assert running.poll() is None, "the sweep ended before it was disturbed"
        time.sleep(0.005)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
def test_a_killed_worker_and_a_killed_driver_lose_nothing(
    config: Call, foveate: Call, root: Path, tmp_path: Path, undisturbed: dict[str, Any], results_in: Call
):
    out = tmp_path / "out"
    words = _words(config(), root, out, "--workers", 2)
    notes = tmp_path / "notes.txt"
    with (
        notes.open("w") as file,
        subprocess.Popen([sys.executable, "-m", "foveate", *words], stderr=file) as run,
    ):
        _wait(lambda: _found(out, "log.jsonl"), run)  # somebody trains
        victim = _workers(run.pid)[0]
        os.kill(victim, signal.SIGKILL)
        finished = len(_found(out, "result.json"))
        _wait(lambda: "a worker died" in notes.read_text(), run)
        _wait(lambda: len(_found(out, "result.json")) > finished, run)
        survivors = _workers(run.pid)
        os.kill(run.pid, signal.SIGKILL)
    assert victim not in survivors
    assert notes.read_text().count("a worker died at base-to-new/") == 1
    until = time.monotonic() + 1800
    while any(_alive(one) for one in survivors) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(_alive(one) for one in survivors)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert 0 < len(before) < 10
    said = foveate(*_words(config(), root, out, "--workers", 1))
    assert said.code == 0, said.err
    assert said.out == f"10 of 10 runs have finished, {len(before)} of them before: {out}\n"
    assert {path: path.stat().st_mtime_ns for path in before} == before  # none is done twice
    assert results_in(out) == undisturbed
    logs = [*out.rglob("log.jsonl")]
    assert len(logs) == 8
    for log in logs:  # nor is any step of any
        steps = [json.loads(line) for line in log.read_text().splitlines()]
        assert [one["step"] for one in steps if "loss" in one] == [0, 1, 2]


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_failed_run_does_not_stop_the_others(
    config: Call, foveate: Call, root: Path, tmp_path: Path, results_in: Call
):
    shutil.copytree(root, tmp_path / "sets")
    test = next((tmp_path / "sets/dtd/images/orange_square").glob("test-*.png"))
    test.write_bytes(b"no picture")
    rows = (
        ("  CoOp + FVG-PT: {method: fvgpt+coop}\n", "  Copy: {method: coop}\n"),
        (
            "  MMRL + FVG-PT: {method: fvgpt+mmrl}\n",
            "  Too fast: {method: coop, lr: 1.0e+30, explode_at: 2}\n",
        ),
    )
    out = tmp_path / "out"
    words = _words(config(*rows), tmp_path / "sets", out, "--workers", 1)
    said = foveate(*words)
    assert said.code == 2
    assert f"{test}: is not a picture" in said.err
    assert "too-fast/seed-1 failed: coop, " in said.err
    assert "Traceback" not in said.err
    assert said.out == f"3 of 8 runs have finished: {out}\n"  # CLIP, CoOp and its copy on EuroSAT
    assert sorted(one["row"] for one in results_in(out).values()) == ["CLIP", "CoOp", "Copy"]
    told = json.loads(foveate(*words, "--dry-run", "--json").out)
    assert (told["done"], told["rates_from"]) == (3, ["results in this folder"])


def test_another_sweep_in_the_folder(config: Call, foveate: Call, root: Path, tmp_path: Path):
    out = tmp_path / "out"
    with alone_in(out):
        said = foveate(*_words(config(), root, out))
    assert said.code == 2
    assert said.err.startswith(f"foveate: another sweep is at work in {out} (process {os.getpid()} on ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--workers", 0], "--workers is 0: give 1 or more"),
        (["--threads", 0], "--threads is 0: give 1 or more"),
        (["--gpus-per-run", 2], "--gpus-per-run is 2: give a share"),
        (["--gpus-per-run", 0.5], "--gpus-per-run is for Ray: give --ray too"),
        (["--ray-address", "head:6379"], "--ray-address is for Ray: give --ray too"),
        (["--json"], "--json prints the list of runs: give --dry-run too"),
        (["--device", "cuda:99"], "cuda"),
        (["--clip", "/nowhere/clip"], "/nowhere/clip"),
    ],
)
def test_bad_options(config: Call, foveate: Call, root: Path, tmp_path: Path, more: list[object], said: str):
    answer = foveate(*_words(config(), root, tmp_path / "out", *more))
    assert answer.code == 2
    assert said in answer.err.splitlines()[-1]
    assert "Traceback" not in answer.err


def test_sets_that_are_not_there(config: Call, foveate: Call, tmp_path: Path):
    answer = foveate(*_words(config(), tmp_path / "empty", tmp_path / "out", "--workers", 1))
    assert answer.code == 2
    assert "2 of 2 data sets are not in" in answer.err
    assert "eurosat, dtd; `foveate data check" in answer.err


def test_sets_without_masks(config: Call, foveate: Call, root: Path, tmp_path: Path):
    """It is FVG-PT that learns from them; without its rows nothing is said."""
    shutil.copytree(root, tmp_path / "sets", ignore=shutil.ignore_patterns("mask"))
    words = _words(config(), tmp_path / "sets", tmp_path / "out", "--workers", 1)
    said = foveate(*words)
    assert said.code == 2
    assert "2 of 2 data sets in" in said.err
    assert "have no masks: eurosat, dtd; fvgpt+coop needs them" in said.err
    assert not [*(tmp_path / "out").glob("*/*")]
    plain = config(
        ("  CoOp + FVG-PT: {method: fvgpt+coop}\n", ""), ("  MMRL + FVG-PT: {method: fvgpt+mmrl}\n", "")
    )
    left = plan(plain).jobs
    assert not command._masked(Standing((), left))


def test_ctrl_c_is_for_the_first_process_alone():
    """From a worker's first moment on: one that is at its imports would show where."""
    words = "import os, signal; print(signal.getsignal(signal.SIGINT).name, os.environ['OMP_NUM_THREADS'])"
    before = signal.getsignal(signal.SIGINT), os.environ.get("OMP_NUM_THREADS")
    with local._worker_settings(3):
        told = subprocess.run([sys.executable, "-c", words], check=True, capture_output=True, text=True)
    assert told.stdout == "SIG_IGN 3\n"
    assert (signal.getsignal(signal.SIGINT), os.environ.get("OMP_NUM_THREADS")) == before


def test_a_finished_sweep_says_what_it_keeps(
    config: Call, foveate: Call, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = "  CLIP: {method: zeroshot}\n"
    text = config().read_text()
    table = tmp_path / "table.yaml"
    table.write_text(text.split("rows:")[0] + "rows:\n" + rows)
    desk = WorkerState(SweepContext(root, tmp_path / "out"))
    for job in plan(table).jobs:
        run_job(job, desk)
    words = _words(table, root, tmp_path / "out", "--workers", 1)
    assert foveate(*words).err == ""  # a little is not worth a word
    monkeypatch.setattr(command, "_MUCH", 1)
    said = foveate(*words)
    bank = tmp_path / "out" / ".bank"
    assert said.code == 0
    assert said.err.startswith(f"note: 0.0 GB in {bank} are features that only further rows")
    assert said.err.endswith(f"remove it if there will be none: rm -r {bank}\n")


def test_the_time_that_is_left(config: Call):
    """By the work that is left, not by the runs: of two, one may take nearly all of it."""
    jobs, now = plan(config()).jobs, [100.0]
    work = {job.key: 10.0 for job in jobs[:9]} | {jobs[9].key: 910.0}
    board = SweepBars(10, 0, work, clock=lambda: now[0])
    now[0] += 50  # scenes are drawn
    board.show(LaneProgress(0, jobs[0], "training", 1, 2))
    assert board.left() == ""
    for job in jobs[:5]:
        now[0] += 12
        board.show(Finished(job, Done(12.0)))
    assert board.left() == ", about 19 min left"
    board.show(Failed(jobs[5], "no such picture", tuple(job.key for job in jobs[6:9])))
    assert board.left() == ", about 10 min left"
    board.show(Finished(jobs[9], Done(1.0)))
    assert board.left() == ""


def test_notes_have_no_control_characters(capsys: pytest.CaptureFixture[str]):
    SweepBars(1, 0).note("a\x1b[31mb")
    assert capsys.readouterr().err == "note: a\\x1b[31mb\n"


def test_drawn_sets_are_drawn(config: Call, tmp_path: Path):
    from foveate.sweep import sets

    sets.make_ready(tmp_path, plan(config(("[eurosat, dtd]", "[world-4]"))).keys())
    photos = sets.photos_of(tmp_path, "world-4", tests_only=True)
    assert {sample.split for sample in photos.samples} == {"test"}
    assert len(photos.names) == sets.sizes_of("world-4").classes
