"""Writes a report to files: HTML, Markdown and LaTeX from templates, and CSV."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jinja2
import pandas as pd

from foveate.files import write_atomically
from foveate.readers import csv_text
from foveate.report.model import Cell, Number, Report, ReportBlock, Section, TableRow, signed, text
from foveate.report.plots import DASHES, PALETTE, svg

Format = Literal["all", "html", "md", "tex", "csv"]
_ACROSS = 3  # number of LaTeX blocks side by side, as in the papers
_HEADS = ("block", "row", "column", "value", "sd", "seeds", "low", "high", "published", "difference", "mark")
_MARKDOWN = {letter: f"\\{letter}" for letter in "\\`*_[]<>|"}
_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"},
    **{">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "−": r"$-$"},
    **{"×": r"$\times$", "→": r"$\rightarrow$", "Δ": r"$\Delta$", "λ": r"$\lambda$", "‖": r"$\|$"},
    **{"†": r"\textdagger{}", "✓": r"$\checkmark$", "–": "--", "’": "'", "…": r"\ldots{}"},
}


class Raw(str):
    """Text that is already escaped."""


def write(report: Report, folder: Path, kind: Format = "all") -> list[Path]:
    """Write a report and return the written files.

    Raises:
        OSError: No space, or no permission.
    """
    contents: dict[str, str] = {}
    for format_name, make in _FORMATS.items():
        if kind in ("all", format_name):
            contents |= make(report)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def html(report: Report) -> str:
    """Return the report as one HTML file, without scripts and external resources."""
    return _environment(autoescape=True).get_template("report.html.j2").render(report=report)


def markdown(report: Report) -> str:
    """Return the report as Markdown."""
    return _environment(markdown_escape).get_template("report.md.j2").render(report=report)


def latex(report: Report) -> str:
    """Return the report as a complete LaTeX document with booktabs."""
    brackets = {
        **{"block_start_string": "<%", "block_end_string": "%>", "variable_start_string": "<<"},
        **{"variable_end_string": ">>", "comment_start_string": "<#", "comment_end_string": "#>"},
    }
    return _environment(latex_escape, **brackets).get_template("report.tex.j2").render(report=report)


def markdown_escape(words: str) -> str:
    """Escape text for Markdown."""
    return "".join(_MARKDOWN.get(letter, letter) for letter in words)


def latex_escape(words: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_LATEX.get(letter, letter) for letter in words)


def _environment(escape: Callable[[str], str] | None = None, **options: Any) -> jinja2.Environment:
    """Return a template environment that escapes everything except `Raw` text."""

    def finalize(value: object) -> object:
        return value if escape is None or isinstance(value, Raw) else escape(str(value))

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("foveate", "report"),
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        **options,
    )
    filters = {"svg": svg, "signed": signed, "spread_out": spread_out, "bands": _bands, "raw": Raw}
    environment.filters.update(**filters, two_lines=_two_lines, said_missing="Missing: {}.".format)
    environment.globals.update(DASHES=DASHES, PALETTE=PALETTE)
    environment.tests.update(number=_is_number, spread=_has_spread, published=_has_published)
    return environment


def _is_number(value: Cell) -> bool:
    return isinstance(value, Number)


def _has_spread(value: Cell) -> bool:
    return isinstance(value, Number) and None not in (value.value, value.sd)


def _has_published(value: Cell) -> bool:
    return isinstance(value, Number) and value.published is not None


def _two_lines(head: str) -> list[str]:
    """Split a long column head into two lines."""
    if len(head) <= 14 or " " not in head:
        return [head]
    middle = min(
        (index for index, letter in enumerate(head) if letter == " "),
        key=lambda index: abs(2 * index - len(head)),
    )
    return [head[:middle], head[middle + 1 :]]


def spread_out(block: ReportBlock) -> tuple[list[str], list[list[str]]]:
    """Return a block as text; a column with published values is followed by these and by differences."""
    columns = range(len(block.columns) - 1)
    with_published = [
        any(getattr(row.cells[column], "published", None) is not None for row in block.rows)
        for column in columns
    ]
    heads = [block.columns[0]]
    for column in columns:
        heads += [block.columns[column + 1], *(("published", "Δ") if with_published[column] else ())]
    rows: list[list[str]] = []
    for row in block.rows:
        texts = [row.label]
        for cell, published in zip(row.cells, with_published, strict=True):
            texts += [text(cell), *(_published(cell) if published else ())]
        rows.append(texts)
    return heads, rows


def _published(cell: Cell) -> tuple[str, str]:
    """Return the published value of a cell, and our value minus it."""
    if isinstance(cell, str) or cell.published is None:
        return "–", "–"
    shown = f"{cell.published:.{cell.digits}f}"
    return shown, "–" if cell.difference is None else signed(cell.difference, cell.digits)


def _bands(section: Section) -> list[list[ReportBlock]]:
    """Return the groups of blocks that are side by side in LaTeX: three blocks with the same rows."""
    blocks = list(section.blocks)
    labels = {tuple(row.label for row in block.rows) for block in blocks}
    if (
        section.layout == "wide"
        or len(labels) > 1
        or max((len(block.columns) for block in blocks), default=0) > 4
    ):
        return [[block] for block in blocks]
    return [blocks[start : start + _ACROSS] for start in range(0, len(blocks), _ACROSS)]


def csv_files(report: Report) -> dict[str, str]:
    """Return file contents by name: for each table, a CSV with one line a figure; and all raw results."""
    files: dict[str, str] = {}
    for section in report.sections:
        files[f"{section.key}.csv"] = _csv(pd.DataFrame(_cells(section.blocks), columns=list(_HEADS)))
        for block in section.details:
            if block.kind == "gains":
                heads = ["pair", "what", "gain", "low", "high", "sets", "seeds"]
                rows = [
                    (row.label, row.cells[0], *_value_and_interval(row.cells[1]), *row.cells[3:])
                    for row in block.rows
                ]
                files[f"{section.key}-gains.csv"] = _csv(pd.DataFrame(rows, columns=heads))
            if block.kind == "tests":
                rows = [(row.label, *map(_value, row.cells)) for row in block.rows]
                files[f"{section.key}-tests.csv"] = _csv(pd.DataFrame(rows, columns=list(block.columns)))
    return files if report.raw is None else {**files, "raw.csv": _csv(report.raw, "%.17g")}


def _cells(blocks: Sequence[ReportBlock]) -> Iterator[dict[str, Any]]:
    for block in blocks:
        for row in block.rows:
            for column, cell in zip(block.columns[1:], row.cells, strict=True):
                yield {"block": block.title, "row": row.label, "column": column, **_figure(cell, row)}


def _figure(cell: Cell, row: TableRow) -> dict[str, Any]:
    if isinstance(cell, str):
        return {"value": cell}
    if row.published:
        return {"published": cell.value}
    statistics = {
        name: getattr(cell, name)
        for name in ("value", "sd", "low", "high", "published", "difference", "mark")
    }
    return {**statistics, "seeds": cell.seeds or None}


def _value(cell: Cell) -> object:
    return cell.value if isinstance(cell, Number) else cell


def _value_and_interval(cell: Cell) -> tuple[object, ...]:
    return (cell.value, cell.low, cell.high) if isinstance(cell, Number) else (cell, None, None)


def _csv(frame: pd.DataFrame, digits: str = "%.6g") -> str:
    """Return a table as CSV; a cell without a value is empty."""

    def printed(value: object) -> object:
        if pd.isna(value):
            return ""
        return digits % value if isinstance(value, float) else value

    return csv_text(
        [list(frame.columns), *([printed(cell) for cell in row] for row in frame.to_numpy(object))]
    )


_FORMATS: Mapping[str, Callable[[Report], dict[str, str]]] = {
    "html": lambda report: {"report.html": html(report)},
    "md": lambda report: {"report.md": markdown(report)},
    "tex": lambda report: {"report.tex": latex(report)},
    "csv": csv_files,
}
