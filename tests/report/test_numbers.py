"""Every number of a report of every protocol: those that were recorded before may not change."""

import json
import math
from pathlib import Path
from typing import Any

from synthetic_sweeps import everything, write_all

from foveate.report.model import Cell, Number, Report
from foveate.report.sections import build

RECORDED = Path(__file__).with_name("numbers.json")


def numbers(report: Report) -> dict[str, dict[str, list[Any]]]:
    """Return every cell of every table, and the marks of the charts, by where they stand."""
    found: dict[str, dict[str, list[Any]]] = {}
    for section in report.sections:
        own = found.setdefault(section.key, {})
        for place, block in enumerate((*section.blocks, *section.details)):
            for row in block.rows:
                cells = [shown(cell) for cell in row.cells]
                own.setdefault(f"{place}: {block.title} | {row.label}", []).append(cells)
        for chart in section.charts:
            for series in chart.series:
                points = [[point.x, point.y, point.low, point.high] for point in series.points]
                own.setdefault(f"chart: {chart.title} | {series.label}", []).append(points)
        own["missing"] = list(section.missing)
    return found


def shown(cell: Cell) -> Any:
    if not isinstance(cell, Number):
        return cell
    known = (cell.value, cell.sd, cell.seeds, cell.low, cell.high, cell.published, cell.mark, cell.best)
    return [round(one, 9) if isinstance(one, float) else one for one in known]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-8)
    return one == other


def test_no_number_changes(tmp_path: Path) -> None:
    report = build(write_all(tmp_path / "sweep", everything()), against=True, draws=100)
    found, recorded = numbers(report), json.loads(RECORDED.read_text(encoding="utf-8"))
    assert found.keys() == recorded.keys()
    for key, own in recorded.items():
        assert found[key].keys() == own.keys(), key
        for where, values in own.items():
            assert same(values, found[key][where]), (key, where, values, found[key][where])
