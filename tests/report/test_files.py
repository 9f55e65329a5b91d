"""What is written: pages that stand alone, LaTeX that compiles, numbers that come back; and bad input."""

import csv
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweeps import lively, write_all

from foveate.report.building import build
from foveate.report.html import html
from foveate.report.latex import escape, latex
from foveate.report.markdown import escape as escape_markdown
from foveate.report.model import Block, Number, Report, Row, Section, signed, text

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
    block = Block(nasty, (nasty, "x"), (Row(nasty, (Number(1.0),)),))
    report = Report(
        nasty, (nasty,), (Section("a", nasty, nasty, (block,), notes=(nasty,), card=((nasty, nasty),)),)
    )
    page = Page()
    page.feed(html(report))
    assert page.open == []
    assert "b" not in {tag for tag, _ in page.seen}
    written = latex(report)
    assert nasty not in written
    assert escape(nasty) == (
        r"\textless{}b\textgreater{}\&\textquotedbl{}50\%\_\$\#\{\}\textasciitilde{}\textasciicircum{}"
        r"\textbackslash{}\textbar{}*`"
    )
    assert escape("82.40 ± 0.31 †, −1") == r"82.40 $\pm$ 0.31 \textdagger{}, $-$1"
    assert escape_markdown("a|b_c") == r"a\|b\_c"


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
    assert found.blocks[0].rows[0].cells[0] == found.blocks[0].rows[1].cells[0] == "4.99"
    (tmp_path / "cost.json").write_text("[]")
    assert any("cost.json is damaged" in one for one in build(tmp_path, draws=100).warnings)


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


def test_other_mistakes_are_one_line(tmp_path: Path, foveate: Callable[..., Any]) -> None:
    for words, says in (((tmp_path / "no",), "is no folder"), ((tmp_path, "--draws", 5), "100 or more")):
        said = foveate("report", *words)
        assert said.code == 2
        assert says in said.err
        assert said.err.count("\n") == 1
