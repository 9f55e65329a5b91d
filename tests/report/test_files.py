"""What is written: pages that stand alone, LaTeX that compiles, numbers that come back; and bad input."""

import csv
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweeps import lively, write_all

from foveate.report.frame import is_a
from foveate.report.model import (
    Chart,
    ChartPoint,
    Number,
    Report,
    ReportBlock,
    Section,
    Series,
    TableRow,
    signed,
    text,
)
from foveate.report.plots import svg
from foveate.report.sections import build
from foveate.report.writing import html, latex, latex_escape, markdown, markdown_escape
from foveate.sweep.results import Measured

ROWS = {"CoOp": "coop", "CoOp + FVG-PT": "fvgpt+coop"}
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Fails where tags do not fit into each other; keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(paper_report: Report) -> None:
    text_ = html(paper_report)
    page = Page()
    page.feed(text_)
    page.close()
    assert page.open == []
    tags = {tag for tag, _ in page.seen}
    assert "svg" in tags
    assert not tags & {"script", "link", "img", "iframe", "image", "object"}
    links = [own["href"] or "" for tag, own in page.seen if tag == "a"]
    identities = {own.get("id") for _, own in page.seen}
    assert links
    assert all(link.startswith("#") and link[1:] in identities for link in links)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|src=", text_)
    assert "prefers-color-scheme: dark" in text_
    assert "@media print" in text_
    assert 'name="viewport"' in text_


def test_names_are_escaped_everywhere() -> None:
    nasty = '<b>&"50%_$#{}~^\\|*`'
    block = ReportBlock(nasty, (nasty, "x"), (TableRow(nasty, (Number(1.0),)),))
    report = Report(
        nasty, (nasty,), (Section("a", nasty, nasty, (block,), notes=(nasty,), card=((nasty, nasty),)),)
    )
    page = Page()
    page.feed(html(report))
    assert page.open == []
    assert "b" not in {tag for tag, _ in page.seen}
    written = latex(report)
    assert nasty not in written
    assert latex_escape(nasty) == (
        r"\textless{}b\textgreater{}\&\textquotedbl{}50\%\_\$\#\{\}\textasciitilde{}\textasciicircum{}"
        r"\textbackslash{}\textbar{}*`"
    )
    assert latex_escape("82.40 ± 0.31 †, −1") == r"82.40 $\pm$ 0.31 \textdagger{}, $-$1"
    assert markdown_escape("a|b_c") == r"a\|b\_c"


def test_latex_is_balanced(paper_report: Report) -> None:
    written = latex(paper_report)
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", written) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended)
    bare = re.sub(r"\\[{}]", "", written)
    assert bare.count("{") == bare.count("}")
    assert r"\toprule" in written
    assert r"\multicolumn{3}{c}{ImageNet}" in written
    table = written[written.index(r"\begin{tabular}") : written.index(r"\end{tabular}")]
    rows = [line for line in table.split("\n") if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.count("&") for line in rows} == {9}  # a label, three sets with base, new and HM


def test_numbers_as_words() -> None:
    assert text(Number(82.4, 0.306, 3, mark="†")) == "82.40 ± 0.31 †"
    assert text(Number(None)) == "–"
    assert text(Number(-0.001, signed=True)) == "+0.00"
    assert signed(-1.5) == "−1.50"
    assert Number(82.404, published=82.41).difference == pytest.approx(-0.01)


def test_csv_files_hold_every_figure(tmp_path: Path, foveate: Callable[..., Any]) -> None:
    sweep = write_all(tmp_path / "sweep", lively(ROWS, ["dtd"], (1, 2)))
    said = foveate("report", sweep, "--against", "paper", "--draws", 100)
    assert said.code == 0, said
    out = sweep / "report"
    assert {path.name for path in out.iterdir()} >= {
        "report.md",
        "report.tex",
        "report.html",
        "raw.csv",
        "table-1.csv",
    }
    raw = list(csv.DictReader(io.StringIO((out / "raw.csv").read_text())))
    assert len(raw) == 2 * 2 * 3
    assert float(raw[0]["accuracy"]) == pytest.approx(100 * int(raw[0]["right"]) / int(raw[0]["pictures"]))
    table = list(csv.DictReader(io.StringIO((out / "table-1.csv").read_text())))
    base = [row for row in raw if (row["row"], row["split"]) == ("CoOp", "base")]
    cell = next(row for row in table if (row["row"], row["column"]) == ("CoOp", "base"))
    assert float(cell["value"]) == pytest.approx(sum(float(row["accuracy"]) for row in base) / 2, rel=1e-5)
    assert cell["published"] == "78.24"
    tests = list(csv.DictReader(io.StringIO((out / "table-1-tests.csv").read_text())))
    assert [row["classes"] for row in tests] == ["base", "new"]
    assert all(0 < float(row["p"]) <= float(row["p (Holm)"]) <= 1 for row in tests)
    gains = list(csv.DictReader(io.StringIO((out / "table-1-gains.csv").read_text())))
    assert [row["what"] for row in gains] == ["base", "new", "HM"]
    assert all(float(row["low"]) <= float(row["gain"]) <= float(row["high"]) for row in gains)


