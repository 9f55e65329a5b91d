"""Any two rows against each other, and test conditions side by side."""

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from synthetic_sweeps import answers, likely, lively, measured, result, write_all

from foveate.errors import InputError
from foveate.report.figures import paired
from foveate.report.frame import read_sweep
from foveate.report.model import Number, Report
from foveate.report.sections import build
from foveate.report.statistics import Bootstrap, average_p, holm, paired_p
from foveate.report.writing import html, latex, markdown
from foveate.sweep.results import Result

ROWS = {"CoOp": "coop", "CoOp + FVG-PT": "fvgpt+coop"}


def rights(seed: int, seeds: int, pictures: int) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = torch.rand(2, seeds, pictures, generator=torch.Generator().manual_seed(seed)) < 0.6
    return first, second


def all_flips(sets: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return the p of the mean over sets by counting every flip of every picture."""
    gains = torch.cat([(one.double() - other.double()).sum(0) / one.numel() for one, other in sets])
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=len(gains))), dtype=torch.float64)
    return float(((signs @ gains).abs() >= gains.sum().abs() - 1e-9).double().mean())


@pytest.mark.parametrize("seed", range(4))
def test_the_test_of_an_average_counts_every_flip(seed: int) -> None:
    sets = [rights(seed, 2, 5), rights(seed + 10, 3, 7), rights(seed + 20, 1, 4)]
    assert average_p(sets) == pytest.approx(all_flips(sets), abs=1e-9)
    assert average_p(sets[:1]) == pytest.approx(paired_p(*sets[0]), abs=1e-9)


def test_sets_of_one_size_are_one_set_to_the_test() -> None:
    one, other = rights(0, 3, 200), rights(1, 3, 200)
    both = [torch.cat(parts, dim=1) for parts in zip(one, other, strict=True)]
    assert average_p([one, other]) == pytest.approx(paired_p(*both), abs=1e-9)


def test_a_set_counts_the_same_whatever_its_size() -> None:
    few = (torch.tensor([[True] * 10]), torch.tensor([[False] * 10]))
    many = (torch.arange(1000)[None] < 500, torch.arange(1000)[None] < 500)
    assert average_p([few, many]) == pytest.approx(2 / 2**10, abs=1e-9)


@pytest.mark.parametrize(("lost", "won"), [(2, 8), (0, 5), (3, 3), (120, 160)])
def test_with_one_seed_it_is_scipys_binomial_test(lost: int, won: int) -> None:
    first = torch.tensor([[True] * lost + [False] * won])
    assert paired_p(first, ~first) == pytest.approx(binomtest(lost, lost + won).pvalue, abs=1e-12)


def test_holm_is_that_of_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    values = np.random.default_rng(0).random(40) ** 4
    assert holm(list(values)) == pytest.approx(multitest.multipletests(values, method="holm")[1])


def test_paired_gives_the_difference_under_each_seed(tmp_path: Path) -> None:
    results = lively(ROWS, ["dtd", "eurosat"], (1, 2, 3))
    frame = read_sweep(write_all(tmp_path, results)).frame
    found = paired(frame, "CoOp + FVG-PT", "CoOp", bootstrap=Bootstrap(200))
    assert list(found["measure"]) == ["base", "new", "HM"]
    base = found.iloc[0]
    table = frame[frame["split"] == "base"].pivot_table(index="seed", columns="row", values="accuracy")
    wanted = (table["CoOp + FVG-PT"] - table["CoOp"]).to_dict()
    assert base["seeds"] == pytest.approx(wanted)
    assert base["difference"] == pytest.approx(np.mean(list(wanted.values())))
    assert base["low"] < base["difference"] < base["high"]
    assert (base["sets"], base["pictures"]) == (2, 800)
    assert 0 < base["p"] <= 1
    assert np.isnan(found.iloc[2]["p"])
    by_set = paired(frame, "fvgpt+coop", "coop", by=["set"], bootstrap=Bootstrap(200))
    assert list(by_set["set"]) == ["dtd"] * 3 + ["eurosat"] * 3
    assert by_set[by_set["measure"] == "base"]["difference"].mean() == pytest.approx(base["difference"])
    back = paired(frame, "CoOp", "CoOp + FVG-PT", bootstrap=Bootstrap(200))
    assert back.iloc[0]["p"] == pytest.approx(base["p"])
    assert (back.iloc[0]["only_a"], back.iloc[0]["only_b"]) == (base["only_b"], base["only_a"])


def test_rows_on_other_pictures_are_no_pair(tmp_path: Path) -> None:
    one, two = lively(ROWS, ["dtd"], (1,))
    moved = tuple(replace(answer, digest="other") for answer in two.measured)
    frame = read_sweep(write_all(tmp_path, [one, replace(two, measured=moved)])).frame
    with pytest.raises(InputError, match="share no table with a test on the same pictures"):
        paired(frame, "CoOp + FVG-PT", "CoOp")


def test_two_rows_are_compared_per_set_and_on_average(tmp_path: Path, foveate: Callable[..., Any]) -> None:
    rows = {"mine": "coop", "MMRL + FVG-PT": "fvgpt+mmrl", "KgCoOp": "kgcoop"}
    sweep = write_all(tmp_path, lively(rows, ["dtd", "eurosat"], (1, 2)))
    said = foveate("report", sweep, "--format", "md", "--draws", 100, "--compare", "fvgpt+mmrl", "mine")
    assert said.code == 0, said
    assert "## MMRL + FVG-PT against mine: base to new" in (sweep / "report" / "report.md").read_text()
    report = build(sweep, draws=100, compare=("mmrl + fvg-pt", "mine"))
    found = next(one for one in report.sections if one.key == "compare")
    average, by_set = found.blocks
    assert average.title == "On average over 2 sets, each of the same weight"
    assert [row.label for row in by_set.rows] == ["DTD"] * 3 + ["EuroSAT"] * 3
    assert [row.cells[0] for row in average.rows] == ["base", "new", "HM"]
    p, corrected = (one for one in by_set.rows[0].cells[-2:])
    assert isinstance(p, Number)
    assert isinstance(corrected, Number)
    assert (p.value or 0) <= (corrected.value or 0)
    assert by_set.rows[2].cells[-2:] == ("", "")


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        (("CoOp", "CoOp + FVGPT"), ""),
        (("CoOp", "CoOps"), "there is no row 'CoOps': did you mean 'CoOp'? rows are 'CoOp', 'CoOp + FVG-PT'"),
        (("CoOp", "coop"), "are not two rows of one table"),
        (("CoOp",), "--compare needs 2 values"),
        (("CoOp", "--against"), "--compare needs 2 values"),
    ],
)
def test_who_is_compared_is_found_or_named(
    tmp_path: Path, foveate: Callable[..., Any], pair: tuple[str, ...], says: str
) -> None:
    sweep = write_all(tmp_path, lively(ROWS, ["dtd"], (1,)))
    said = foveate("report", sweep, "--format", "csv", "--draws", 100, "--compare", *pair)
    assert said.code == (2 if says else 0)
    assert says in said.err
    assert said.err.count("\n") == bool(says)


def test_without_the_extra_it_is_named(
    tmp_path: Path, foveate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foveate.foreground.proposers.registry.find_spec", lambda name: None)
    said = foveate("report", write_all(tmp_path, lively(ROWS, ["dtd"], (1,))))
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "pip install 'foveate[report]'" in said.err
    assert "pandas" not in sys.modules or not (tmp_path / "report").exists()


@pytest.fixture
def by_condition(tmp_path: Path) -> Report:
    """A sweep that was tested under three conditions, under which a plug-in helps more and more."""
    results: list[Result] = []
    for place, (row, method) in enumerate(ROWS.items()):
        for dataset, seed in product(("dtd", "eurosat"), (1, 2)):
            asked = [
                measured(
                    f"{dataset}@{condition}",
                    split,
                    likely(80 - 15 * at + 3 * place * at, 120, seed, row, dataset, split, condition),
                    24,
                )
                for at, condition in enumerate(("home", "any", "sibling"))
                for split in ("base", "new")
            ]
            results.append(result(row, dataset, seed, *asked, method=method))
    return build(write_all(tmp_path, results), draws=100, compare=("CoOp + FVG-PT", "CoOp"))


def test_conditions_stand_side_by_side(by_condition: Report) -> None:
    keys = [one.key for one in by_condition.sections]
    assert "table-1" not in keys  # which is of the plain test
    found = next(one for one in by_condition.sections if one.key == "conditions")
    assert found.blocks[0].title == "Average over 2 sets, base"
    assert found.blocks[0].columns == ("method", "home", "any", "sibling")
    values = [cell.value for cell in found.blocks[0].rows[0].cells if isinstance(cell, Number)]
    assert values == pytest.approx([80, 65, 50], abs=1)
    gains = next(one for one in found.details if one.kind == "gains")
    assert [row.cells[0] for row in gains.rows if str(row.cells[0]).startswith("HM")] == [
        "HM, home",
        "HM, any",
        "HM, sibling",
    ]
    compared = next(one for one in by_condition.sections if one.key == "compare").blocks[0]
    assert [row.label for row in compared.rows][:2] == ["average, home", "average, home"]
    for written in (html(by_condition), markdown(by_condition), latex(by_condition)):
        assert "sibling" in written
    assert by_condition.raw is not None
    assert set(by_condition.raw["condition"]) == {"home", "any", "sibling"}


def test_formulas_are_no_formulas_in_csv_files(tmp_path: Path, foveate: Callable[..., Any]) -> None:
    one = result(
        "=1+1", "dtd", 1, *(measured("dtd", half, answers(70, 50, half), 24) for half in ("base", "new"))
    )
    sweep = write_all(tmp_path, [replace(one, key="a")])
    assert foveate("report", sweep, "--format", "csv", "--draws", 100).code == 0
    for name in ("raw.csv", "table-1.csv"):
        assert "'=1+1" in (sweep / "report" / name).read_text()
        assert ",=1+1" not in (sweep / "report" / name).read_text()
