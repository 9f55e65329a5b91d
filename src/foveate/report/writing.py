"""Writing a report's files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from foveate.files import write_atomically
from foveate.report.html import html
from foveate.report.latex import latex
from foveate.report.markdown import markdown
from foveate.report.model import Report
from foveate.report.tabular import csv_files

Format = Literal["all", "html", "md", "tex", "csv"]

_FORMATS: Mapping[str, Callable[[Report], dict[str, str]]] = {
    "html": lambda report: {"report.html": html(report)},
    "md": lambda report: {"report.md": markdown(report)},
    "tex": lambda report: {"report.tex": latex(report)},
    "csv": csv_files,
}


def write(report: Report, folder: Path, kind: Format = "all") -> list[Path]:
    """Write a report; return what was written.

    Raises:
        OSError: No space, no permission.
    """
    contents: dict[str, str] = {}
    for wanted, make in _FORMATS.items():
        if kind in ("all", wanted):
            contents |= make(report)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        write_atomically(folder / name, text)
    return [folder / name for name in contents]
