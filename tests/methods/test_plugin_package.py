"""Another package brings a method: found by its entry point, and as good as one of ours."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from foveate.methods import registry
from foveate.methods.base import Method, SentenceMethod
from foveate.methods.config import MethodConfig
from foveate.methods.registry import backbones, parts, register_method, title
from foveate.train.recipe import recipe_for

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS / "plugin_package" / "foveate_layer_norm"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as installers leave it: the package, and its dist-info with the entry point."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    about = folder / f"{PACKAGE.name}-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE.name}\nVersion: 0.1.0\n")
    (about / "entry_points.txt").write_text(
        f"[foveate.methods]\nlayer_norm = {PACKAGE.name}:LayerNormTuning\n"
    )
    return folder


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Run:
    """Run Python in a process that has the package."""

    def started(*words: object, where: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        source = str(Path(registry.__file__).parents[2])
        known = [str(site), source, *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.run(
            [sys.executable, *map(str, words)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(known)},
            cwd=where,
            capture_output=True,
            text=True,
            check=False,
        )

    return started


@pytest.mark.slow
def test_the_contract_of_all_methods_is_kept_by_it_and_by_plug_ins_over_it(run: Run):
    done = run(
        *("-m", "pytest", "methods/test_contract.py", "-k", "layer_norm", "-vv", "-p", "no:cacheprovider"),
        where=TESTS,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert all(f"[{name}" in done.stdout for name in ("layer_norm", "dapt+layer_norm", "fvgpt+layer_norm"))


@pytest.mark.slow
def test_the_command_line_trains_and_asks_it(run: Run, shapes: Callable[..., Path], tmp_path: Path):
    data, out = shapes(pictures=3), tmp_path / "out"
    words = ["--masks", data / "masks", "--shots", 2, "--epochs", 1, "--clip", "tiny"]
    names = ("layer_norm", "dapt+layer_norm", "fvgpt+layer_norm")
    commands = [
        *(["fit", data / "photos", "--method", name, *words, "--out", out / name] for name in names),
        ["evaluate", out / "fvgpt+layer_norm", "--compare"],
    ]
    program = (
        "import sys, json; from foveate.cli import main; sys.exit(any(map(main, json.loads(sys.argv[1]))))"
    )
    done = run("-c", program, json.dumps([[str(word) for word in words] for words in commands]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("layer_norm: learned") == len(names)
    assert "layer_norm" in done.stdout.rpartition("learned")[2]


def test_a_package_that_cannot_be_loaded_is_named_in_one_line(run: Run, site: Path, tmp_path: Path):
    about = tmp_path / "broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[foveate.methods]\nbroken = nowhere:Broken\n")
    done = run(
        "-m", "foveate", "fit", "photos/", "--out", "out"
    )  # the folder a module runs in is searched too
    assert done.returncode == 2
    assert "the method 'broken' of broken cannot be used (No module named 'nowhere')" in done.stderr
    assert "Traceback" not in done.stderr


# --- without a package ---


@dataclass(frozen=True)
class MeanConfig(MethodConfig):
    """Settings of Mean."""

    recipe: ClassVar = {"epochs": 3, "batch_size": 2}


class Mean(SentenceMethod):
    """Nothing but a name."""

    name, title, config_type = "mean", "Mean", MeanConfig


@pytest.mark.usefixtures("own_registry")
def test_a_class_can_be_registered_by_hand():
    assert register_method(Mean) is Mean
    assert register_method(Mean) is Mean  # a module may be imported again
    assert backbones()["mean"] is Mean
    assert parts("fvgpt+mean") == ["fvgpt", "mean"]
    assert title("fvgpt+mean") == "Mean + FVG-PT"
    assert (recipe_for("fvgpt+mean").epochs, recipe_for("mean").batch_size) == (3, 2)


def wrong(**changes: object) -> type[Method]:
    return type("Wrong", (Mean,), changes)


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (wrong(name="coop"), "which is that of foveate.methods.coop.CoOp"),
        (wrong(name="Not A Name"), "has the name 'Not A Name': give it a name of lower-case letters"),
        (wrong(name="bare", config_type=MethodConfig), "has no settings: give it a config_type"),
        (
            wrong(name="own", encode_images=lambda self, images: images),
            "picture features of its own: set tunes",
        ),
    ],
)
def test_what_cannot_be_registered_is_told(kind: type[Method], said: str):
    with pytest.raises(ValueError, match=said):
        register_method(kind)
