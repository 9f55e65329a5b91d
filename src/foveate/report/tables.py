"""Declarations of tables: their figures, blocks, rows and columns.

A custom table is a `TableSpec`; `section_of` builds it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from foveate.report.figures import AVERAGE, MIXED, THREE, Difference, FigureKey, Figures, differences
from foveate.report.frame import ResultGroup, set_title
from foveate.report.model import (
    Cell,
    Chart,
    ChartPoint,
    Number,
    ReportBlock,
    Section,
    Series,
    TableRow,
    highest,
    number_of,
    signed,
    words,
)
from foveate.report.protocol import PARTIAL, ReportContext
from foveate.report.published import TOWER
from foveate.report.statistics import deviation, holm

Axis = Literal["label", "set", "amount", "condition", "measure"]
AxisValues = Mapping[str, str | float]
Paper = Callable[[FigureKey], float | None]
"""Returns the published value of a key."""
Pairs = Sequence[tuple[str, str]]
"""Pairs of rows to test against each other; the first is subtracted."""

ALPHA = 0.05
"""Corrected p values below it are significant."""
GREY, PUBLISHED = 7, -1
WORST = ("worst group base", "worst group new", "worst group all")
SHIFTS = ("shift base", "shift new", "shift all")
_CHARTED = {"HM": ("HM", "HM, %"), "shift base": ("Shift index", "D_fg, nats")}
_OVER_SEEDS = {"least HM": min, "highest HM": max, "seeds": len}


@dataclass(frozen=True)
class TableSpec:
    """Specification of a table.

    Attributes:
        key: Key for links and file names.
        title: Heading.
        lead: Description; "{source}" and "{targets}" are replaced.
        measures: Measures to show; if empty, the main measures of the figures.
        blocks: Axes with one block for each value. With "set", the average is the first block.
        rows: Axes with one row for each value; all except the first are text columns.
        columns: Axes with one column for each value. In columns and rows of sets, the average is last.
            If "set" is no axis, figures are averages over sets.
        head: Head of the first column.
        plain: Whether to show only the plain test; otherwise each test condition has its own columns.
        spread: Whether a cell shows the standard deviation over seeds.
        best: Whether the highest number of a column is bold.
        details: Whether to list all figures, and missing runs.
        tests: Whether to test rows against each other.
        gains: Whether to show the average gains of plug-ins.
        needs: Measures of which a row must have one; if empty, any of `measures`.
        charts: Measures with a chart each: one figure for every row.
        caption: Caption of the charts.
        settings: FVG-PT settings in which the rows of an ablation differ.
        shown: Setting whose value is shown in a column; or "components".
    """

    key: str
    title: str
    lead: str
    measures: tuple[str, ...] = ()
    blocks: tuple[Axis, ...] = ()
    rows: tuple[Axis, ...] = ("label",)
    columns: tuple[Axis, ...] = ("measure",)
    head: str = "method"
    plain: bool = False
    spread: bool = False
    best: bool = True
    details: bool = True
    tests: bool = True
    gains: bool = False
    needs: tuple[str, ...] = ()
    charts: tuple[tuple[str, ...], ...] = ()
    caption: str = ""
    settings: tuple[str, ...] = ()
    shown: str = ""


TABLE_1 = TableSpec(
    "table-1",
    "Table 1: base to new",
    "Trained on the first half of the classes. Base classes are told apart among base names, new ones among "
    "new names. HM is the harmonic mean of base and new; on average, that of the two averages.",
    THREE,
    blocks=("set",),
    plain=True,
    gains=True,
    charts=(("HM",),),
    caption="Fig. 4, in our drawing: HM of the averages, and what a plug-in adds to HM on each set.",
)
VIT_L14 = replace(TABLE_1, key="vit-l14", title="Tables 13, 14: base to new on ViT-L/14")
CONDITIONS = TableSpec(
    "conditions",
    "Base to new by test condition",
    "The same trained models under each test condition. A gain under the condition of the training alone is "
    "no proof that a method looks at the object.",
    THREE,
    blocks=("set", "measure"),
    columns=("condition",),
    gains=True,
    charts=(("HM",),),
)
WORST_GROUPS = TableSpec(
    "worst-groups",
    "Worst groups",
    "The least accuracy over groups: each class at home, where its ground agrees, and each class under the "
    "condition. Under home it is that of the worst class. Few pictures of a class make it coarse. An average "
    "over sets is that of their worst groups.",
    WORST,
    blocks=("set",),
    columns=("measure", "condition"),
    details=False,
    tests=False,
)
TABLE_2 = TableSpec(
    "table-2",
    "Table 2: cross-dataset transfer",
    "Trained on all classes of {source} (the source) and asked about all classes of other sets. The average "
    "is over the {targets} targets, without the source.",
    columns=("set",),
    gains=True,
    charts=(("target",),),
)
DOMAINS = replace(
    TABLE_2,
    key="domains",
    title="Domain generalisation",
    lead=TABLE_2.lead.replace("all classes of other sets", "its variants"),
)
FIG_5 = TableSpec(
    "fig-5",
    "Fig. 5: foreground shift index",
    "D_fg, the mean of KL(p of the picture ‖ p of its foreground), in nats, over the test pictures that have "
    "masks: how far an answer moves when the background is taken away. Lower is better, of methods that are "
    "right as often: one that always answers the same has none. Means over sets, then over seeds.",
    (*SHIFTS, *THREE),
    needs=SHIFTS,
    best=False,
    details=False,
    tests=False,
    charts=(SHIFTS, ("base", "new")),
    caption="Shift index to the left, accuracy to the right.",
)
GENERALISED = TableSpec(
    "generalised",
    "Generalised base to new",
    "All test pictures among all names together, which the paper does not report: accuracy on pictures of "
    "trained classes, on those of the others, the harmonic mean of these two, and on all pictures.",
    MIXED,
    blocks=("set",),
    best=False,
    details=False,
    tests=False,
)
TABLE_10 = TableSpec(
    "table-10",
    "Table 10: deviation of HM over seeds",
    "Standard deviation (n − 1) of HM, computed for each seed. The last row is the deviation of the "
    "average; the row above it, the mean of the sets' deviations, is what the paper prints as an average.",
    ("HM",),
    rows=("set",),
    columns=("label",),
    head="set",
    plain=True,
    spread=True,
    best=False,
    details=False,
    tests=False,
)
FEW_SHOT = TableSpec(
    "few-shot",
    "Few-shot curves",
    "All classes are trained on and told apart; accuracy by how many pictures a class there are.",
    blocks=("set", "measure"),
    columns=("amount",),
)
DATA_EFFICIENCY = replace(
    FEW_SHOT,
    key="data-efficiency",
    title="Data efficiency (Fig. 9, as far as we can tell)",
    lead="Accuracy by the share of the training pictures that was learned from, whether drawn or chosen.",
)
SEEDS = TableSpec(
    "seeds",
    "Seed robustness",
    "The same training under many seeds. A seed decides which pictures are drawn, where learning starts, "
    "the order of pictures and their views.",
    (*THREE, *_OVER_SEEDS),
    rows=("label", "set"),
    best=False,
    tests=False,
    caption="HM of each seed, a mark each.",
)


def _study(key: str, title: str, lead: str, shown: str, *settings: str) -> TableSpec:
    """Return the table of an ablation: its rows differ in these settings of FVG-PT, or in `shown`."""
    settings = settings or ((shown,) if shown else ())
    return TableSpec(key, title, lead, THREE, head="row", charts=(("HM",),), settings=settings, shown=shown)


STUDIES = (
    _study(
        "table-3",
        "Table 3: components",
        "FRG is the foreground reliability gate, FDC the two adapters, PC the prior branch for new classes.",
        "components",
        *("foreground_gate", "adapters", "prior_branch"),
    ),
    _study(
        "table-4-adapters",
        "Table 4: width of the adapters",
        "Numbers inside each adapter; the paper takes 64.",
        "adapter_hidden",
    ),
    _study(
        "table-4-gates",
        "Table 4: width of the gates",
        "Numbers inside each gate; the paper takes 32.",
        "gate_hidden",
    ),
    _study(
        "table-5",
        "Table 5: layers of a gate",
        "Linear layers of each gate; the paper takes 2.",
        "gate_depth",
    ),
    _study(
        "table-6",
        "Table 6: what the gates are told",
        "Each indicator left out once.",
        "",
        *("foreground_indicators", "prior_indicators"),
    ),
    _study(
        "table-12",
        "Table 12: terms of the loss",
        "Each left out once. Without L_FRG there is no gate, and r is 1.",
        "",
        *("terms", "foreground_gate"),
    ),
    _study(
        "adapted-sides", "Tables 13, 14: which sides are adapted", "Pictures, texts, or both.", "adapters"
    ),
    _study(
        "lambda-distill",
        "Fig. 4(b), as far as we can tell: weight of the distillation",
        "λ_d; the paper takes 10.",
        "lambda_distill",
    ),
)
TABLE_15 = _study(
    "table-15",
    "Table 15: length of the training on EuroSAT",
    "Ten epochs of EuroSAT's base classes are 200 steps.",
    "",
)
OTHER_SETTINGS = _study(
    "other-settings",
    "Other settings",
    "Rows that differ from the paper's method in other ways than its tables do.",
    "",
)


def section_of(  # noqa: PLR0913  (all but the first four by name)
    table: TableSpec,
    group: ResultGroup,
    figures: Figures,
    context: ReportContext,
    *,
    pairs: Pairs | None = None,
    paper: Paper | None = None,
    before: Mapping[str, AxisValues] | None = None,
    charts: Sequence[Chart] = (),
    notes: Sequence[str] = (),
    towers: str | None = TOWER,
) -> Section | None:
    """Return a table with its details, tests, notes, charts and protocol; None if it has no figure.

    Args:
        table: The specification.
        group: Group of its rows.
        figures: Figures of its rows.
        context: Settings that all tables share.
        pairs: Rows to test against each other; None tests plug-ins against their backbones.
        paper: Published values to show.
        before: Text columns after a row's label, by label.
        charts: Additional charts.
        notes: Additional notes, after those of every table.
        towers: Towers of the published numbers; None if no such table is published.
    """
    view = _View(table, figures, paper, before or {})
    if not view.labels:
        return None
    pairs = (figures.plug_ins() if pairs is None else pairs) if table.tests else ()
    tests, refused = tests_of(figures, pairs, view.conditions)
    blocks = tuple(view.blocks())
    details = [gains_block(figures, pairs, view.conditions)] if table.gains else []
    details += [view.all_figures(), tests_block(tests, figures)] if table.details else []
    marked = any(
        isinstance(cell, Number) and cell.mark for part in blocks for row in part.rows for cell in row.cells
    )
    all_charts = [
        *view.charts(),
        *(gain_charts(figures, pairs, paper, view.conditions) if table.gains else ()),
        *charts,
    ]
    diamonds = " Diamonds are published." * bool(paper)
    scope = f"Averages over {len(figures.sets)} sets; HM is that of the two averages."
    if len(figures.sets) == 1:
        scope = f"On {set_title(figures.sets[0])} alone."
    lead = table.lead.format(source=set_title(figures.source or ""), targets=len(figures.targets))
    return Section(
        table.key,
        group.titled(table.title),
        f"{lead} {scope}" if table.head == "row" else lead,
        blocks,
        "grid" if table.blocks else "wide",
        tuple(all_charts),
        f"{table.caption} Bars are 95 % intervals over pictures and seeds.{diamonds}".strip(),
        tuple(block for block in details if block.rows),
        figures.missing if table.details else (),
        (
            *tests_sentence(tests),
            *(figures.same_answers() if table.tests else ()),
            *context.notes(group, figures, towers),
            *([PARTIAL] if marked else []),
            *refused,
            *notes,
        ),
        context.card(group, figures, towers),
        group.drawn,
    )


class _View:
    """View of the figures for a table: the values of its axes, and the key of each cell."""

    def __init__(
        self, table: TableSpec, figures: Figures, paper: Paper | None, before: Mapping[str, AxisValues]
    ) -> None:
        self.table, self.figures, self.paper, self.before = table, figures, paper, before
        self.conditions = ("",) if table.plain else figures.conditions
        available = {
            (key.label, key.measure) for key in figures.estimates if key.condition in self.conditions
        }
        measured = {measure for _, measure in available} | ({*_OVER_SEEDS} if table is SEEDS else set[str]())
        self.measures = [name for name in table.measures or figures.measures if name in measured]
        needed = table.needs or self.measures
        self.labels = [
            label for label in figures.labels if any((label, measure) in available for measure in needed)
        ]
        by_condition = self.conditions != ("",) and "condition" not in (*table.blocks, *table.columns)
        self.columns = ("condition", *table.columns) if by_condition else table.columns
        all_sets = figures.sets
        self.sets = (AVERAGE,)
        if "set" in table.blocks:
            self.sets = (AVERAGE, *all_sets) if len(all_sets) > 1 else all_sets
        elif "set" in (*table.columns, *table.rows):
            self.sets = all_sets if "label" in table.rows and "set" in table.rows else (*all_sets, AVERAGE)

    def values(self, axes: Sequence[Axis]) -> Iterator[dict[str, str | float]]:
        """Yield all combinations of the values of these axes."""
        values_of: Mapping[Axis, Sequence[str | float]] = {
            **{"label": self.labels, "set": self.sets, "amount": self.figures.amounts},
            **{"condition": self.conditions, "measure": self.measures},
        }
        for combination in product(*(values_of[axis] for axis in axes)):
            yield dict(zip(axes, combination, strict=True))

    def key(self, values: AxisValues) -> FigureKey:
        """Return the key of a cell."""
        set_key, default = str(values.get("set", AVERAGE)), self.measures[0]
        if self.figures.source is not None:
            default = "source" if set_key == self.figures.source else "target"
        amount = float(values.get("amount", self.figures.amounts[0]))
        condition, measure = str(values.get("condition", "")), str(values.get("measure", default))
        return FigureKey(str(values["label"]), set_key, amount, condition, measure)

    def text_of(self, values: AxisValues) -> str:
        """Return values of axes as text."""
        names = {
            **{axis: str(value) for axis, value in values.items()},
            "amount": self.figures.amount_words(float(values.get("amount", 0))),
            "condition": str(values.get("condition", "")) or "plain" * ([*values] == ["condition"]),
            "measure": str(values.get("measure", "")).replace("HM of all names", "HM"),
        }
        if "set" in values:
            mean = (
                "average" if "set" not in self.table.blocks else f"Average over {len(self.figures.sets)} sets"
            )
            names["set"] = set_title(names["set"]) or {"table-10": "of the average"}.get(self.table.key, mean)
        return (", " if "set" in values else " ").join(names[axis] for axis in values if names[axis])

    def cell(self, key: FigureKey, top: float | None = None) -> Cell:
        """Return a cell with its published value."""
        paper = None if self.paper is None else self.paper(key)
        if key.measure in _OVER_SEEDS:
            estimate = self.figures.estimates[key._replace(measure="HM")]
            value = _OVER_SEEDS[key.measure](estimate.seeds.values())  # type: ignore[operator]
            return str(value) if key.measure == "seeds" else Number(value)
        estimate = self.figures.estimates.get(key)
        if self.table.spread:
            values = [] if estimate is None else list(estimate.seeds.values())
            return Number(deviation(values), published=paper, neutral=True, seeds=len(values))
        best = (
            estimate is not None and not estimate.mark and top is not None and round(estimate.value, 2) == top
        )
        return number_of(estimate, paper, best=best, digits=3 if key.measure in SHIFTS else 2)

    def blocks(self) -> Iterator[ReportBlock]:
        """Yield the table's blocks."""
        first, *text_axes = self.table.rows
        columns = list(self.values(self.columns))
        extra_heads = list(next(iter(self.before.values()), {}))
        heads = (self.table.head, *text_axes, *extra_heads, *map(self.text_of, columns))
        for block in self.values(self.table.blocks):
            rows: list[TableRow] = []
            grid = [
                [self.key(block | row | column) for column in columns] for row in self.values(self.table.rows)
            ]
            top = [self._highest(keys) if self.table.best else None for keys in zip(*grid, strict=True)]
            for row, keys in zip(self.values(self.table.rows), grid, strict=True):
                if text_axes and keys[0] not in self.figures.estimates:
                    continue
                texts = [self.text_of({axis: row[axis]}) for axis in text_axes]
                texts += [str(word) for word in self.before.get(str(row.get("label")), {}).values()]
                cells = [self.cell(key, best) for key, best in zip(keys, top, strict=True)]
                rows.append(TableRow(self.text_of({first: row[first]}), (*texts, *cells)))
            yield ReportBlock(self.text_of(block), heads, tuple(rows))

    def _highest(self, keys: Sequence[FigureKey]) -> float | None:
        return highest(self.figures.estimates[key] for key in keys if key in self.figures.estimates)

    def all_figures(self) -> ReportBlock:
        """Return all figures with all their statistics; empty columns are left out."""
        figures, rows = self.figures, list[TableRow]()
        sets = (*figures.sets, AVERAGE) if self.sets == (AVERAGE,) else self.sets
        for values in product(self.labels, sets, figures.amounts, self.conditions, self.measures):
            key = FigureKey(*values)
            cell = self.cell(key) if key in figures.estimates else None
            if isinstance(cell, Number):
                measure = "targets" if (key.set, key.measure) == (AVERAGE, "target") else key.measure
                spread = "–" if cell.sd is None else f"{cell.sd:.2f}"
                paper = "–" if cell.published is None else f"{cell.published:.2f}"
                gap = "–" if cell.difference is None else signed(cell.difference)
                texts = (figures.where(key, amount=False), measure, cell.text, spread, str(cell.seeds))
                label = words(key.label, figures.amount_words(key.amount))
                rows.append(TableRow(label, (*texts, cell.interval, paper, gap)))
        heads = ("set", "classes", "mean", "sd", "seeds", "95 % interval", "published", "difference")
        filled = [index for index in range(len(heads)) if any(row.cells[index] != "–" for row in rows)]
        shown = tuple(replace(row, cells=tuple(row.cells[index] for index in filled)) for row in rows)
        return ReportBlock("All figures", ("row", *(heads[index] for index in filled)), shown, "figures")

    def charts(self) -> Iterator[Chart]:
        """Yield charts with a figure for every row: the average, or the only set."""
        figures = self.figures
        set_key = figures.targets[0] if len(figures.targets) == 1 else AVERAGE
        over = "sets" if figures.source is None else "targets"
        where = f" on {set_title(set_key)}" if set_key else f", average over {len(figures.targets)} {over}"
        for measures in self.table.charts:
            title, unit = _CHARTED.get(measures[0], ("Accuracy", "accuracy, %"))
            cells = [pair for pair in product(measures, self.conditions) if pair[0] in self.measures]
            series: list[Series] = []
            marks: dict[str, str] = {}
            for colour, (measure, condition) in enumerate(cells):
                keys = [
                    FigureKey(label, set_key, figures.amounts[0], condition, measure) for label in self.labels
                ]
                known = [
                    (y, figures.estimates[key]) for y, key in enumerate(keys) if key in figures.estimates
                ]
                marks |= {self.labels[y]: f" {estimate.mark}" for y, estimate in known if estimate.mark}
                points = tuple(ChartPoint(estimate.value, y, *estimate.interval) for y, estimate in known)
                single = len(cells) == 1
                name = words(measure * (len(measures) > 1), condition or "plain" * (len(self.conditions) > 1))
                series.append(Series(name or "ours", points, GREY if single else colour))
                published = [(self.paper(key), y) for y, key in enumerate(keys)] if self.paper else []
                diamonds = tuple(ChartPoint(paper, y) for paper, y in published if paper is not None)
                series += [Series("published", diamonds, PUBLISHED)] if diamonds else []
            names = tuple(label + marks.get(label, "") for label in self.labels)
            yield Chart("dots", f"{title}{where}", tuple(series), names, unit)


