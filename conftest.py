"""Checks the shapes that foveate's functions declare, whenever a test calls one of them.

It stands here because it must be loaded before any test, and `tests/conftest.py`, imports foveate.
"""

import re
from pathlib import Path

from jaxtyping import install_import_hook

SOURCES = Path(__file__).parent / "src"
PACKAGES = ("auto", "clip", "evaluate", "explain", "foreground", "methods", "trust")
DECLARES = re.compile(r"^from (jaxtyping|foveate\.types) import", re.MULTILINE)

install_import_hook(
    [
        ".".join(path.relative_to(SOURCES).with_suffix("").parts)
        for package in PACKAGES
        for path in (SOURCES / "foveate" / package).rglob("*.py")
        if DECLARES.search(path.read_text(encoding="utf-8"))
    ],
    "beartype.beartype",
)
