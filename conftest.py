"""Checks the shapes that foveate's functions declare, whenever a test of a package with arrays calls one.

Tests of whole commands and runs do without, and those of each plug-in over each host ("fvgpt+coop"): they
call the same functions, and would take a third longer. It stands here because it must be loaded before any
test, and `tests/conftest.py`, imports foveate.
"""

import re
from pathlib import Path

import jaxtyping
import pytest
from jaxtyping import install_import_hook

SOURCES = Path(__file__).parent / "src"
PACKAGES = ("clip", "evaluate", "foreground", "methods")
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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check shapes in this test, or not."""
    checked = item.path.parent.name in PACKAGES and "+" not in item.name
    jaxtyping.config.update("jaxtyping_disable", not checked)
