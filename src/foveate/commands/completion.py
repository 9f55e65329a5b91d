"""`foveate completion`: print a completion script for a shell."""

import inspect
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal

from cyclopts import App

from foveate import commands
from foveate.commands.options import Command, options_of, parse, summary_of

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
    """Return one cyclopts app with all commands."""
    root = App(name="foveate", version_flags=[])
    for module_info in iter_modules(commands.__path__):
        module = import_module(f"{commands.__name__}.{module_info.name}")
        if not hasattr(module, "run"):
            continue
        name = module_info.name.rstrip("_")  # the module of "import", a Python keyword, is "import_"
        function = getattr(module, module_info.name, None)
        if name == "fit":
            command = module.declared("fvgpt+coop")
        elif inspect.isfunction(function):
            command = Command(name, options_of(function), summary_of(function))
        else:
            command = Command(name, ())
        root.command(command.app(), name=name)
    return root


def run(words: Sequence[str]) -> None:
    """Run the command."""
    completion(**parse("completion", completion, words, examples=EXAMPLES))
