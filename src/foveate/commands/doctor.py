"""`foveate doctor`: what is installed here, what is not, and the line that installs it."""

import json as json_module
import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from foveate.commands.options import parse
from foveate.commands.screen import print_table
from foveate.files import cache_folder

EXAMPLES = """
    foveate doctor
    foveate doctor --json > doctor.json
"""
_FOR_DEVELOPERS = ("dev", "oracle")
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([\w,-]+)\])?([^;]*)(?:;.*extra *== *['\"]([\w-]+)['\"])?")


def doctor(*, json: bool = False) -> None:
    """Tell what is installed here, which devices and caches there are, and what is missing.

    Args:
        json: Print one JSON table instead.
    """
    found = examine()
    if json:
        sys.stdout.write(json_module.dumps(found, indent=2, ensure_ascii=False) + "\n")
        return
    print_table(["package", "version", "asked for"], [list(row) for row in found["packages"]])
    print_table(["device", ""], [list(row) for row in found["devices"]])
    print_table(["cache", "", "free"], [list(row) for row in found["caches"]])
    lines = [
        [name, "there" if not row["missing"] else row["install"]] for name, row in found["extras"].items()
    ]
    print_table(["extra", ""], lines)


def examine() -> dict[str, Any]:
    """Return all that `foveate doctor` tells."""
    asked = _requirements()
    extras = {
        name: {"missing": missing, "install": f"pip install 'foveate[{name}]'" if missing else ""}
        for name in sorted(asked)
        if name and name not in _FOR_DEVELOPERS
        for missing in [[package for package, _ in _whole(name, asked) if _version(package) is None]]
    }
    packages = [(name, _version(name) or "missing", limits) for name, limits in _whole("", asked)]
    own = [("foveate", version("foveate"), ""), ("python", platform.python_version(), "")]
    return {
        "packages": [*own, *packages],
        "system": f"{platform.system()} {platform.machine()}",
        "devices": _devices(),
        "caches": _caches(),
        "extras": extras,
    }


def _requirements() -> dict[str, list[tuple[str, str, str]]]:
    """Return what foveate asks for by extra ("" is always): packages, their extras and limits."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for line in requires("foveate") or []:
        match = _REQUIREMENT.match(line)
        assert match is not None
        package, inner, limits, extra = match.groups()
        found.setdefault(extra or "", []).append((package, inner or "", limits.strip()))
    return found


def _whole(extra: str, asked: dict[str, list[tuple[str, str, str]]]) -> list[tuple[str, str]]:
    """Return the packages of an extra and their limits, those of extras within it among them."""
    found: list[tuple[str, str]] = []
    for package, inner, limits in asked.get(extra, []):
        if package == "foveate":
            found += [one for name in inner.split(",") for one in _whole(name, asked)]
        else:
            found.append((package, limits))
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> list[tuple[str, str]]:
    import torch

    found = [("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of PyTorch")]
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        found.append((f"cuda:{number}", f"{facts.name}, {facts.total_memory / 1e9:.0f} GB"))
    if torch.backends.mps.is_available():
        found.append(("mps", "Apple's GPU; foveate has not been tested on one"))
    return found


def _caches() -> list[tuple[str, str, str]]:
    """Return where weights are kept and runs are written, whether they may be, and how much room there is."""
    from huggingface_hub.constants import HF_HUB_CACHE

    kept = cache_folder("features")
    found = [] if kept else [("features", "not kept, because FOVEATE_CACHE is empty", "")]
    places = [("hub", Path(HF_HUB_CACHE)), *([("features", kept)] if kept else []), ("here", Path.cwd())]
    for title, folder in places:
        there = next(one for one in (folder, *folder.parents) if one.exists())
        may = "may be written to" if os.access(there, os.W_OK) else "may not be written to"
        where = str(folder) if folder.exists() else f"{folder} (not made yet)"
        found.append((title, f"{where}, {may}", f"{shutil.disk_usage(there).free / 1e9:.0f} GB"))
    return found


def run(words: Sequence[str]) -> None:
    """Run the command."""
    doctor(**parse("doctor", doctor, words, examples=EXAMPLES))