Test = tuple[str, Difference, float]
"""A pair as text, its difference on one set, and the p value corrected for all tests (Holm)."""


def tests_of(figures: Figures, pairs: Pairs, conditions: Sequence[str]) -> tuple[list[Test], list[str]]:
    """Return paired tests for each question, and notes on questions that could not be compared."""
    tests: list[tuple[str, Difference, float]] = []  # with uncorrected p values
    refused: list[str] = []
    for before, after in pairs:
        name = f"{before} → {after}"
        tests += [
            (name, diff, diff.p)
            for diff in differences(figures, before, after)
            if diff.p is not None and diff.key.condition in conditions
        ]
        unlike = figures.comparable(before, after)[1]
        if unlike:
            refused.append(f"Not compared, the test pictures differ: {name} on {', '.join(unlike)}.")
    corrected = holm([p for *_, p in tests])
    return [(name, diff, p) for (name, diff, _), p in zip(tests, corrected, strict=True)], refused


def tests_block(tests: Sequence[Test], figures: Figures) -> ReportBlock:
    """Return tests as a table."""
    heads = ("pair", "set", "classes", "difference", "pictures", "seeds")
    heads += ("only the first right", "only the second", "p", "p (Holm)")
    rows: list[TableRow] = []
    for pair, diff, p in tests:
        counts = map(str, (diff.pictures, len(diff.estimate.seeds), diff.only_first, diff.only_second))
        gain = Number(diff.estimate.value, signed=True)
        ps = (p_number(diff.p), p_number(p, corrected=True))
        rows.append(TableRow(pair, (figures.where(diff.key), diff.split, gain, *counts, *ps)))
    return ReportBlock("Paired tests on the same pictures", heads, tuple(rows), "tests")


