"""The help of all commands, kept in a file: what a command imports would take seconds.

`make helps` writes `helps.json` anew, from the commands themselves; a test compares the two.
"""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from foveate.commands.options import Help

FILE = Path(__file__).with_name("helps.json")


def kept_help(words: Sequence[str]) -> str | None:
    """Return the help that was asked for; None where it is not kept, and the command has to be asked.

    Args:
        words: The command, and all words behind it.
    """
    if not FILE.is_file():
        return None
    kept: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    found = kept.get(" ".join(words[:2]), kept.get(words[0]))
    if isinstance(found, str):  # of several commands under one name: the first word behind it is one of them
        return found if words[1] in ("-h", "--help") else None
    return found and Help(**found).text()


def asked_helps(modules: Mapping[str, ModuleType]) -> dict[str, Any]:
    """Ask commands for their help, by what has to be typed for it.

    Args:
        modules: Of the commands, by name. One that has `COMMANDS` is several commands under one name.
    """
    helps: dict[str, Any] = {}
    for name, module in modules.items():
        helps[name] = _asked(module, [])
        helps |= {f"{name} {one}": _asked(module, [one]) for one in getattr(module, "COMMANDS", ())}
    return helps


def _asked(module: Any, below: list[str]) -> Any:
    from foveate.commands.parsing import Told

    said = io.StringIO()
    with redirect_stdout(said):
        try:
            module.run([*below, "--help"])
        except Told as told:
            return json.loads(json.dumps(asdict(told.help)))
    return said.getvalue()
