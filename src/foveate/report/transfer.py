"""Table 2: one source, other sets as targets; and domain generalisation, to variants of the source."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from foveate.report import published
from foveate.report.cards import odd_sets
from foveate.report.charts import gain_charts, rows_chart
from foveate.report.context import Context, any_marked, figures_block, figures_row, titled
from foveate.report.estimates import Answers, Estimate, answers_of, average
from foveate.report.lines import Group, Line, Place
from foveate.report.model import Block, Chart, Number, Row, Section
from foveate.report.pairs import (
    Gain,
    alike,
    gains,
    gains_block,
    plug_ins,
    tests_block,
    tests_of,
    tests_said,
)
from foveate.report.three import highest, is_best, line_order, set_order
from foveate.report.titles import set_title

_CAPTION = (
    "Accuracy on average, and what a plug-in adds on each target. Bars are 95 % intervals over test "
    "pictures and seeds."
)


@dataclass(frozen=True)
class Carried:
    """Rows of one source.

    Attributes:
        group: They belong to.
        place: What was trained on.
        context: What all tables share.
    """

    group: Group
    place: Place
    context: Context

    @property
    def source(self) -> str:
        """Key of the source."""
        return self.place[0]

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """Rows that were trained on it."""
        return tuple(sorted((line for line in self.group.lines if self.place in line.runs), key=line_order))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """All seeds of any row."""
        return tuple(sorted({seed for line in self.lines for seed in line.runs[self.place]}))

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Keys of all sets that any row was asked about, without the source."""
        asked = {
            one.dataset
            for line in self.lines
            for run in line.runs[self.place].values()
            for one in run.measured
        }
        return tuple(sorted(asked - {self.source}, key=set_order))

    def answers(self, line: Line, key: str) -> Answers | None:
        """Return a row's answers on a set; a target's classes are all new."""
        order = ("base", "all", "new") if key == self.source else ("new", "all", "base")
        found = (answers_of(line, self.place, key, split) for split in order)
        return next((one for one in found if one is not None), None)

    def asked(self, line: Line) -> list[tuple[Answers | None]]:
        """Return a row's answers on all targets."""
        return [(self.answers(line, key),) for key in self.targets]

    def asked_all(self, line: Line) -> list[Answers | None]:
        """Return the same, and those on the source."""
        return [self.answers(line, key) for key in (self.source, *self.targets)]

    @cached_property
    def found(self) -> Mapping[str, Mapping[str, Estimate]]:
        """By label of the row and set."""
        return {
            line.label: {
                key: self.context.bootstrap.estimate(answers, self.seeds)
                for key in (self.source, *self.targets)
                if (answers := self.answers(line, key)) is not None
            }
            for line in self.lines
        }

    def average(self, label: str) -> Estimate | None:
        """Return a row's average over the targets, without the source."""
        own = [self.found[label][key] for key in self.targets if key in self.found[label]]
        return average(own, len(own) == len(self.targets)) if own else None

    def missing(self) -> Iterator[str]:
        """Yield what others of these rows have been asked and one has not."""
        for line in self.lines:
            for key in (self.source, *self.targets):
                answers = self.answers(line, key)
                lacking = sorted(set(self.seeds) - set(() if answers is None else answers.accuracy))
                for seed in lacking:
                    yield f"{line.label} on {set_title(key)}, seed {seed}"


def transfer(group: Group, context: Context) -> Iterator[Section]:
    """Yield a table for each source."""
    for place in group.places:
        yield _section(Carried(group, place, context))


