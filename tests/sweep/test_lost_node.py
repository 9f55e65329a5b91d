"""A sweep on a Ray cluster of two nodes, one of which is lost while it works."""

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A cluster of this machine's, with a head of one CPU; nodes may be added and removed."""
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, while it starts and ends
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            yield cluster
        finally:
            cluster.shutdown()


def _begun(out: Path) -> int:
    """Return how many runs train or have trained; files may come and go meanwhile."""
    return sum("log.jsonl" in names for *_, names in os.walk(out))


def test_a_lost_node_loses_nothing(
    nodes: Any,
    config: Callable[..., Path],
    root: Path,
    tmp_path: Path,
    undisturbed: dict[str, Any],
    results_in: Callable[[Path], dict[str, Any]],
):
    second, out = nodes.add_node(num_cpus=1), tmp_path / "out"
    words = ["sweep", config(), "--root", root, "--out", out, "--ray", "--ray-address", nodes.address]
    with subprocess.Popen(
        [sys.executable, "-m", "foveate", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as sweep:
        until = time.monotonic() + 1800
        while _begun(out) < 2 and sweep.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        assert sweep.poll() is None, sweep.communicate()  # both nodes are at work now
        nodes.remove_node(second, allow_graceful=False)
        said, errors = sweep.communicate(timeout=1800)
    assert sweep.returncode == 0, errors
    assert said.endswith(f"10 of 10 runs have finished: {out}\n")
    assert results_in(out) == undisturbed
