"""A server of zero-shot CLIP, and pictures to ask it about."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from foveate.classifier import Classifier
from foveate.serve.app import Service, build_app
from foveate.serve.limits import Limits
from foveate.serve.models import Model, model_of
from foveate.world.photos import scene_photos

NAMES = ["red star", "blue ring", "green heart"]


@pytest.fixture(scope="session")
def zeroshot() -> Classifier:
    return Classifier("zeroshot", clip="tiny")


@pytest.fixture(scope="session")
def model(zeroshot: Classifier) -> Model:
    return model_of(zeroshot)


@pytest.fixture(scope="session")
def png() -> list[bytes]:
    """Six scenes as files, larger than the towers' view and not square."""
    found: list[bytes] = []
    for sample in scene_photos(NAMES, per_class=2, seed=1).samples:
        kept = io.BytesIO()
        sample.picture.load().resize((120, 90), Image.Resampling.BICUBIC).save(kept, "PNG")
        found.append(kept.getvalue())
    return found


@pytest.fixture
def client(model: Model) -> Iterator[TestClient]:
    limits = Limits(body=300_000, pixels=1_000_000, pictures=4, names=20, seconds=20.0)
    with TestClient(build_app(Service(model, limits)), base_url="http://localhost") as client:
        yield client


Start = Callable[..., tuple[subprocess.Popen, str, int]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Run `foveate serve` on a free port; return the process, its host and its port."""
    running: list[subprocess.Popen] = []

    def run(*words: str) -> tuple[subprocess.Popen, str, int]:
        line = [sys.executable, "-m", "foveate", "serve", *words, "--port", "0"]
        quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (tmp_path / "log").open("a") as log:
            one = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, text=True, env=quiet)
        running.append(one)
        told = one.stdout.readline()
        assert "http://127.0.0.1:" in told, (tmp_path / "log").read_text()
        return one, "127.0.0.1", int(told.rstrip().rstrip("/").rpartition(":")[2])

    yield run
    for one in running:
        one.kill()
        one.wait()
        one.stdout.close()