def _section(carried: Carried) -> Section:
    group, context = carried.group, carried.context
    beside = (
        context.beside(group)
        and group.protocol == "cross-dataset"
        and set_title(carried.source) == "ImageNet"
    )
    domains = group.protocol == "domain-generalisation"
    columns = ("method", *(set_title(key) for key in (carried.source, *carried.targets)), "average")
    rows = [Row(line.label, tuple(_numbers(carried, line, beside))) for line in carried.lines]
    pairs = plug_ins(carried.lines)
    tests, refused = tests_of(pairs, carried.asked_all, set_title)
    found = gains(pairs, carried.asked, context.bootstrap)
    details = [gains_block(found, ("targets",)), figures_block(_figures(carried, beside))]
    if tests:
        details.append(tests_block(tests))
    notes = context.notes(
        group,
        carried.lines,
        paper=not domains,
        marked=any(
            any_marked(own.values()) or ((mean := carried.average(label)) is not None and bool(mean.mark))
            for label, own in carried.found.items()
        ),
    )
    if beside:
        notes.append(
            "Below each figure are the published one (Table 2 of the paper) and by how much ours is above it."
        )
    notes = [*tests_said(tests), *alike(carried.lines, carried.asked_all), *notes, *refused]
    title = "Domain generalisation" if domains else "Table 2: cross-dataset transfer"
    return Section(
        "domains" if domains else "table-2",
        titled(title, group),
        f"Trained on all classes of {set_title(carried.source)} (the source) and asked about "
        f"{'its variants' if domains else 'all classes of other sets'}. The average is over the "
        f"{len(carried.targets)} targets, without the source.",
        (Block("", columns, tuple(rows)),),
        charts=tuple(_charts(carried, found, beside)),
        chart_caption=_CAPTION + (" Diamonds are published." if beside else ""),
        details=tuple(block for block in details if block.rows),
        missing=tuple(carried.missing()),
        notes=tuple(notes),
        card=context.card(group, carried.lines),
        drawn=group.drawn,
    )


def _paper(carried: Carried, line: Line, key: str | None) -> float | None:
    odd = odd_sets(line.results)
    if carried.source in odd or any(one in odd for one in (carried.targets if key is None else (key,))):
        return None
    if key is None:
        own = [one for one in carried.targets if one in carried.found[line.label]]
        return published.cross_dataset_average(line.name, map(set_title, own))
    return published.cross_dataset(line.name, set_title(key))


def _numbers(carried: Carried, line: Line, beside: bool) -> Iterator[Number]:
    for key in (carried.source, *carried.targets, None):
        column = [
            one
            for label in carried.found
            if (one := carried.average(label) if key is None else carried.found[label].get(key)) is not None
        ]
        best = highest(column)
        paper = _paper(carried, line, key) if beside else None
        own = carried.average(line.label) if key is None else carried.found[line.label].get(key)
        if own is None:
            yield Number(None, published=paper)
        else:
            yield own.number(paper, best=is_best(own, best))


def _figures(carried: Carried, beside: bool) -> Iterator[Row]:
    for line in carried.lines:
        for key, estimate in carried.found[line.label].items():
            number = estimate.number(_paper(carried, line, key) if beside else None)
            yield figures_row(
                line.label, set_title(key), "source" if key == carried.source else "target", number
            )
        mean = carried.average(line.label)
        if mean is not None:
            number = mean.number(_paper(carried, line, None) if beside else None)
            yield figures_row(line.label, "average", "targets", number)


def _charts(carried: Carried, gained: Sequence[Gain], beside: bool) -> Iterator[Chart]:
    means = {line.label: carried.average(line.label) for line in carried.lines}
    found = {label: mean for label, mean in means.items() if mean is not None}
    papers = {line.label: _paper(carried, line, None) for line in carried.lines if beside}
    published_means = {label: paper for label, paper in papers.items() if paper is not None}
    title = f"Accuracy, average over {len(carried.targets)} targets"
    yield rows_chart(title, "accuracy, %", found, published_means)

    def paper_gain(pair: tuple[Line, Line], place: int) -> float | None:
        before, after = (_paper(carried, line, carried.targets[place]) if beside else None for line in pair)
        return None if before is None or after is None else after - before

    names = tuple(set_title(key) for key in carried.targets)
    yield from gain_charts(gained, names, paper_gain, "accuracy")
