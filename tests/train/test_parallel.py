"""Two processes train as one does, and end together whatever happens to one of them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed import HashStore

from foveate.commands import learning
from foveate.data.loader import Rank
from foveate.errors import InputError
from foveate.train.parallel import ProcessGroup, ProcessLost

WORKER = Path(__file__).with_name("parallel_worker.py")
CLASSES = ("red disc", "blue box", "green disc", "red box", "blue disc")
RUN = {"epochs": 24, "shots": 2, "batch-size": 5, "warmup-epochs": 2}  # long enough to be killed
ALL_THE_TIME = {"phase_switch": None, "recompose_weight": 0.3}
JOBS: dict[str, dict[str, Any]] = {
    "coop": {"method": "coop", "recipe": {"batch_size": 4}},
    "coop without a bank": {"method": "coop", "recipe": {"batch_size": 4}, "bank": "off"},
    "parts of unequal size": {"method": "kgcoop", "recipe": {"batch_size": 5}},
    "mended gradients": {"method": "prograd", "recipe": {"batch_size": 4}},
    "two stages": {"method": "fvgpt+coop", "recipe": {"batch_size": 3, "epochs": 2}},
    "one looks on": {"method": "fvgpt+coop", "recipe": {"batch_size": 1}},
    "pictures besides": {
        "method": "promptsrc",
        "recipe": {"batch_size": 3, "epochs": 2, "average_mean": 1.0},
    },
    # AdamW divides gradients by their own size, which makes much of rounding.
    "two heads": {"method": "mmrl", "recipe": {"batch_size": 4, "epochs": 2, "optimiser": "sgd"}},
    "terms of some pictures": {
        "method": "dapt+maple",
        "recipe": {"batch_size": 2},
        "settings": {"dapt": ALL_THE_TIME},
    },
    "both sides in a bank": {
        "method": "dapt+coop",
        "recipe": {"batch_size": 3},
        "settings": {"dapt": ALL_THE_TIME},
    },
    "a cache": {
        "method": "tip_adapter",
        "recipe": {"batch_size": 4},
        "settings": {"tip_adapter": {"tuned": True, "views": 2}},
    },
    "a batch in one": {"method": "coop", "recipe": {"batch_size": 64}},
}
REFUSED: dict[str, dict[str, Any]] = {
    "dropout": {"method": "clip_lora", "recipe": {}},
    "one scale": {
        "method": "dapt+ivlp",
        "recipe": {},
        "settings": {"dapt": {"cue": "gaze", "cam_scale": "batch"}},
    },
    "apart": {"method": "coop", "recipe": {}, "spoil": True},
}


# --- shares ---


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_parts_make_up_each_batch(world: int, size: int):
    rows = list(range(100, 100 + 3 * size))
    parts = [Rank(rank, world).cut(rows, size) for rank in range(world)]
    for step in range(3):
        seen = [row for part in parts if not part.idle for row in _batch(part.rows, part.size, step)]
        assert seen == rows[step * size : (step + 1) * size]
    assert sum(part.idle for part in parts) == max(0, world - size)
    assert {tuple(part.rows) for part in parts if part.idle} <= {tuple(rows[::size])}
    sizes = [part.size for part in parts if not part.idle]
    assert max(sizes) - min(sizes) <= 1


def _batch(rows: Sequence[int], size: int, step: int) -> Sequence[int]:
    return rows[step * size : (step + 1) * size]


def test_one_smaller_batch_is_shared_too():
    assert Rank(1, 2).cut([5, 6, 7], 8).rows == [7]
    assert Rank(1, 2).cut([], 8).rows == []
    with pytest.raises(ValueError, match="one size"):
        Rank(0, 2).cut([1, 2, 3], 2)


# --- the environment ---


def test_a_process_alone_joins_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert ProcessGroup.join() is None
    assert ProcessGroup.joined() is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK is not set: start with torchrun"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two': torchrun sets it to a number"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "RANK is 2, but WORLD_SIZE is 2: ranks are 0 to 1",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "99999"},
            "process 0 has not met the 1 others at localhost:99999",
        ),
    ],
)
def test_an_environment_that_cannot_be(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], said: str):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said):
        ProcessGroup.join()


# --- one line for all ---


@pytest.mark.parametrize(
    ("errors", "line"),
    [
        ([InputError("no such file"), InputError("no such file")], "foveate: no such file\n"),
        ([ProcessLost("gone"), InputError("it is damaged")], "foveate: it is damaged\n"),
        ([InputError("it is damaged"), ProcessLost("gone")], "foveate: it is damaged\n"),
        ([ProcessLost("gone"), ProcessLost("gone")], "foveate: gone\n"),
    ],
)
def test_one_of_them_speaks(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    errors: list[InputError],
    line: str,
):
    monkeypatch.setattr(learning, "GRACE", 0.1)
    store = HashStore()
    teams = [ProcessGroup(Rank(rank, 2), store=store) for rank in range(2)]
    with ThreadPoolExecutor(2) as pool:
        ends: list[Future[None]] = []
        for process_group, error in sorted(
            zip(teams, errors, strict=True), key=lambda one: isinstance(one[1], ProcessLost)
        ):
            ends.append(pool.submit(learning._end, process_group, error))
            while not isinstance(error, ProcessLost) and process_group.words(learning.WRONG) is None:
                time.sleep(0.001)
        for end in ends:
            failure = end.exception()
            assert isinstance(failure, SystemExit)
            assert failure.code == 2
    assert capsys.readouterr() == ("", line)


# --- two processes ---


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures a class, with masks."""
    folder = tmp_path_factory.mktemp("together")
    for row, name in enumerate(CLASSES):
        for number in range(3):
            noise = np.random.default_rng([row, number])
            picture = Image.fromarray(noise.integers(90, 160, (32, 40, 3), dtype=np.uint8))
            mask = Image.new("L", picture.size)
            left, top = (int(at) for at in noise.integers(8, 14, 2))
            ink = tuple(250 if channel == row % 3 else 20 for channel in range(3))
            for kind, canvas, colour in (("photos", picture, ink), ("masks", mask, 255)):
                pen = ImageDraw.Draw(canvas)
                (pen.ellipse if "disc" in name else pen.rectangle)(
                    (left, top, left + 14, top + 12), fill=colour
                )
                file = folder / kind / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                canvas.save(file)
    return folder


