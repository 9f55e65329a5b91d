"""The paper's own numbers as results give its averages and harmonic means (and show where it errs)."""

import json
from pathlib import Path

import pytest

from foveate.evaluate.metrics import harmonic_mean, mean
from foveate.report import published
from foveate.report.model import Number, Report, ReportBlock, Section


def section(report: Report, key: str) -> Section:
    return next(one for one in report.sections if one.key == key)


def number(block: ReportBlock, row: str, column: str) -> Number:
    cells = next(one for one in block.rows if one.label == row).cells
    cell = cells[block.columns.index(column) - 1]
    assert isinstance(cell, Number)
    return cell


def block(report: Report, key: str, title: str) -> ReportBlock:
    return next(one for one in section(report, key).blocks if one.title == title)


@pytest.mark.parametrize("row", published.rows())
def test_table_1_comes_back(paper_report: Report, row: str) -> None:
    average = block(paper_report, "table-1", "Average over 11 sets")
    ours = row.replace("+", " + ")
    for column, printed in zip(
        ("base", "new", "HM"), published.base_to_new(row, "average") or (), strict=True
    ):
        found = number(average, ours, column)
        assert found.value == pytest.approx(
            printed, abs=0.0101
        )  # two HMs were printed from unrounded averages
        assert (found.published, found.seeds, found.mark) == (printed, 3, "")
        assert found.low is not None
        assert found.high is not None
        assert found.value is not None
        assert found.low < found.value < found.high
    for title in published.sets():
        own = block(paper_report, "table-1", title)
        for column, printed in zip(
            ("base", "new", "HM"), published.base_to_new(row, title) or (), strict=True
        ):
            assert number(own, ours, column).value == pytest.approx(printed, abs=0.0051)
            assert number(own, ours, column).sd == pytest.approx(0.0, abs=1e-9)


def test_hm_is_that_of_averages_and_no_mean_of_hms(paper_report: Report) -> None:
    average = block(paper_report, "table-1", "Average over 11 sets")
    found = number(average, "CoOp + FVG-PT", "HM").value
    of_sets = [
        number(block(paper_report, "table-1", title), "CoOp + FVG-PT", "HM").value
        for title in published.sets()
    ]
    assert found == pytest.approx(77.763, abs=0.001)
    assert mean([value or 0.0 for value in of_sets]) == pytest.approx(
        77.285, abs=0.001
    )  # must not be reported


@pytest.mark.parametrize("row", published.rows())
def test_table_2_averages_leave_the_source_out(paper_report: Report, row: str) -> None:
    (table,) = section(paper_report, "table-2").blocks
    found = number(table, row.replace("+", " + "), "average")
    assert found.value == pytest.approx(found.published, abs=0.0051)
    assert table.columns[1] == "ImageNet"


def test_the_paper_agrees_with_itself_but_where_it_is_known_not_to() -> None:
    for row in published.rows():
        whole = published.base_to_new(row, "average")
        again = published.base_to_new_average(row, published.sets()[:10])
        assert whole is not None
        assert again is not None
        assert again != whole
        for title in (*published.sets(), "average"):
            base, new, hm = published.base_to_new(row, title) or (0.0, 0.0, 0.0)
            rounded = row in ("PromptSRC+FVG-PT", "MMRL+FVG-PT") and title == "average"
            assert abs(harmonic_mean(base, new) - hm) < (0.0101 if rounded else 0.0051), (row, title)
    assert published.components(True, True, True) == published.base_to_new("CoOp+FVG-PT", "average")
    assert published.swept("adapter_dim_hm", 64) == (None, None, 77.76)
    assert published.swept("gate_layers", 2) == (82.40, 73.62, 77.76)
    assert any("77.16" in one and "77.76" in one for one in published.ERRATA)


def test_daps_averages_stand_beside(paper_report: Report) -> None:
    (table,) = section(paper_report, "table-11").blocks
    found = {row.label: [cell.value for cell in row.cells if isinstance(cell, Number)] for row in table.rows}
    assert found["DAPT-S"] == [83.95, 75.23, 79.35]
    assert found["DAPT-G"] == [83.13, 74.14, 78.38]
    assert all(row.published == (not row.label.endswith("(ours)")) for row in table.rows)


def test_table_10_tells_the_two_deviations_apart(paper_report: Report) -> None:
    (table,) = section(paper_report, "table-10").blocks
    assert number(table, "DTD", "CoOp + FVG-PT").published == 0.80
    assert number(table, "of the average", "CoOp + FVG-PT").published is None


def test_rows_are_matched_without_signs() -> None:
    assert published.base_to_new("coop_fvgpt", "DTD") == published.base_to_new("CoOp+FVG-PT", "DTD")
    assert published.base_to_new("CoOp + DAPT", "DTD") is None
    assert published.tower("openai/clip-vit-base-patch16") == published.tower("ViT-B/16") == "ViT-B/16"
    assert published.tower("openai/clip-vit-large-patch14") == "ViT-L/14"
    assert published.tower("tiny") == "tiny"
    assert published.tower("weights/mine.pt") is None


def test_the_tables_are_those_that_were_handed_over() -> None:
    there = Path(__file__).parents[3] / "shared" / "data" / "paper-tables.json"
    if not there.is_file():
        pytest.skip("../shared is not there")
    assert json.loads(there.read_text(encoding="utf-8")) == published.tables()
