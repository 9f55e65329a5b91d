"""The report as data, independent of the output format: sections with tables, charts, tests and notes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from foveate.report.statistics import Estimate, deviation


@dataclass(frozen=True)
class Number:
    """A number in a table, with its statistics.

    Attributes:
        value: Value in percent, unless the column gives another unit; None if there is none.
        sd: Standard deviation over seeds (n - 1).
        seeds: Number of seeds in the mean.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end of the interval.
        published: Published value.
        mark: "†" if the mean has fewer parts than it should.
        digits: Number of decimals.
        best: Whether it is our highest number in its column; for a p value, whether it is significant.
        signed: Whether it is a difference.
        neutral: Whether a higher value is neither better nor worse.
        least: Values below it are shown as "< least".
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
        """Our value minus the published one, computed from rounded values as in papers."""
        if self.value is None or self.published is None:
            return None
        return round(self.value, self.digits) - round(self.published, self.digits)

    @property
    def text(self) -> str:
        """The value as text: "82.40 †", "−1.50", "< 0.001", "–"."""
        if self.value is None:
            return "–"
        if self.least is not None and self.value < self.least:
            return f"< {self.least:g}"
        shown = signed(self.value, self.digits) if self.signed else f"{self.value:.{self.digits}f}"
        return f"{shown} {self.mark}".strip()

    @property
    def interval(self) -> str:
        """The interval as text: "80.10 to 84.20"."""
        if self.low is None or self.high is None:
            return "–"
        ends = (signed(end) if self.signed else f"{end:.{self.digits}f}" for end in (self.low, self.high))
        return " to ".join(ends)


Cell = Number | str
"""A number or text."""


@dataclass(frozen=True)
class TableRow:
    """Row of a block: label and cells; `published` if it has only published numbers."""

    label: str
    cells: tuple[Cell, ...]
    published: bool = False


@dataclass(frozen=True)
class ReportBlock:
    """A table, or one of several tables in a row.

    Attributes:
        title: Title above it; may be empty.
        columns: Column heads; the label column is first.
        rows: Rows from top to bottom.
        kind: Role in a section's details: gains of plug-ins, all figures, paired tests.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    kind: Literal["", "gains", "figures", "tests"] = ""


@dataclass(frozen=True)
class ChartPoint:
    """A point of a chart, with its interval; in a chart of names, y is an index into them."""

    x: float | int
    y: float | int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points with a common label.

    Attributes:
        label: Label in the legend.
        points: Points from left to right.
        colour: Index in the palette; -1 for published numbers, which are drawn as diamonds.
        hollow: Whether points are drawn as rings, without intervals.
    """

    label: str
    points: tuple[ChartPoint, ...]
    colour: int
    hollow: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        kind: "lines" has numeric x and y; "dots" has names from top to bottom and numbers on the x axis.
        title: Title above it.
        series: Series to draw.
        names: Names for "dots".
        x_label: Label of the x axis.
        y_label: Label of the y axis, for "lines".
        ticks: Ticks of the x axis, for "lines"; chosen automatically if empty.
        zero: Whether the axis always includes 0, marked with a line ("dots").
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
    """A table of the papers or of foveate, with everything that belongs to it.

    Attributes:
        key: Key for links and file names, e.g. "table-1".
        title: Heading, without the kind of pictures.
        lead: Description in one or two sentences.
        blocks: Blocks of the table.
        layout: "grid" places blocks side by side.
        charts: Charts of the section.
        caption: Caption of the charts.
        details: All figures with intervals, and tests; collapsed if the format supports it.
        missing: Missing runs.
        notes: Notes that are needed to read the table.
        card: The protocol: names and values.
        drawn: Whether the results are from drawn scenes.
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
        """The title; for drawn scenes, it says so."""
        return f"{self.title}, drawn scenes" if self.drawn else self.title


@dataclass(frozen=True)
class Report:
    """A complete report.

    Attributes:
        title: Title of the page.
        facts: Paragraphs under the title.
        sections: Sections in order.
        warnings: Problems with files.
        legend: Explanation of signs and statistics.
        sets: Description of each drawn set, by title.
        raw: The long table of all results.
    """

    title: str
    facts: tuple[str, ...]
    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = ()
    legend: tuple[str, ...] = ()
    sets: tuple[tuple[str, str], ...] = ()
    raw: pd.DataFrame | None = None


def number_of(estimate: Estimate | None, published: float | None = None, **attributes: Any) -> Number:
    """Return an estimate as a number of a table; `attributes` are further ones of the number."""
    if estimate is None:
        return Number(None, published=published)
    low, high = estimate.interval
    values = list(estimate.seeds.values())
    return Number(
        estimate.value, deviation(values), len(values), low, high, published, estimate.mark, **attributes
    )


def text(cell: Cell) -> str:
    """Return a cell as plain text: "82.40 ± 0.31 †"."""
    if isinstance(cell, str) or cell.sd is None or cell.value is None:
        return cell if isinstance(cell, str) else cell.text
    return f"{cell.text.removesuffix(cell.mark).strip()} ± {cell.sd:.{cell.digits}f} {cell.mark}".strip()


def signed(value: float, digits: int = 2) -> str:
    """Return a difference with its sign; zero is +0.00."""
    shown = f"{value:+.{digits}f}"
    if float(shown) == 0:
        shown = f"+{0:.{digits}f}"
    return shown.replace("-", "−")


def words(*parts: str) -> str:
    """Return the non-empty parts, joined: "CoOp, 4 shots"."""
    return ", ".join(part for part in parts if part)


def count(number: int, what: str) -> str:
    """Return "1 run" or "3 runs"."""
    return f"{number} {what}{'s' * (number != 1)}"


def highest(estimates: Iterable[Estimate]) -> float | None:
    """Return the highest value of a column, to two digits; None if all are equal or not comparable.

    A mean over fewer seeds or sets than the others is never the highest; if its value is, the result is
    None. The result is also None if rows were tested on different pictures.
    """
    candidates = list(estimates)
    complete = [estimate for estimate in candidates if not estimate.mark]
    if len(complete) < 2 or len({estimate.tested for estimate in complete}) > 1:
        return None
    values = [round(estimate.value, 2) for estimate in candidates]
    best = max(round(estimate.value, 2) for estimate in complete)
    return best if best >= max(values) and min(values) < best else None
