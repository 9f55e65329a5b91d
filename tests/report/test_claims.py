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
