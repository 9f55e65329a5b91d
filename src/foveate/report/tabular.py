"""A report as CSV: a file for each table, with a line for each figure, and one of all raw numbers."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from foveate.report.model import Cell, Number, Report, Row, Section

_HEADS = ("block", "row", "column", "value", "sd", "seeds", "low", "high", "published", "difference", "mark")

_GAINS = ("pair", "what", "gain", "low", "high", "sets", "seeds")


def csv_files(report: Report) -> dict[str, str]:
    """Return contents by file name."""
    files = {f"{section.key}.csv": _written([_HEADS, *_lines(section)]) for section in report.sections}
    for section in report.sections:
        for block in section.details:
            if block.kind == "gains":
                files[f"{section.key}-gains.csv"] = _written([_GAINS, *map(_gain, block.rows)])
            if block.kind == "tests":
                rows = [[row.label, *map(_plain, row.cells)] for row in block.rows]
                files[f"{section.key}-tests.csv"] = _written([block.columns, *rows])
    return {**files, "raw.csv": _written(report.raw)}


def _lines(section: Section) -> Iterator[Sequence[str]]:
    for block in section.blocks:
        for row in block.rows:
            for column, cell in zip(block.columns[1:], row.cells, strict=True):
                yield [block.title, row.label, column, *_figure(cell, row.published)]


def _figure(cell: Cell, published: bool) -> list[str]:
    if isinstance(cell, str):
        return [cell, *[""] * 7]
    if published:
        return ["", "", "", "", "", _number(cell.value), "", ""]
    seeds = str(cell.seeds) if cell.seeds else ""
    numbers = (cell.low, cell.high, cell.published, cell.difference)
    return [_number(cell.value), _number(cell.sd), seeds, *map(_number, numbers), cell.mark]


def _gain(row: Row) -> list[str]:
    what, gain, _, sets, seeds = row.cells
    ends = (gain.low, gain.high) if isinstance(gain, Number) else (None, None)
    return [row.label, *map(_plain, (what, gain)), *map(_number, ends), *map(_plain, (sets, seeds))]


def _plain(cell: Cell) -> str:
    return _number(cell.value) if isinstance(cell, Number) else cell


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _written(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