def p_number(value: float | None, *, corrected: bool = False) -> Number:
    """Return a p value with three digits; a corrected one is highlighted if it is significant."""
    low = corrected and value is not None and value < ALPHA
    return Number(value, digits=3, least=0.001, neutral=True, best=low)


def tests_sentence(tests: Sequence[Test]) -> list[str]:
    """Return a sentence on the tests: how many are significant after correction, and for which row."""
    if not tests:
        return []
    counts: dict[str, list[int]] = {}
    for pair, diff, p in tests:
        if p < ALPHA:
            counts.setdefault(pair, [0, 0])[diff.estimate.value > 0] += 1
    pairs = [f"{pair} (higher in {up}, lower in {down})" for pair, (down, up) in counts.items()]
    uncorrected = sum(diff.p is not None and diff.p < ALPHA for _, diff, _ in tests)
    names = f": {'; '.join(pairs)}" if pairs else ""
    return [
        f"Paired tests: {sum(map(sum, counts.values()))} of {len(tests)} with p (Holm) below {ALPHA}{names}. "
        f"Uncorrected it would be {uncorrected}, where chance alone gives up to {ALPHA * len(tests):.1f}."
    ]


def gains_block(figures: Figures, pairs: Pairs, conditions: Sequence[str]) -> ReportBlock:
    """Return the average gains of plug-ins as a table."""
    rows: list[TableRow] = []
    for before, after in pairs:
        for diff in differences(figures, before, after, ("amount", "condition")):
            if diff.key.condition in conditions:
                measure = "targets" if diff.key.measure == "target" else diff.key.measure
                gain = replace(number_of(diff.estimate, signed=True), sd=None)
                counts = (str(diff.sets), str(gain.seeds))
                cells = (words(measure, diff.key.condition), gain, gain.interval, *counts)
                rows.append(TableRow(f"{before} → {after}", cells))
    title = "What a plug-in adds on average, on the same pictures under the same seeds"
    return ReportBlock(
        title, ("pair", "what", "gain", "95 % interval", "sets", "seeds"), tuple(rows), "gains"
    )


