"""The wheel of what the Dockerfile copies works away from the repository, with everything inside."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSIDE = """
import sys
from pathlib import Path
import foveate
assert Path(foveate.__file__).is_relative_to(sys.argv[1]), foveate.__file__
from foveate import Classifier, load_clip
from foveate.clip.config import EMBEDDED
from foveate.clip.tokenizer import ClipTokenizer
from foveate.datasets.catalogue import find, keys
from foveate.datasets.splits import official_split
assert ClipTokenizer.openai().vocab == 49408
assert sum(official_split(find(key)) is not None for key in keys()) == 7
for name in EMBEDDED:
    load_clip(name)
folder = Path(sys.argv[2])
print(Classifier.from_pretrained(folder).predict(folder / "0.png")[0].label)
"""


def image_context(folder: Path) -> Path:
    """Copy what the Dockerfile copies, and nothing else, into a folder."""
    folder.mkdir()
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    for *sources, target in [line.split()[1:] for line in lines if line.startswith("COPY ")]:
        for name in sources:
            there = folder / target / (name if target == "./" else "")
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, there)
    return folder


@pytest.mark.slow
def test_the_wheel_has_everything_inside(tmp_path: Path):
    pytest.importorskip("hatchling")

    def run(*words: object, folder: Path = tmp_path) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
    context = image_context(tmp_path / "context")
    run(*pip, "wheel", context, "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path)
    (wheel,) = tmp_path.glob("foveate-*.whl")
    run(*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel)
    saved = ROOT / "tests" / "saved" / "0.1.0"
    assert run("-c", INSIDE, tmp_path / "site", saved).split()[-2:] in (["red", "star"], ["blue", "ring"])
    assert run("-m", "foveate.cli", "--version").startswith("foveate ")
    held = zipfile.ZipFile(wheel).namelist()
    own = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src/foveate").rglob("*")
        if path.is_file()
    }
    assert {name for name in own if "__pycache__" not in name} <= set(held)
