"""Accuracy by how much was trained on: few-shot curves, and data efficiency."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from foveate.report.context import Context, any_marked, figures_block, figures_row, titled
from foveate.report.estimates import Answers, Estimate, answers_of, average, hm
from foveate.report.lines import Amount, Group, Line
from foveate.report.model import Block, Chart, Number, Point, Row, Section, Series
from foveate.report.pairs import alike, plug_ins, tests_block, tests_of, tests_said
from foveate.report.three import HEADS, highest, is_best, line_order, set_order
from foveate.report.titles import set_title

Kind = str
"""A head of `HEADS`, or "accuracy" where all classes were trained on."""


@dataclass(frozen=True)
class Amounts:
    """Rows of a group, whose runs differ in how much they were trained on.

    Attributes:
        group: They belong to.
        context: What all tables share.
    """

    group: Group
    context: Context

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """Its rows, in order."""
        return tuple(sorted(self.group.lines, key=line_order))

    @cached_property
    def sets(self) -> tuple[str, ...]:
        """Keys of all sets."""
        return tuple(sorted({key for key, _ in self.group.places}, key=set_order))

    @cached_property
    def amounts(self) -> tuple[Amount, ...]:
        """All amounts, rising."""
        return tuple(sorted({amount for _, amount in self.group.places}))

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """What was measured: base, new and HM, or accuracy alone."""
        return (
            HEADS
            if any(one.split == "new" for run in self.group.results for one in run.measured)
            else ("accuracy",)
        )

    def answers(self, line: Line, key: str, amount: Amount, split: str) -> Answers | None:
        """Return a row's answers."""
        order = (split, "all") if split == "base" else (split,)
        found = (answers_of(line, (key, amount), key, one) for one in order)
        return next((one for one in found if one is not None), None)

    @cached_property
    def found(self) -> Mapping[tuple[str, str, Amount, Kind], Estimate]:
        """By label of the row, set, amount and kind."""
        made: dict[tuple[str, str, Amount, Kind], Estimate] = {}
        for line in self.lines:
            for key in self.sets:
                for amount in self.amounts:
                    halves = [self._half(line, key, amount, split) for split in ("base", "new")]
                    both = hm(halves[0], halves[1]) if halves[0] and halves[1] else None
                    for kind, one in zip(self.kinds, (*halves, both), strict=False):
                        if one is not None:
                            made[line.label, key, amount, kind] = one
        return made

    def _half(self, line: Line, key: str, amount: Amount, split: str) -> Estimate | None:
        answers = self.answers(line, key, amount, split)
        if answers is None:
            return None
        return self.context.bootstrap.estimate(answers, self.group.seeds)

    def estimate(self, label: str, key: str | None, amount: Amount, kind: Kind) -> Estimate | None:
        """Return a figure on a set, or on average over all; HM is that of averages."""
        if key is not None:
            return self.found.get((label, key, amount, kind))
        if kind == "HM":
            base, new = (self.estimate(label, None, amount, half) for half in ("base", "new"))
            return hm(base, new) if base and new else None
        own = [one for key in self.sets if (one := self.found.get((label, key, amount, kind))) is not None]
        return average(own, len(own) == len(self.sets)) if own else None

    def missing(self) -> Iterator[str]:
        """Yield the runs that others of these rows have and one has not."""
        for line in self.lines:
            for key, amount in self.group.places:
                run = set(line.runs.get((key, amount), {}))
                for seed in sorted(set(self.group.seeds) - run):
                    yield f"{line.label} on {set_title(key)}, {self.said(amount)}, seed {seed}"

    def said(self, amount: Amount) -> str:
        """Return an amount in words."""
        if self.group.protocol == "few-shot":
            return f"{amount:g} shot{'s' * (amount != 1)}"
        return f"{100 * amount:g} %"