def test_one_format_elsewhere_and_the_same_each_time(tmp_path: Path, foveate: Callable[..., Any]) -> None:
    sweep = write_all(tmp_path / "sweep", lively(ROWS, ["dtd"], (1, 2)))
    pages: list[bytes] = []
    for out in (tmp_path / "a", tmp_path / "b"):
        said = foveate("report", sweep, "--format", "html", "--out", out, "--draws", 100)
        assert (said.code, said.out) == (0, f"{out / 'report.html'}\n")
        assert [path.name for path in out.iterdir()] == ["report.html"]
        pages.append((out / "report.html").read_bytes())
    assert pages[0] == pages[1]
    foveate("report", sweep, "--format", "html", "--out", out, "--draws", 100, "--seed", 1)
    assert (out / "report.html").read_bytes() != pages[0]


def test_costs_are_read(tmp_path: Path) -> None:
    write_all(tmp_path, lively({"CoOp": "coop"}, ["dtd"], (1,)))
    row = {
        "row": "MMRL",
        "learned_numbers": 4992256,
        "tuning_pictures_per_second": 87.5,
        "peak_memory_mb": 2010.0,
    }
    (tmp_path / "cost.json").write_text(
        json.dumps({"rows": [row], "device": "a GPU", "settings": {}, "versions": {}})
    )
    found = next(one for one in build(tmp_path, against=True, draws=100).sections if one.key == "table-7")
    assert [(line.label, line.published) for line in found.blocks[0].rows] == [
        ("MMRL", False),
        ("MMRL, published", True),
        ("FVG-PT, published", True),
    ]
    assert [line.cells[0] for line in found.blocks[0].rows[:2]] == ["4,992,256", "4.99 M"]
    (tmp_path / "cost.json").write_text("[]")
    assert any("cost.json is damaged" in one for one in build(tmp_path, draws=100).warnings)


@pytest.mark.parametrize("key", ["dtd", "world-1"])
def test_costs_stand_where_the_paper_has_them(tmp_path: Path, key: str) -> None:
    write_all(tmp_path, lively({"CLIP": "zeroshot", "CoOp": "coop"}, [key], (1,)))
    (tmp_path / "cost.json").write_text(json.dumps({"rows": [], "device": "a GPU"}))
    keys = [one.key for one in build(tmp_path, draws=100).sections]
    assert keys.index("table-1") < keys.index("table-7") < keys.index("took")


def test_damaged_and_unfinished_runs_are_named(tmp_path: Path, foveate: Callable[..., Any]) -> None:
    results = lively(ROWS, ["dtd"], (1, 2))
    sweep = write_all(tmp_path, results)
    (sweep / results[0].key / "result.json").write_text('{"schema": 1')
    edited = sweep / results[1].key / "result.json"
    values = json.loads(edited.read_text())
    values["measured"][0]["accuracy"] += 5
    edited.write_text(json.dumps(values))
    (sweep / "base-to-new" / "begun").mkdir()
    (sweep / "base-to-new" / "begun" / "job.json").write_text("{}")
    said = foveate("report", sweep, "--format", "md", "--draws", 100)
    assert said.code == 0
    notes = " ".join(said.err.split())
    assert f"{results[0].key}/result.json is damaged" in notes
    assert f"{results[1].key}/result.json is damaged: an accuracy is not that of its answers" in notes
    assert "Begun and not finished" in notes
    assert "damaged" in (sweep / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no result.json in"),
        ("{", "can be read, first:"),
        ('{"schema": 99}', "written by a newer foveate"),
    ],
)
def test_nothing_to_report_is_one_line(
    tmp_path: Path, foveate: Callable[..., Any], content: str | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    said = foveate("report", tmp_path)
    assert (said.code, said.out) == (2, "")
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": "one"}, "is damaged: "),
        ({"config": None}, "is damaged: "),
        ({"learned_numbers": True}, "is damaged: learned_numbers is True"),
        ({"seconds": {"train": float("nan")}}, "is damaged: it: not valid JSON (NaN"),
        ({"protocol": "few-words"}, "is of the protocol 'few-words', which this foveate does not know"),
        ({"accuracy": "high"}, "is damaged: "),
        ({"pictures": 0, "right": ""}, "is damaged: an accuracy is not that of its answers"),
        ({"per_class": {}}, "is damaged: its classes' right answers are not those of its answers"),
    ],
)
def test_edited_results_are_left_out_and_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    one, two = lively({"CoOp": "coop"}, ["dtd"], (1, 2))
    write_all(tmp_path, [one, two])
    path = tmp_path / one.key / "result.json"
    values = json.loads(path.read_text())
    own = values["measured"][0] if change.keys() & values["measured"][0].keys() else values
    own.update(change)
    path.write_text(json.dumps(values))
    report = build(tmp_path, draws=100)
    assert report.facts[0].startswith("1 run,")
    assert len(report.warnings) == 1
    assert f"{path} {says}" in report.warnings[0]


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        ("one", int, False),
        (True, int, False),
        (1, float, True),
        (math.inf, float, False),
        (None, float | None, True),
        ("x", float | None, False),
        (None, dict[str, Any], False),
        ({"settings": [1]}, dict[str, Any], True),
        ({"split": 3}, dict[str, str], False),
        ([], tuple[Measured, ...], False),
    ],
)
def test_fields_are_what_they_are_declared_as(value: object, hint: Any, fits: bool) -> None:
    assert is_a(value, hint) == fits