def gain_charts(
    figures: Figures, pairs: Pairs, paper: Paper | None, conditions: Sequence[str]
) -> Iterator[Chart]:
    """Yield, for each pair of rows, a chart of the second row's gain on each set: in HM, or in accuracy."""
    measure, sets = (
        ("HM", figures.sets) if "HM" in figures.measures else (figures.measures[-1], figures.targets)
    )
    cells = list(product(figures.amounts, conditions))
    for colour, (before, after) in enumerate(pairs):
        series: list[Series] = []
        gains = [diff for diff in differences(figures, before, after) if diff.key.measure == measure]
        for index, cell in enumerate(cells):
            diffs = [diff for diff in gains if (diff.key.amount, diff.key.condition) == cell]
            positions = [sets.index(diff.key.set) for diff in diffs]
            points = [
                ChartPoint(diff.estimate.value, y, *diff.estimate.interval)
                for diff, y in zip(diffs, positions, strict=True)
            ]
            name = words(figures.amount_words(cell[0]), cell[1] or "plain" * (len(conditions) > 1)) or "ours"
            series.append(Series(name, tuple(points), colour + index))
        published = [
            [paper and paper(FigureKey(label, set_key, 0.0, "", measure)) for label in (before, after)]
            for set_key in sets
        ]
        diamonds = [
            ChartPoint(plug_in - backbone, position)
            for position, (backbone, plug_in) in enumerate(published)
            if backbone is not None and plug_in is not None
        ]
        series += [Series("published", tuple(diamonds), PUBLISHED)] if diamonds else []
        title = f"{after}: gain in {'HM' if measure == 'HM' else 'accuracy'}"
        yield Chart("dots", title, tuple(series), tuple(map(set_title, sets)), "points", zero=True)