def amounts_section(group: Group, context: Context) -> Section:
    """Return the table and the curves."""
    amounts = Amounts(group, context)
    few = group.protocol == "few-shot"
    shown = (None, *amounts.sets) if len(amounts.sets) > 1 else amounts.sets
    blocks = [_block(amounts, key, kind) for key in shown for kind in amounts.kinds]

    def asked(line: Line) -> list[Answers | None]:
        return list(_asked(amounts, line))

    tests, refused = tests_of(plug_ins(amounts.lines), asked, set_title)
    details = [figures_block(_figures(amounts, shown))] + ([tests_block(tests)] if tests else [])
    notes = context.notes(
        group,
        amounts.lines,
        paper=False,
        marked=any_marked(amounts.found.values())
        or any(
            isinstance(cell, Number) and bool(cell.mark)
            for block in blocks
            for row in block.rows
            for cell in row.cells
        ),
    )
    notes = [*tests_said(tests), *alike(amounts.lines, asked), *notes, *refused]
    if context.against and not group.drawn:
        notes.append(
            "No published figures stand beside these: the papers' values are in figures that print none."
        )
    return Section(
        "few-shot" if few else "data-efficiency",
        titled("Few-shot curves" if few else "Data efficiency (Fig. 9, as far as we can tell)", group),
        "All classes are trained on and told apart; accuracy by how many pictures a class there are."
        if few
        else "Accuracy by the share of the training pictures that was learned from, whether drawn or chosen.",
        tuple(blocks),
        "grid",
        tuple(_charts(amounts, shown)),
        "Means over seeds; bars are 95 % intervals over pictures and seeds.",
        tuple(details),
        tuple(amounts.missing()),
        tuple(notes),
        context.card(group, amounts.lines),
        group.drawn,
    )


def _asked(amounts: Amounts, line: Line) -> Iterator[Answers | None]:
    for key in amounts.sets:
        for amount in amounts.amounts:
            for split in ("base", "new") if len(amounts.kinds) > 1 else ("base",):
                yield amounts.answers(line, key, amount, split)


def _block(amounts: Amounts, key: str | None, kind: Kind) -> Block:
    rows: list[Row] = []
    column: dict[Amount, float | None] = {}
    for amount in amounts.amounts:
        found = [amounts.estimate(line.label, key, amount, kind) for line in amounts.lines]
        column[amount] = highest([one for one in found if one is not None])
    for line in amounts.lines:
        numbers: list[Number] = []
        for amount in amounts.amounts:
            one = amounts.estimate(line.label, key, amount, kind)
            best = one is not None and is_best(one, column[amount])
            numbers.append(Number(None) if one is None else one.number(best=best))
        rows.append(Row(line.label, tuple(numbers)))
    where = f"Average over {len(amounts.sets)} sets" if key is None else set_title(key)
    return Block(f"{where}, {kind}", ("method", *map(amounts.said, amounts.amounts)), tuple(rows))


def _figures(amounts: Amounts, shown: Sequence[str | None]) -> Iterator[Row]:
    for line in amounts.lines:
        for key in shown:
            for amount in amounts.amounts:
                for kind in amounts.kinds:
                    one = amounts.estimate(line.label, key, amount, kind)
                    if one is not None:
                        where = "average" if key is None else set_title(key)
                        said = f"{line.label}, {amounts.said(amount)}"
                        yield figures_row(said, where, kind, one.number())


def _charts(amounts: Amounts, shown: Sequence[str | None]) -> Iterator[Chart]:
    kind = amounts.kinds[-1]
    few = amounts.group.protocol == "few-shot"
    scale = 1 if few else 100
    for key in shown:
        series: list[Series] = []
        for colour, line in enumerate(amounts.lines):
            points: list[Point] = []
            for amount in amounts.amounts:
                one = amounts.estimate(line.label, key, amount, kind)
                if one is not None:
                    number = one.number()
                    points.append(Point(scale * amount, one.value, number.low, number.high))
            series.append(Series(line.label, tuple(points), colour))
        title = f"Average over {len(amounts.sets)} sets" if key is None else set_title(key)
        yield Chart(
            "lines",
            title,
            tuple(series),
            x_label="shots a class" if few else "% of the training pictures",
            y_label=f"{kind}, %",
            ticks=tuple(scale * amount for amount in amounts.amounts),
        )
