"""What starting costs, counted in libraries that are imported: a new process each, and what it has then."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from foveate.classifier import Classifier
from foveate.cli import COMMANDS, main, python_name
from foveate.commands import helps
from foveate.commands.helps import asked_helps, kept_help

HEAVY = {"torch", "numpy", "PIL", "jsonargparse", "huggingface_hub", "tokenizers", "rich", "safetensors"}
# torch has a compiler, and that an algebra system; both come with any tensor operation written in Python.
NOT_TO_ANSWER = {"torch._dynamo", "torch._inductor", "sympy", "huggingface_hub", "datasets", "pandas"}
NOT_TO_ANSWER |= {"transformers", "torchvision", "open_clip", "matplotlib", "scipy", "sklearn"}


def loaded(code: str) -> set[str]:
    """Run Python in a new process; return the modules it has in the end."""
    ended = "import sys; print('\\n' + ' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{ended}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import foveate",
        "from foveate import InputError",
        *(f"from foveate.cli import main; main({words})" for words in (["--help"], ["--version"], ["pets"])),
        f"from foveate.cli import main\nfor name in {list(COMMANDS)}: assert main([name, '--help']) == 0",
        "from foveate.cli import main; assert main(['fit', 'photos/', '--out', 'there', '-h']) == 0",
        "from foveate.cli import main; assert main(['data', 'check', '--help']) == 0",
    ],
)
def test_what_needs_no_tensor_imports_none(code: str):
    modules = loaded(code)
    assert "foveate" in modules
    assert not modules & HEAVY


def test_the_kept_helps_are_those_of_the_commands():
    modules = {name: import_module(f"foveate.commands.{python_name(name)}") for name in COMMANDS}
    asked, kept = asked_helps(modules), json.loads(helps.FILE.read_text(encoding="utf-8"))
    assert kept.keys() == asked.keys(), "run `make helps`"
    assert [name for name in asked if kept[name] != asked[name]] == [], "run `make helps`"


@pytest.mark.parametrize("columns", ["50", "100"])
def test_a_kept_help_reads_as_the_commands_own(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["fit", "--help"]) == 0
    kept = capsys.readouterr().out
    monkeypatch.setattr(helps, "FILE", Path("nowhere"))
    assert main(["fit", "--help"]) == 0
    assert capsys.readouterr().out == kept
    assert max(map(len, kept.splitlines()[2:20])) <= int(columns) + 30  # a sentence has 30 columns at least


def test_a_command_that_does_not_exist_has_no_kept_help():
    assert kept_help(["data", "pets", "--help"]) is None
    assert kept_help(["pets", "--help"]) is None


def test_a_public_name_brings_what_it_needs():
    assert "torch" in loaded("import foveate; foveate.CoOp")


@pytest.mark.parametrize("method", ["fvgpt+coop", "fvgpt+mmrl", "promptsrc"])
def test_a_prediction_imports_what_it_needs(method: str, shapes: Callable[..., Path], tmp_path: Path):
    classifier = Classifier(method)
    classifier.fit(shapes("red disc", "blue box", pictures=2), shots=1, recipe={"epochs": 1, "batch_size": 2})
    classifier.save_pretrained(tmp_path / "model")
    photo = next((tmp_path / "data" / "photos" / "blue box").iterdir())
    words = ["predict", str(tmp_path / "model"), str(photo), "--json"]
    modules = loaded(f"from foveate.cli import main; assert main({words}) == 0")
    assert "torch" in modules
    assert not modules & NOT_TO_ANSWER
