"""`foveate doctor` and `foveate completion`."""

import json
import re
import subprocess
from collections.abc import Callable
from importlib.metadata import version

import pytest

from foveate.cli import COMMANDS
from foveate.commands import doctor

ASKED = [
    "torch>=2.6",
    "pillow<14,>=10.1",
    "nowhere-to-be-found>=2; extra == 'masks'",
    "foveate[masks]; extra == 'u2net'",
    'onnxruntime>=1.17; extra == "u2net"',
    "pytest>=8; extra == 'dev'",
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda _: ASKED)


@pytest.mark.usefixtures("asked")
def test_it_says_what_is_missing_and_the_line_that_installs_it(foveate: Callable):
    said = foveate("doctor", "--json")
    assert said.code == 0
    found = json.loads(said.out)
    packages = {name: (there, limits) for name, there, limits in found["packages"]}
    assert packages["torch"] == (version("torch"), ">=2.6")
    assert packages["pillow"] == (version("pillow"), "<14,>=10.1")
    assert "nowhere-to-be-found" not in packages
    assert found["extras"] == {
        "masks": {"missing": ["nowhere-to-be-found"], "install": "pip install 'foveate[masks]'"},
        "u2net": {"missing": ["nowhere-to-be-found"], "install": "pip install 'foveate[u2net]'"},
    }
    assert found["devices"][0][0] == "cpu"
    features = ["features", "not kept, because FOVEATE_CACHE is empty", ""]
    assert features in found["caches"]
    assert sorted(title for title, *_ in found["caches"]) == ["features", "here", "hub"]
    assert "masks\tpip install 'foveate[masks]'\n" in foveate("doctor").out


def test_what_this_package_asks_for_is_understood():
    asked = doctor._requirements()
    assert {"torch", "numpy", "pillow"} <= {name for name, *_ in asked[""]}
    assert {name for name, *_ in asked["u2net"]} >= {"onnxruntime", "scipy"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_learns_commands_and_options(shell: str, foveate: Callable):
    said = foveate("completion", shell)
    assert said.code == 0
    for word in (*COMMANDS, "only", "coop.tokens"):
        assert re.search(rf"\b{re.escape(word)}\b", said.out), word


def test_bash_takes_it(foveate: Callable):
    script = foveate("completion", "bash").out
    ask = 'COMP_WORDS=(foveate pre); COMP_CWORD=1; _foveate; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["predict"]
    assert foveate("completion", "cmd").code == 2
