"""`foveate doctor`: list what is installed and what is missing, with the line that installs it."""

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
    report = examine()
    if json:
        sys.stdout.write(json_module.dumps(report, indent=2, ensure_ascii=False) + "\n")
        return
    print_table(["package", "version", "asked for"], [list(row) for row in report["packages"]])
    print_table(["device", ""], [list(row) for row in report["devices"]])
    print_table(["cache", "", "free"], [list(row) for row in report["caches"]])
    lines = [
        [name, "there" if not row["missing"] else row["install"]] for name, row in report["extras"].items()
    ]
    print_table(["extra", ""], lines)


def examine() -> dict[str, Any]:
    """Return everything that `foveate doctor` prints."""
    requirements = _requirements()
    extras: dict[str, dict[str, Any]] = {}
    for name in sorted(requirements.keys() - {"", *_FOR_DEVELOPERS}):
        missing = [package for package, _ in _whole(name, requirements) if _version(package) is None]
        extras[name] = {"missing": missing, "install": f"pip install 'foveate[{name}]'" if missing else ""}
    packages = [(name, _version(name) or "missing", limits) for name, limits in _whole("", requirements)]
    base = [("foveate", version("foveate"), ""), ("python", platform.python_version(), "")]
    return {
        "packages": [*base, *packages],
        "system": f"{platform.system()} {platform.machine()}",
        "devices": _devices(),
        "caches": _caches(),
        "extras": extras,
    }


def _requirements() -> dict[str, list[tuple[str, str, str]]]:
    """Return foveate's requirements by extra ("" for none): package, its extras, version limits."""
    by_extra: dict[str, list[tuple[str, str, str]]] = {}
    for line in requires("foveate") or []:
        match = _REQUIREMENT.match(line)
        assert match is not None
        package, inner_extras, limits, extra = match.groups()
        by_extra.setdefault(extra or "", []).append((package, inner_extras or "", limits.strip()))
    return by_extra


def _whole(extra: str, requirements: dict[str, list[tuple[str, str, str]]]) -> list[tuple[str, str]]:
    """Return the packages of an extra, and of the extras in it, with their version limits."""
    packages: list[tuple[str, str]] = []
    for package, inner_extras, limits in requirements.get(extra, []):
        if package == "foveate":
            packages += [item for name in inner_extras.split(",") for item in _whole(name, requirements)]
        else:
            packages.append((package, limits))
    return packages


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> list[tuple[str, str]]:
    import torch

    devices = [("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of PyTorch")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append((f"cuda:{index}", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"))
    if torch.backends.mps.is_available():
        devices.append(("mps", "Apple's GPU; foveate has not been tested on one"))
    return devices


def _caches() -> list[tuple[str, str, str]]:
    """Return the folders of caches and runs, whether they are writable, and their free space."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = cache_folder("features")
    rows = [] if cache else [("features", "not kept, because FOVEATE_CACHE is empty", "")]
    folders = [("hub", Path(HF_HUB_CACHE)), *([("features", cache)] if cache else []), ("here", Path.cwd())]
    for title, folder in folders:
        existing = next(candidate for candidate in (folder, *folder.parents) if candidate.exists())
        access = "may be written to" if os.access(existing, os.W_OK) else "may not be written to"
        location = str(folder) if folder.exists() else f"{folder} (not made yet)"
        rows.append((title, f"{location}, {access}", f"{shutil.disk_usage(existing).free / 1e9:.0f} GB"))
    return rows


def run(words: Sequence[str]) -> None:
    """Run the command."""
    doctor(**parse("doctor", doctor, words, examples=EXAMPLES))
