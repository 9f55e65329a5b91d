"""Small drawn sets, a sweep over them, and what an undisturbed process makes of it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.sweep.plan import plan
from foveate.sweep.results import Result, read_result
from foveate.sweep.running import SweepContext, WorkerState, run_job
from foveate.world.photos import scene_photos

_FOLDERS = {
    "dtd": ("dtd", "images", "split_zhou_DescribableTextures.json"),
    "eurosat": ("eurosat", "2750", "split_zhou_EuroSAT.json"),
}
NAMES = ["red star", "blue ring", "green cross", "pink heart", "cyan moon", "orange square"]


def _draw(root: Path, key: str) -> None:
    """Lay out a set as CoOp does: three training and two test scenes of a class, masks beside."""
    outer, inner, split_file = _FOLDERS[key]
    rows: dict[str, list[list[Any]]] = {"train": [], "val": [], "test": []}
    names = NAMES if key == "eurosat" else NAMES[::-1][:4]
    for split, each, seed in (("train", 3, 1), ("val", 1, 2), ("test", 2, 3)):
        photos = scene_photos(names, each, seed if key == "dtd" else 10 * seed)
        for number, sample in enumerate(photos.samples):
            path = f"{photos.names[sample.label]}/{split}-{number}.png".replace(" ", "_")
            for folder, picture in ((inner, sample.picture), (f"mask/{inner}", sample.mask)):
                file = root / outer / folder / path
                file.parent.mkdir(parents=True, exist_ok=True)
                picture.load().save(file)
            rows[split].append([path, sample.label, photos.names[sample.label]])
    (root / outer / split_file).write_text(json.dumps(rows))


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets in CoOp's layout, of drawn scenes."""
    folder = tmp_path_factory.mktemp("sets")
    for key in _FOLDERS:
        _draw(folder, key)
    return folder


CONFIG = """
protocol: base-to-new
sets: [eurosat, dtd]
seeds: [1]
shots: 2
epochs: 3
mixed: true
clip: {clip}
rows:
  CLIP: {{method: zeroshot}}
  CoOp: {{method: coop}}
  CoOp + FVG-PT: {{method: fvgpt+coop}}
  MMRL + FVG-PT: {{method: fvgpt+mmrl}}
"""
Write = Callable[..., Path]


@pytest.fixture
def config(tmp_path: Path, clip_folder: Path) -> Write:
    """Write a sweep's file; text in it may be replaced."""

    def write(*changes: tuple[str, str], name: str = "table.yaml") -> Path:
        text = CONFIG.format(clip=clip_folder)
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One computing thread, as workers have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, root: Path, clip_folder: Path) -> dict[str, Any]:
    """What the sweep comes to, by key, done job by job in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "table.yaml").write_text(CONFIG.format(clip=clip_folder))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    desk = WorkerState(SweepContext(root, folder / "out"))
    for job in plan(folder / "table.yaml").jobs:
        run_job(job, desk)
    torch.set_num_threads(before)
    return results(folder / "out")


def results(out: Path) -> dict[str, Any]:
    """Return all results of a sweep by key, without what the clock and the system say."""
    found = [read_result(path.parent) for path in out.rglob("result.json")]
    return {one.key: comparable(one) for one in found if one is not None}


def comparable(result: Result) -> dict[str, Any]:
    """Return what must be the same wherever a job is done."""
    return {
        name: value for name, value in asdict(result).items() if name not in ("seconds", "peak_memory_mb")
    }


@pytest.fixture
def results_in() -> Callable[[Path], dict[str, Any]]:
    """Read a sweep's results."""
    return results
