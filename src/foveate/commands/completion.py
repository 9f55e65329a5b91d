"""`foveate completion`: what a shell needs to complete commands and options."""

import inspect
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Literal

from cyclopts import App

from foveate.commands import COMMANDS, python_name
from foveate.commands.options import Command, options_of, parse

EXAMPLES = """
    foveate completion bash > ~/.local/share/bash-completion/completions/foveate
    foveate completion zsh > ~/.zfunc/_foveate
    foveate completion fish > ~/.config/fish/completions/foveate.fish
"""


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print the lines that let a shell complete commands and options.

    Args:
        shell: Which: bash, zsh or fish.
    """
    sys.stdout.write(_whole().generate_completion(shell=shell))


def _whole() -> App:
    """Return all commands as one."""
    root = App(name="foveate", version_flags=[])
    for name, summary in COMMANDS.items():
        module = import_module(f"foveate.commands.{python_name(name)}")
        if name == "fit":
            command = module.declared("fvgpt+coop")
        else:
            function = getattr(module, python_name(name), None)
            command = Command(name, options_of(function) if inspect.isfunction(function) else (), summary)
        root.command(command.app(), name=name)
    return root


def run(words: Sequence[str]) -> None:
    """Run the command."""
    completion(**parse("completion", completion, words, examples=EXAMPLES))