def test_backbones_alone_are_no_report(tmp_path: Path, foveate: Callable[..., Any]) -> None:
    (one,) = lively({"CoOp": "coop"}, ["dtd"], (1,))
    said = foveate("report", write_all(tmp_path, [replace(one, measured=())]))
    assert said.code == 2
    assert "was tested yet" in said.err
    assert said.err.count("\n") == 1


def test_a_file_is_no_place_for_a_report(tmp_path: Path, foveate: Callable[..., Any]) -> None:
    sweep = write_all(tmp_path / "sweep", lively({"CoOp": "coop"}, ["dtd"], (1,)))
    (tmp_path / "there").write_text("mine")
    said = foveate("report", sweep, "--out", tmp_path / "there", "--draws", 100)
    assert said.code == 2
    assert "is no folder: give another one to --out" in said.err
    assert said.err.count("\n") == 1
    assert (tmp_path / "there").read_text() == "mine"


def test_many_columns_have_deviations_below_in_latex() -> None:
    def table(columns: int) -> str:
        row = TableRow("CoOp", tuple(Number(70.0, 0.5, 3, published=69.0, best=True) for _ in range(columns)))
        block = ReportBlock("", ("method", *map(str, range(columns))), (row,))
        return latex(Report("r", (), (Section("a", "A", "", (block,)),)))

    few, many = table(2), table(12)
    assert r"\textbf{70.00} {\scriptsize $\pm$\,0.50} &" in few
    assert r"CoOp & \textbf{70.00} & \textbf{70.00} &" in many
    assert r" & {\scriptsize $\pm$\,0.50} & {\scriptsize $\pm$\,0.50} &" in many
    for written in (few, many):
        assert r"{\scriptsize 69.00 +1.00}" in written
        assert r"\fit{\begin{tabular}" in written


def test_contents_say_drawn_where_both_are_there() -> None:
    drawn, photographs = Section("a", "Table 1", "", drawn=True), Section("b", "Table 1", "")
    both = html(Report("r", (), (photographs, drawn)))
    assert '<a href="#a">Table 1, drawn scenes</a>' in both
    assert '<a href="#a">Table 1</a>' in html(Report("r", (), (drawn,)))


def test_drawn_sets_are_described(tmp_path: Path) -> None:
    report = build(write_all(tmp_path, lively({"CoOp": "coop"}, ["world-10", "world-4"], (1,))), draws=100)
    assert report.sets[0] == ("world-4", "8 classes, colours of one shape, small")
    assert [title for title, _ in report.sets] == ["world-4", "world-10"]
    for written in (html(report), markdown(report), latex(report)):
        assert "colours of one shape, small" in written


@pytest.mark.parametrize("width", [0.03, 1.0, 2.4, 9.0, 10.0, 47.0, 51.0, 99.0])
def test_scales_have_three_to_seven_ticks(width: float) -> None:
    points = (ChartPoint(13.0, 0), ChartPoint(13.0 + width, 0))
    drawn = svg(Chart("dots", "HM", (Series("CoOp", points, 0),), ("CoOp",), "HM, %"))
    assert 3 <= drawn.count("<text") - 2 <= 7  # the others are the row's name and the axis' label


def test_curves_name_both_axes() -> None:
    series = (Series("CoOp", (ChartPoint(1.0, 50.0), ChartPoint(2.0, 60.0)), 0),)
    drawn = svg(Chart("lines", "DTD", series, x_label="shots a class", y_label="HM, %"))
    assert "shots a class</text>" in drawn
    assert "HM, %</text>" in drawn


def test_other_mistakes_are_one_line(tmp_path: Path, foveate: Callable[..., Any]) -> None:
    for words, says in (((tmp_path / "no",), "is no folder"), ((tmp_path, "--draws", 5), "100 or more")):
        said = foveate("report", *words)
        assert said.code == 2
        assert says in said.err
        assert said.err.count("\n") == 1
