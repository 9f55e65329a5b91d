"""What a report is made of, whatever it is written as: sections of tables, charts, tests and notes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from foveate.report.statistics import Estimate, deviation


@dataclass(frozen=True)
class Number:
    """A figure of a table, with what stands behind it.

    Attributes:
        value: Percent, unless the column says otherwise; None where there is none.
        sd: Standard deviation over seeds (n - 1).
        seeds: How many it is the mean of.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end.
        published: The published figure.
        mark: "†" where it is the mean of fewer than it should be.
        digits: Behind the point.
        best: Whether no other of ours in its column is higher; of a p value, whether it is significant.
        signed: Whether it is a difference.
        neutral: Whether more of it is neither better nor worse.
        least: Lower values are shown as "< least".
    """

    value: float | int | None
    sd: float | None = None
    seeds: int = 0
    low: float | None = None
    high: float | None = None
    published: float | None = None
    mark: str = ""
    digits: int = 2
    best: bool = False
    signed: bool = False
    neutral: bool = False
    least: float | None = None

    @property
    def difference(self) -> float | None:
        """Ours less the published one, of the printed digits as the field does it."""
        if self.value is None or self.published is None:
            return None
        return round(self.value, self.digits) - round(self.published, self.digits)

    @property
    def text(self) -> str:
        """The value alone: "82.40 †", "−1.50", "< 0.001", "–"."""
        if self.value is None:
            return "–"
        if self.least is not None and self.value < self.least:
            return f"< {self.least:g}"
        shown = signed(self.value, self.digits) if self.signed else f"{self.value:.{self.digits}f}"
        return f"{shown} {self.mark}".strip()

    @property
    def interval(self) -> str:
        """Its interval in words: "80.10 to 84.20"."""
        if self.low is None or self.high is None:
            return "–"
        ends = (signed(end) if self.signed else f"{end:.{self.digits}f}" for end in (self.low, self.high))
        return " to ".join(ends)


Cell = Number | str
"""A figure, or words."""


@dataclass(frozen=True)
class TableRow:
    """A row of a block: its first column and the others; `published` where it has published figures alone."""

    label: str
    cells: tuple[Cell, ...]
    published: bool = False


@dataclass(frozen=True)
class ReportBlock:
    """A table, or one of several that are set beside each other.

    Attributes:
        title: Over it; may be empty.
        columns: Heads, that of the labels first.
        rows: From top to bottom.
        kind: What it is, where it belongs to a table: gains of plug-ins, all figures, paired tests.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    kind: Literal["", "gains", "figures", "tests"] = ""


@dataclass(frozen=True)
class ChartPoint:
    """A mark of a chart, with the ends of its interval; in a chart of names, y is a place in their list."""

    x: float | int
    y: float | int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Marks that belong together.

    Attributes:
        label: In the legend.
        points: From left to right.
        colour: Which of the palette; -1 for published figures, drawn as diamonds.
        hollow: Drawn as rings, without intervals.
    """

    label: str
    points: tuple[ChartPoint, ...]
    colour: int
    hollow: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        kind: "lines" has x and y as numbers; "dots" has names from top to bottom and a number to the right.
        title: Over it.
        series: What is drawn.
        names: Of "dots".
        x_label: Under it.
        y_label: Of "lines".
        ticks: Where "lines" has numbers on its x axis; chosen if there are none.
        zero: Whether 0 is always in sight, with a line of its own ("dots").
    """

    kind: Literal["lines", "dots"]
    title: str
    series: tuple[Series, ...]
    names: tuple[str, ...] = ()
    x_label: str = ""
    y_label: str = ""
    ticks: tuple[float, ...] = ()
    zero: bool = False


@dataclass(frozen=True)
class Section:
    """A table of the papers, or one of ours, and all that belongs to it.

    Attributes:
        key: For links and files, e.g. "table-1".
        title: Its heading, but for what it was measured on.
        lead: What it is, in a sentence or two.
        blocks: The table.
        layout: "grid" sets blocks beside each other.
        charts: Beside it.
        caption: What the charts show.
        details: All figures with their intervals, and tests; folded away where that can be.
        missing: Runs that there should be.
        notes: What must be known to read it.
        card: The protocol: name and value.
        drawn: Whether it was measured on drawn scenes.
    """

    key: str
    title: str
    lead: str
    blocks: tuple[ReportBlock, ...] = ()
    layout: Literal["wide", "grid"] = "wide"
    charts: tuple[Chart, ...] = ()
    caption: str = ""
    details: tuple[ReportBlock, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    card: tuple[tuple[str, str], ...] = ()
    drawn: bool = False

    @property
    def heading(self) -> str:
        """Its title, and that it is of drawn scenes, where it is."""
        return f"{self.title}, drawn scenes" if self.drawn else self.title


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: Of the page.
        facts: Paragraphs under it.
        sections: In order.
        warnings: What is wrong with files.
        legend: What the signs and statistics are.
        sets: What is particular about each drawn set, by its title.
        raw: The long table of all results.
    """

    title: str
    facts: tuple[str, ...]
    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = ()
    legend: tuple[str, ...] = ()
    sets: tuple[tuple[str, str], ...] = ()
    raw: pd.DataFrame | None = None


def number_of(one: Estimate | None, published: float | None = None, **more: Any) -> Number:
    """Return an estimate as a figure of a table; `more` are other attributes of it."""
    if one is None:
        return Number(None, published=published)
    low, high = one.interval
    values = list(one.seeds.values())
    return Number(one.value, deviation(values), len(values), low, high, published, one.mark, **more)


def text(cell: Cell) -> str:
    """Return a cell as plain words: "82.40 ± 0.31 †"."""
    if isinstance(cell, str) or cell.sd is None or cell.value is None:
        return cell if isinstance(cell, str) else cell.text
    return f"{cell.text.removesuffix(cell.mark).strip()} ± {cell.sd:.{cell.digits}f} {cell.mark}".strip()


def signed(value: float, digits: int = 2) -> str:
    """Return a difference with its sign; none is +0.00."""
    shown = f"{value:+.{digits}f}"
    if float(shown) == 0:
        shown = f"+{0:.{digits}f}"
    return shown.replace("-", "−")


def words(*parts: str) -> str:
    """Return "CoOp, 4 shots": what there is of the parts."""
    return ", ".join(part for part in parts if part)


def count(number: int, what: str) -> str:
    """Return "1 run" or "3 runs"."""
    return f"{number} {what}{'s' * (number != 1)}"


def highest(estimates: Iterable[Estimate]) -> float | None:
    """Return the highest of a column, to two digits; None where all are alike, or nothing is comparable.

    A mean over fewer seeds or sets than the others' is never the highest, and where it seems to be, none is;
    nor is any where rows were tested on different pictures.
    """
    every = list(estimates)
    whole = [one for one in every if not one.mark]
    if len(whole) < 2 or len({one.tested for one in whole}) > 1:
        return None
    values = [round(one.value, 2) for one in every]
    best = max(round(one.value, 2) for one in whole)
    return best if best >= max(values) and min(values) < best else None
