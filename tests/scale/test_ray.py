"""The same jobs on a Ray cluster of two CPUs: the same bytes, after deaths and kills too."""

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("cv2")

from foveate.data.feature_store import shard_path
from foveate.data.jobs import mask_jobs
from foveate.errors import InputError
from foveate.foreground.cleanup import TidyConfig
from foveate.foreground.making import Made, make_masks, mask_key, opening_of
from foveate.foreground.proposers.base import Proposal, Proposer, Request
from foveate.foreground.store import MaskStore
from foveate.scale.actors import Pool, ask, pool_of
from foveate.scale.cluster import Cluster, joined
from foveate.scale.ray_masks import make_masks_on_ray

pytestmark = pytest.mark.ray
Call = Callable[..., object]
Files = Callable[[Path], dict[str, bytes]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of two CPUs that this process has joined; its address."""
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, while it starts and ends
        with joined(cpus=2) as found:
            assert found.cpus == 2
            yield ray.get_runtime_context().gcs_address


def _masks(jobs: Sequence[object], out: Path, make: Callable[..., Made] = make_masks_on_ray) -> Made:
    opening = opening_of("classical", {})
    proposer = opening()
    with MaskStore.open(out, mask_key(proposer, TidyConfig())) as store:
        return make(jobs, proposer, store, opening=opening, workers=2 if make is make_masks_on_ray else 1)


# --- who gets what ---


def test_a_gpu_each_where_there_are_any():
    assert pool_of(Cluster(cpus=8, gpus=0)) == Pool(8, 1, 0)
    assert pool_of(Cluster(cpus=8, gpus=0), 3) == Pool(3, 1, 0)
    assert pool_of(Cluster(cpus=16, gpus=2)) == Pool(2, 8, 1)
    assert pool_of(Cluster(cpus=16, gpus=2), 1) == Pool(1, 16, 1)
    assert pool_of(Cluster(cpus=16, gpus=2), gpus=False) == Pool(16, 1, 0)
    with pytest.raises(InputError, match="has no GPU"):
        pool_of(Cluster(cpus=2, gpus=0), gpus=True)
    with pytest.raises(InputError, match="--workers is 3, but the Ray cluster has 2 CPUs: give at most 2"):
        pool_of(Cluster(cpus=2, gpus=0), 3)


# --- features ---


def test_features_are_those_of_the_plain_loop(
    foveate: Call,
    cluster: str,
    shapes: Callable[..., Path],
    tmp_path: Path,
    clip_folder: Path,
    files: Files,
    one_thread: None,
):
    data = shapes(pictures=4)
    words = ("--masks", data / "masks", "--clip", clip_folder, "--shard", 3, "--batch-size", 2)
    for out, more in (("one", ()), ("two", ("--ray", "--workers", 2))):
        said = foveate("features", data / "photos", *words, "--out", tmp_path / out, *more)
        assert (said.code, said.err) == (0, "")
        assert said.out == f"features of 12 pictures in 4 shards: {tmp_path / out}\n"
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_killed_driver_goes_on_and_ends_with_the_same_bytes(
    foveate: Call,
    cluster: str,
    shapes: Callable[..., Path],
    tmp_path: Path,
    clip_folder: Path,
    files: Files,
    one_thread: None,
):
    photos, out = shapes(pictures=20) / "photos", tmp_path / "killed"
    (photos / "red disc/3.png").write_bytes(b"no picture")
    words = ["features", str(photos), "--clip", str(clip_folder), "--shard", "1", "--on-bad", "skip"]
    remote = ["--ray", "--ray-address", cluster, "--workers", "2", "--out", str(out)]
    with subprocess.Popen([sys.executable, "-m", "foveate", *words, *remote]) as running:
        while not shard_path(out, 3).is_file() and running.poll() is None:
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGKILL)
    assert not all(shard_path(out, number).is_file() for number in range(60))
    said = foveate(*words, "--ray", "--workers", 2, "--out", out)
    assert said.code == 0, said.err
    assert "features of 59 pictures in 60 shards, " in said.out
    assert "red disc/3.png: " in said.err
    assert foveate(*words, "--out", tmp_path / "whole").code == 0
    assert files(out) == files(tmp_path / "whole")


def test_a_bad_picture_is_told_of_in_one_line(
    foveate: Call, cluster: str, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path
):
    photos = shapes("red disc", pictures=2) / "photos"
    (photos / "red disc/1.png").write_bytes(b"no picture")
    said = foveate(
        "features", photos, "--clip", clip_folder, "--ray", "--workers", 1, "--out", tmp_path / "f"
    )
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert f"{photos / 'red disc/1.png'}: is not a picture" in said.err


# --- masks ---


def test_masks_are_those_of_the_plain_loop(
    cluster: str, shapes: Callable[..., Path], tmp_path: Path, files: Files
):
    jobs = mask_jobs(shapes(pictures=2) / "photos")
    assert _masks(jobs, tmp_path / "one", make_masks) == Made(made=6, kept=0)
    assert _masks(jobs[2:4], tmp_path / "two") == Made(made=2, kept=0)
    (tmp_path / "two").rename(tmp_path / "begun")
    assert _masks(jobs, tmp_path / "two") == Made(made=6, kept=0)
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert _masks(jobs, tmp_path / "begun") == Made(made=4, kept=2)
    begun, whole = files(tmp_path / "begun"), files(tmp_path / "one")
    lines = [sorted(found.pop("manifest.jsonl").splitlines()) for found in (begun, whole)]
    assert lines[0] == lines[1]
    assert begun == whole


class _Whole(Proposer):
    """Takes the whole picture; the process that is first asked about picture 1 dies of it."""

    name = "whole"

    def __init__(self, marker: str, deaths: int) -> None:
        self.marker, self.deaths = Path(marker), deaths

    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        import numpy as np

        died = len(self.marker.read_bytes()) if self.marker.exists() else 0
        if requests[0].name.endswith("/1.png") and died < self.deaths:
            with self.marker.open("ab") as file:
                file.write(b"x")
            os._exit(1)
        sides = [(request.picture.height, request.picture.width) for request in requests]
        return [Proposal(np.ones(side, dtype=bool), 1.0) for side in sides]


def _dying(jobs: Sequence[object], out: Path, deaths: int) -> Made:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import a test
    try:
        marker = str(out.with_name(f"{out.name}-deaths"))
        opening = lambda: _Whole(marker, deaths)  # noqa: E731
        with MaskStore.open(out, {"proposer": "whole"}) as store:
            return make_masks_on_ray(jobs, opening(), store, opening=opening, workers=2)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_an_actor_that_dies_is_replaced(cluster: str, shapes: Callable[..., Path], tmp_path: Path):
    jobs = mask_jobs(shapes("red disc", pictures=3) / "photos")
    assert _dying(jobs, tmp_path / "m", 1) == Made(made=3, kept=0)
    assert (tmp_path / "m-deaths").read_bytes() == b"x"
    names = [line.split('"')[3] for line in (tmp_path / "m/manifest.jsonl").read_text().splitlines()]
    assert names == [f"red disc/{number}.png" for number in range(3)]


def test_a_picture_that_kills_every_actor_is_told_of(
    cluster: str, shapes: Callable[..., Path], tmp_path: Path
):
    jobs = mask_jobs(shapes("red disc", pictures=3) / "photos")
    with pytest.raises(InputError, match=r"one of 2 actors on the Ray cluster died again and again"):
        _dying(jobs, tmp_path / "m", 100)
    assert 2 <= len((tmp_path / "m-deaths").read_bytes()) <= 5


# --- clusters ---


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "127.0.0.1:x"])
def test_a_cluster_that_is_not_there(address: str):
    done = subprocess.run(
        [sys.executable, "-c", f"from foveate.scale.cluster import joined\nwith joined({address!r}): pass"],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.stderr.splitlines()[-1].startswith(
        f"foveate.errors.InputError: no Ray cluster answers at {address}: start one"
    )


def test_nothing_asked_nothing_started(shapes: Callable[..., Path], tmp_path: Path):
    assert list(ask([], lambda: str, Pool(1))) == []
