"""What a report is made of, whatever it is written as: sections of tables, charts, tests and notes."""

from dataclasses import dataclass, field
from typing import Literal

Layout = Literal["wide", "grid"]
Kind = Literal["", "gains", "figures", "tests"]


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
        best: Whether no other of ours in its column is higher.
        signed: Whether it is a difference.
        neutral: Whether more of it is neither better nor worse.
        least: What is lower than this is said to be so, with no figure: a p of "< 0.001".
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


Cell = Number | str
"""A figure, or words."""


@dataclass(frozen=True)
class Row:
    """A row of a block.

    Attributes:
        label: Its first column.
        cells: The others.
        published: Whether these are published figures, not ours.
    """

    label: str
    cells: tuple[Cell, ...]
    published: bool = False


@dataclass(frozen=True)
class Block:
    """A table, or one of several that are set beside each other.

    Attributes:
        title: Over it; may be empty.
        columns: Heads, of the labels first.
        rows: From top to bottom.
        kind: What it is, where it belongs to a table: gains of plug-ins, all figures, paired tests.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    kind: Kind = ""


@dataclass(frozen=True)
class Point:
    """A mark of a chart.

    Attributes:
        x: Where it is; a place in the list of names, for charts of names.
        y: Likewise.
        low: Lower end of its interval.
        high: Upper end.
        published: Whether it is a published figure.
    """

    x: float | int
    y: float | int
    low: float | None = None
    high: float | None = None
    published: bool = False


@dataclass(frozen=True)
class Series:
    """Marks that belong together, in one colour.

    Attributes:
        label: In the legend.
        points: From left to right.
        colour: Which of the palette.
        hollow: Drawn as rings.
    """

    label: str
    points: tuple[Point, ...]
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
        chart_caption: What they show.
        details: All figures with their intervals, and tests; folded away where that can be.
        missing: Runs that there should be.
        notes: What must be known to read it.
        card: The protocol, name and value.
        drawn: Whether it was measured on drawn scenes.
    """

    key: str
    title: str
    lead: str
    blocks: tuple[Block, ...] = ()
    layout: Layout = "wide"
    charts: tuple[Chart, ...] = ()
    chart_caption: str = ""
    details: tuple[Block, ...] = ()
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
        facts: Lines under it.
        warnings: What is wrong with files.
        sections: In order.
        raw: Heads and rows of the file of all raw numbers.
        legend: What the signs and statistics are.
        sets: What is particular about each drawn set, by its title.
    """

    title: str
    facts: tuple[str, ...]
    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = ()
    raw: tuple[tuple[str, ...], ...] = field(default=())
    legend: tuple[str, ...] = ()
    sets: tuple[tuple[str, str], ...] = ()


def text(cell: Cell) -> str:
    """Return a cell as plain words: "82.40 ± 0.31 †"."""
    if isinstance(cell, str):
        return cell
    if cell.value is None:
        return "–"
    if cell.least is not None and cell.value < cell.least:
        return f"< {cell.least:g}"
    shown = signed(cell.value, cell.digits) if cell.signed else f"{cell.value:.{cell.digits}f}"
    spread = "" if cell.sd is None else f" ± {cell.sd:.{cell.digits}f}"
    return f"{shown}{spread}{cell.mark and ' ' + cell.mark}"


def signed(value: float, digits: int = 2) -> str:
    """Return a difference with its sign; none is +0.00."""
    shown = f"{value:+.{digits}f}"
    if float(shown) == 0:
        shown = f"+{0:.{digits}f}"
    return shown.replace("-", "−")
