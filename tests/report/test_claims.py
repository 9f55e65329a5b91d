"""The papers' claims: what holds, what does not, and what can't be told."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from synthetic_sweeps import answers, measured, result, write_all

from foveate.report.claims import Effect, claims
from foveate.report.model import Section
from foveate.report.sections import build
from foveate.report.writing import html, latex, markdown
from foveate.sweep.config import read_sweep

BASE = {"CoOp": 60, "CoOp + FVG-PT": 75, "without L_dist": 75}
METHODS = {"CoOp": "coop", "CoOp + FVG-PT": "fvgpt+coop", "without L_dist": "fvgpt+coop"}


@pytest.fixture
def section(tmp_path: Path) -> Section:
    """FVG-PT answers more base classes rightly at home, fewer anywhere; new ones are answered alike."""
    results = []
    for (row, method), seed in product(METHODS.items(), (1, 2, 3)):
        asked = []
        for condition in ("home", "any"):
            base = BASE[row] if condition == "home" else 135 - BASE[row]
            for split, share in (("base", base), ("new", 50)):
                right = answers(share, 600, row if split == "base" else "", seed, condition, split)
                one = measured(f"dtd@{condition}", split, right, 24)
                asked.append(replace(one, shift=0.2, shift_right=0.1, shift_wrong=0.3 + seed / 100))
        settings = {"fvgpt": {"terms": ["base"]}} if row == "without L_dist" else None
        results.append(result(row, "dtd", seed, *asked, method=method, settings=settings))
    report = build(write_all(tmp_path, results), draws=400)
    found = next(one for one in report.sections if one.key == "claims")
    for written in (html(report), markdown(report), latex(report)):
        assert "holds here" in written
    return found


@pytest.fixture
def others(tmp_path: Path) -> dict[str, Section]:
    """DAPT looks 10 points more at the object; FVG-PT gains with all shots alone, and on other sets."""
    results = []
    for (row, method), seed in product({"MaPLe": "maple", "MaPLe + DAPT-S": "dapt+maple"}.items(), (1, 2, 3)):
        share = 0.2 + 0.1 * ("DAPT" in row) + seed / 1000 * ("DAPT" in row)
        one = measured("dtd@home", "base", answers(50, 600, "same", seed), 24)
        results.append(result(row, "dtd", seed, replace(one, gaze=share), method=method))
    for (row, method), seed in product({"CoOp": "coop", "CoOp + FVG-PT": "fvgpt+coop"}.items(), (1, 2, 3)):
        for fraction in (0.25, 1.0):
            share = 60 + 15 * (fraction == 1 and method != "coop")
            right = answers(share, 600, row if share > 60 else "", seed, fraction)
            new = measured("dtd@home", "new", answers(50, 600, "same", seed), 24)
            asked = [measured("dtd@home", "base", right, 24), new]
            more = {"protocol": "data-efficiency", "variant": f"fraction-{fraction:g}", "method": method}
            results.append(result(row, "dtd", seed, *asked, **more))
        tests = [
            measured(key, "new", answers(50 + 20 * (method != "coop"), 600, row, seed, key), 24)
            for key in ("world-1", "world-2")
        ]
        results.append(result(row, "species", seed, *tests, protocol="cross-dataset", method=method))
    report = build(write_all(tmp_path, results), draws=400)
    return {one.title: one for one in report.sections if one.key.startswith("claims")}


def test_gaze_shots_and_other_sets_are_tested_too(others: dict[str, Section]):
    assert len(others) == 3
    blocks = {block.title: block for section in others.values() for block in section.blocks[1:]}
    gaze = blocks.pop(
        "DAPT looks at the object more than its host does (share of heat maps on the object, points, base)"
    )
    assert [row.label for row in gaze.rows] == ["MaPLe + DAPT-S − MaPLe"]
    assert str(gaze.rows[0].cells[0]).startswith("+10.2 (+10.0 to +10.4")
    assert gaze.rows[0].cells[1] == "holds here"
    fewer = blocks.pop(
        "FVG-PT answers more base classes rightly than its backbone, also with fewer shots (base)"
    )
    assert [(row.label, row.cells[1]) for row in fewer.rows] == [
        ("CoOp + FVG-PT − CoOp, 25% of the shots", "does not"),
        ("CoOp + FVG-PT − CoOp, 100% of the shots", "holds here"),
    ]
    transfer = blocks.pop("FVG-PT answers more rightly on sets that it was not trained on (target)")
    assert transfer.columns[1:] == ("other sets", "other sets: verdict")
    assert [row.cells[1] for row in transfer.rows] == ["holds here"]


def verdicts(section: Section, claim: str) -> list[tuple[str, ...]]:
    block = next(one for one in section.blocks if one.title.startswith(claim))
    return [tuple(str(cell) for cell in row.cells[1::2]) for row in block.rows]


def test_a_claim_holds_or_not_under_each_condition(section: Section):
    assert verdicts(section, "FVG-PT answers more base classes") == [("holds here", "does not")]
    assert set(verdicts(section, "FVG-PT answers more new classes")[0]) <= {"does not", "can't be told"}
    first = {row.label: row.cells for row in section.blocks[0].rows}
    base = "FVG-PT answers more base classes rightly than its backbone (FVG-PT, Table 1)"
    assert first[base] == ("1 hold", "1 not")
    assert not any("DAPT" in label for label in first)  # its rows are not there


def test_errors_are_compared_by_their_shift(section: Section):
    assert verdicts(section, "Wrong answers go with a larger foreground shift") == [
        ("holds here", "holds here")
    ]
    block = section.blocks[-1]
    assert str(block.rows[0].cells[0]).startswith("+0.220 (+0.195 to +0.245")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 5.0, "holds here"),
        (-5.0, -0.1, "does not"),
        (-0.9, 0.9, "does not"),
        (-0.9, 1.5, "can't be told"),
        (-3.0, 0.5, "can't be told"),
    ],
)
def test_the_verdict_is_the_intervals(low: float, high: float, verdict: str):
    assert Effect((low + high) / 2, low, high, None, 1.0).verdict == verdict


def test_the_sweep_that_comes_with_foveate_has_all_rows():
    config = Path(__file__).parents[2] / "configs" / "claims.yaml"
    rows = {row.name for table in read_sweep(config).tables for row in table.rows}
    named = {name for claim in claims() for pair in claim.rows for name in pair.values()}
    assert named <= rows
