"""Keep what `foveate COMMAND --help` shows in the file that it is read from: `python tools/keep_helps.py`."""

import json
from importlib import import_module

from foveate.cli import COMMANDS, python_name
from foveate.commands.helps import FILE, asked_helps

if __name__ == "__main__":
    modules = {name: import_module(f"foveate.commands.{python_name(name)}") for name in COMMANDS}
    FILE.write_text(json.dumps(asked_helps(modules), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