class _Pair:
    """Two processes with the environment that torchrun would give them."""

    def __init__(self, *words: object):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.both = [
            subprocess.Popen(
                [sys.executable, *map(str, words)],
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]

    def end(self) -> list[tuple[int, str, str]]:
        """Return exit code, output and errors of both."""
        found: list[tuple[int, str, str]] = []
        for process in self.both:
            try:
                out, err = process.communicate(timeout=1800)
            except subprocess.TimeoutExpired:
                for one in self.both:
                    one.kill()
                raise
            found.append((process.returncode, out, err))
        return found


@pytest.fixture(scope="module")
def trained(data: Path, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All jobs, done by one pair of processes."""
    out = tmp_path_factory.mktemp("trained")
    jobs = {"clip": str(clip_folder), "data": str(data), "jobs": JOBS | REFUSED, "run": RUN}
    (out / "jobs.json").write_text(json.dumps(jobs))
    first, second = _Pair(WORKER, out / "jobs.json", out).end()
    # In the end, the second has found a mistake of its own. It says so, and the other ends with it.
    assert first == (2, "", ""), first
    assert second[:2] == (2, ""), second
    assert second[2].startswith("foveate: process 1 has a run of its own (seed): give all processes"), second
    assert second[2].count("\n") == 1
    return out


def _said(trained: Path, rank: int) -> dict[str, Any]:
    return json.loads((trained / f"said-{rank}.json").read_text())


@pytest.mark.parametrize("job", JOBS)
def test_two_take_the_steps_that_one_takes(trained: Path, job: str):
    first, second = (_said(trained, rank)[job] for rank in range(2))
    together, alone = first["together"], first["alone"]
    assert len(together["losses"]) == len(alone["losses"]) > 0
    for mine, theirs in zip(together["losses"], alone["losses"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    assert together["norms"] == pytest.approx(alone["norms"], rel=1e-5)
    one, other, whole = (
        load_file(trained / job / who / "learned.safetensors") for who in ("0", "1", "alone")
    )
    for name, tensor in whole.items():
        torch.testing.assert_close(one[name], tensor, rtol=1e-5, atol=1e-5)
        assert torch.equal(one[name], other[name])
    assert second["together"]["losses"] == []  # only the first tells of anything
    assert second["together"]["wrote"] == []
    assert together["wrote"] == alone["wrote"]


def test_a_picture_is_read_by_one_of_them(trained: Path):
    both = [_said(trained, rank) for rank in range(2)]
    for job in JOBS.keys() - {"one looks on", "a cache"}:
        read = [said[job]["together"]["read"] for said in both]
        assert sum(read) == both[0][job]["alone"]["read"]
        assert min(read) > 0.3 * sum(read)


@pytest.mark.parametrize("job", ["two stages", "one looks on", "terms of some pictures"])
def test_counts_are_of_all_pictures(trained: Path, job: str):
    figures = [_figures(trained / job / who / "run" / "log.jsonl") for who in ("0", "alone")]
    assert figures[0] == [pytest.approx(one) for one in figures[1]]
    assert figures[0]


def _figures(log: Path) -> list[dict[str, float]]:
    lines = map(json.loads, log.read_text().splitlines())
    return [line["figures"] for line in lines if "figures" in line]


def test_what_looks_at_a_whole_batch_is_refused(trained: Path):
    for rank in range(2):
        said = _said(trained, rank)
        assert "take --clip-lora.dropout 0, or one process" in said["dropout"]["error"]
        assert "take --dapt.cam-scale image, or one process" in said["one scale"]["error"]


def test_what_was_learned_apart_is_noticed(trained: Path):
    for rank in range(2):
        said = _said(trained, rank)["apart"]["error"]
        assert said.startswith("after epoch 1, processes have learned different things")


def test_a_run_that_has_finished_is_read_by_the_first_for_all(trained: Path):
    digests = [digest for rank in range(2) for digest in _said(trained, rank)["fitted"]]
    assert digests == [digests[0]] * 4
    assert not (trained / "nowhere").exists()


# --- the command ---


def _words(data: Path, clip: Path, out: Path) -> list[object]:
    words = ["-m", "foveate", "fit", data / "photos", "--masks", data / "masks", "--clip", clip, "--out", out]
    return [
        *words,
        "--method",
        "coop",
        "--log-answers",
        *(word for name, value in RUN.items() for word in (f"--{name}", value)),
    ]


def _epoch(out: Path) -> int:
    path = out / "stages" / "coop.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["state"])["epoch"]


def test_a_kill_and_going_on_under_torchrun(data: Path, clip_folder: Path, trained: Path, tmp_path: Path):
    whole, out = trained / "whole", tmp_path / "out"  # `whole` is the same run, which nobody disturbed
    words = _words(data, clip_folder, out)
    pair = _Pair(*words)
    deadline = time.monotonic() + 1800
    while _epoch(out) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    pair.both[1].send_signal(signal.SIGKILL)
    (code, _, err), _ = pair.end()
    assert _epoch(out) >= 3
    assert not (out / "config.json").exists(), "it was too quick to be killed in the middle"
    assert code == 2
    assert err.startswith("foveate: process 0 of 2 has lost another one, which has ended or does not answer;")
    assert err.count("\n") == 1

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *map(str, [*torchrun, *words])],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("learned") == 1
    for name in ("model.safetensors", "log.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
