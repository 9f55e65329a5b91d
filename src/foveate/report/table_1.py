"""Table 1, base to new, and Fig. 4 beside it; on ViT-L/14 it is a table of the supplementary."""

from collections.abc import Iterator, Sequence

from foveate.report import published
from foveate.report.cards import odd_sets
from foveate.report.charts import gain_charts, rows_chart
from foveate.report.context import Context, any_marked, figures_block, figures_row, titled
from foveate.report.lines import Line
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
from foveate.report.three import HEADS, KINDS, Rows, highest, is_best
from foveate.report.titles import set_title

_L14 = "ViT-L/14"
_LEAD = (
    "Trained on the first half of the classes. Base classes are told apart among base names, new ones "
    "among new names. HM is the harmonic mean of base and new; on average, that of the two averages."
)
_CAPTION = (
    "Fig. 4, in our drawing: HM of the averages, and what a plug-in adds to HM on each set. Bars are 95 % "
    "intervals over pictures and seeds."
)


def table_1(rows: Rows, context: Context) -> Section:
    """Return Table 1, a block for each set and one for the average; with Fig. 4 beside it."""
    group = rows.group
    large = published.tower(group.clip) == _L14
    towers = _L14 if large else published.TOWER
    beside = context.beside(group, towers=towers)
    pairs = plug_ins(rows.lines)
    found = gains(pairs, rows.asked, context.bootstrap)
    tests, refused = tests_of(pairs, rows.asked_flat, set_title)
    details = (
        gains_block(found, HEADS),
        figures_block(_figures(rows, beside)),
        tests_block(tests),
    )
    notes = [
        *tests_said(tests),
        *alike(rows.lines, rows.asked_flat),
        *context.notes(group, rows.lines, marked=_marked(rows), towers=towers),
        *refused,
    ]
    return Section(
        "vit-l14" if large else "table-1",
        titled(f"Tables 13, 14: base to new on {_L14}" if large else "Table 1: base to new", group),
        _LEAD,
        tuple(_block(rows, key, beside) for key in shown_sets(rows)),
        "grid",
        tuple(_charts(rows, found, beside)),
        _CAPTION + (" Diamonds are published." if beside else ""),
        tuple(block for block in details if block.rows),
        rows.missing(),
        tuple([*notes, *_notes(rows)] if beside else notes),
        context.card(group, rows.lines, towers=towers),
        group.drawn,
    )


def shown_sets(rows: Rows) -> tuple[str | None, ...]:
    """Return the sets that have a block each, behind None for the average of several."""
    return (None, *rows.sets) if len(rows.sets) > 1 else rows.sets


def paper_three(rows: Rows, line: Line, key: str | None) -> published.Three | None:
    """Return the published figures of a row on a set, or on average over the sets that the row has here.

    There are none of a set of which we have only a part.
    """
    odd = odd_sets(line.results)
    keys = tuple(rows.found[line.label]) if key is None else (key,)
    titles = [set_title(one) for one in keys]
    if any(one in odd for one in keys):
        return None
    if published.tower(rows.group.clip) == _L14:
        return published.vit_l14(line.name) if key is None and set(titles) == set(published.sets()) else None
    if key is None:
        return published.base_to_new_average(line.name, titles)
    return published.base_to_new(line.name, titles[0])


def _block(rows: Rows, key: str | None, beside: bool) -> Block:
    own = {line.label: three for line in rows.lines if (three := rows.three(line.label, key)) is not None}
    best = {kind: highest([three[kind] for three in own.values()]) for kind in KINDS}
    made: list[Row] = []
    for line in rows.lines:
        paper = paper_three(rows, line, key) if beside else None
        three = own.get(line.label)
        numbers = [
            Number(None, published=paper and paper[place])
            if three is None
            else three[kind].number(paper and paper[place], best=is_best(three[kind], best[kind]))
            for place, kind in enumerate(KINDS)
        ]
        made.append(Row(line.label, tuple(numbers)))
    title = f"Average over {len(rows.sets)} sets" if key is None else set_title(key)
    return Block(title, ("method", *HEADS), tuple(made))


def _figures(rows: Rows, beside: bool) -> Iterator[Row]:
    for line in rows.lines:
        for key in shown_sets(rows):
            three = rows.three(line.label, key)
            paper = paper_three(rows, line, key) if beside else None
            if three is None:
                continue
            for place, kind in enumerate(KINDS):
                where = "average" if key is None else set_title(key)
                number = three[kind].number(paper and paper[place])
                yield figures_row(line.label, where, HEADS[place], number)


def _marked(rows: Rows) -> bool:
    every = [*rows.averages.values(), *(three for own in rows.found.values() for three in own.values())]
    return any_marked(three[kind] for three in every for kind in KINDS)


def _notes(rows: Rows) -> Iterator[str]:
    yield (
        "Below each figure are the published one (Table 1 of the paper) and by how much ours is above it, "
        "of the printed digits."
    )
    if any({set_title(key) for key in own} != set(published.sets()) for own in rows.found.values()):
        yield (
            "Published averages are worked out over the sets that a row has here, from the published rows "
            "of these sets; the paper prints averages over eleven."
        )
    if any(key == "eurosat" for key in rows.sets):
        yield f"Of the paper: {published.ERRATA[2]}"


def _charts(rows: Rows, found: Sequence[Gain], beside: bool) -> Iterator[Chart]:
    key = rows.sets[0] if len(rows.sets) == 1 else None
    means = {
        line.label: three.hm for line in rows.lines if (three := rows.three(line.label, key)) is not None
    }
    papers = {line.label: paper_three(rows, line, key) for line in rows.lines if beside}
    published_hm = {label: paper[2] for label, paper in papers.items() if paper is not None}
    title = f"HM, average over {len(rows.sets)} sets" if key is None else f"HM on {set_title(key)}"
    yield rows_chart(title, "HM, %", means, published_hm)

    def paper_gain(pair: tuple[Line, Line], place: int) -> float | None:
        both = [paper_three(rows, line, rows.sets[place]) for line in pair] if beside else [None]
        return both[1][2] - both[0][2] if all(both) else None  # type: ignore[index]

    names = tuple(set_title(key) for key in rows.sets)
    yield from gain_charts(found, names, paper_gain, "HM")
