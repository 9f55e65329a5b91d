"""The same sweep on a Ray cluster of two CPUs: the same results, after a worker's death too."""

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch

pytest.importorskip("ray")

from foveate.errors import InputError
from foveate.scale.cluster import Cluster, joined
from foveate.sweep import on_ray
from foveate.sweep.on_ray import TaskResources, share_of
from foveate.sweep.running import JobFailure, SweepContext

pytestmark = pytest.mark.ray
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of two CPUs that this process has joined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, while it starts and ends
        with joined(cpus=2):
            yield


def test_who_gets_what():
    assert share_of(Cluster(8, 0), None, None, 1.0, 1) == TaskResources(8, 1, 0.0)
    assert share_of(Cluster(8, 0), None, None, 1.0, 2) == TaskResources(4, 2, 0.0)
    assert share_of(Cluster(16, 2), None, None, 0.25, 1) == TaskResources(8, 1, 0.25)
    assert share_of(Cluster(16, 2), 3, None, 1 / 3, 4) == TaskResources(3, 4, 1 / 3)
    assert share_of(Cluster(16, 2), None, "cpu", 1.0, 4) == TaskResources(4, 4, 0.0)
    with pytest.raises(InputError, match="room for 2 runs: give at most 2"):
        share_of(Cluster(16, 2), 3, None, 1.0, 1)
    with pytest.raises(InputError, match="has no GPU"):
        share_of(Cluster(2, 0), None, "cuda", 1.0, 1)


def test_a_task_uses_its_threads_alone(monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path):
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    for name in names:
        monkeypatch.setenv(name, "99")
    context = SweepContext(root, tmp_path, threads=torch.get_num_threads())
    no_job: Any = None
    assert isinstance(on_ray._work(no_job, context, [], None), JobFailure)
    assert {os.environ[name] for name in names} == {str(context.threads)}


def test_a_cluster_that_is_not_there(config: Call, foveate: Call, root: Path, tmp_path: Path):
    words = ("sweep", config(), "--root", root, "--out", tmp_path / "out", "--ray")
    said = foveate(*words, "--ray-address", "127.0.0.1:1")
    assert said.code == 2
    assert said.err.splitlines() == [
        "foveate: no Ray cluster answers at 127.0.0.1:1: start one (`ray start --head`), or give another"
        " --ray-address (HOST:PORT)"
    ]


def _kill_a_worker(out: Path, killed: list[int], ended: Event) -> None:
    """Wait until somebody trains, then kill a worker at work; give up when the sweep has ended."""
    while not killed and not ended.is_set():
        time.sleep(0.005)
        for own in (
            Path("/proc").glob("[0-9]*/cmdline")
            if any("log.jsonl" in names for *_, names in os.walk(out))
            else ()
        ):
            try:
                if own.read_bytes().startswith(b"ray::_work"):
                    os.kill(int(own.parent.name), signal.SIGKILL)
                    killed.append(int(own.parent.name))
                    break
            except OSError:  # it has just ended
                continue


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
def test_results_are_those_of_one_process_though_a_worker_is_killed(
    config: Call,
    foveate: Call,
    cluster: None,
    root: Path,
    tmp_path: Path,
    undisturbed: dict[str, Any],
    results_in: Call,
):
    out, killed, ended = tmp_path / "out", list[int](), Event()
    killer = Thread(target=_kill_a_worker, args=(out, killed, ended))
    killer.start()
    try:
        said = foveate("sweep", config(), "--root", root, "--out", out, "--ray", "--workers", 2)
    finally:
        ended.set()
        killer.join()
    assert said.code == 0, said.err
    assert said.out.endswith(f"10 of 10 runs have finished: {out}\n")  # Ray itself tells of the death
    assert len(killed) == 1
    assert results_in(out) == undisturbed
    again = foveate("sweep", config(), "--root", root, "--out", out, "--ray", "--workers", 2)
    assert again.out == f"10 of 10 runs have finished, 10 of them before: {out}\n"


@pytest.mark.slow
def test_a_failed_run_on_the_cluster(
    config: Call, foveate: Call, cluster: None, root: Path, tmp_path: Path, results_in: Call
):
    bad = config(
        ("  CoOp + FVG-PT: {method: fvgpt+coop}\n", ""),
        ("  MMRL + FVG-PT: {method: fvgpt+mmrl}\n", ""),
        ("{method: coop}", "{method: coop, lr: 1.0e+30, explode_at: 2}"),
    )
    said = foveate("sweep", bad, "--root", root, "--out", tmp_path / "out", "--ray", "--workers", 2)
    assert said.code == 2
    assert "coop/seed-1 failed" in said.err
    assert {one["row"] for one in results_in(tmp_path / "out").values()} == {"CLIP"}
