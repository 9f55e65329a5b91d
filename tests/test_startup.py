"""What starting costs, counted in libraries that are imported: a new process each, and what it has then."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from foveate.classifier import Classifier

HEAVY = {"torch", "numpy", "PIL", "cyclopts", "huggingface_hub", "tokenizers", "rich", "safetensors"}
QUICK = ("predict", "evaluate", "explain", "demo", "cost", "import", "serve")
"""Commands besides `fit` whose help does without PyTorch."""
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
    ],
)
def test_what_needs_no_tensor_imports_none(code: str):
    modules = loaded(code)
    assert "foveate" in modules
    assert not modules & HEAVY


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--help"],
        ["fit", "photos/", "--out", "there", "--method", "fvgpt+mmrl", "-h"],
        *([name, "--help"] for name in QUICK),
    ],
)
def test_a_help_imports_no_library_of_tensors(words: list[str]):
    modules = loaded(f"from foveate.cli import main; assert main({words}) == 0")
    assert not modules & {"torch", "numpy", "PIL", "tokenizers", "safetensors", "huggingface_hub"}


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
