"""Table 10, deviations over seeds, and Table 11, averages that other methods are published with."""

from foveate.evaluate.metrics import mean
from foveate.report import published
from foveate.report.context import Context, titled
from foveate.report.lines import Line
from foveate.report.model import Block, Number, Row, Section
from foveate.report.statistics import deviation
from foveate.report.three import HEADS, KINDS, Rows
from foveate.report.titles import set_title


def table_10(rows: Rows, context: Context) -> Section | None:
    """Return Table 10: how HM varies over seeds, beside the published deviations."""
    group = rows.group
    lines = [line for line in rows.lines if "+" in line.method] or list(rows.lines)
    if not context.beside(group) or len(rows.seeds) < 2:
        return None
    made = [Row(set_title(key), tuple(_spread(rows, line, key) for line in lines)) for key in rows.sets]
    own: list[list[float]] = [
        [
            number.value
            for row in made
            if isinstance(number := row.cells[place], Number) and number.value is not None
        ]
        for place in range(len(lines))
    ]
    made.append(Row("mean of these", tuple(Number(mean(values)) if values else "–" for values in own)))
    made.append(Row("of the average", tuple(_spread(rows, line, None) for line in lines)))
    columns = ("set", *(line.label for line in lines))
    return Section(
        "table-10",
        titled("Table 10: deviation of HM over seeds", group),
        "Standard deviation (n − 1) of HM, worked out for each seed. The last row is the deviation of the "
        "average; the row above it, the mean of the sets' deviations, is what the paper prints as an "
        "average.",
        (Block("", columns, tuple(made)),),
        notes=(
            *context.notes(group, lines, marked=False),
            *(f"Of the paper: {one}" for one in published.ERRATA[:2]),
        ),
        card=context.card(group, lines),
        drawn=group.drawn,
    )


def _spread(rows: Rows, line: Line, key: str | None) -> Number:
    three = rows.three(line.label, key)
    spread = None if three is None else deviation(list(three.hm.seeds.values()))
    paper = None if key is None else published.hm_sd(line.name, set_title(key))
    return Number(spread, published=paper, neutral=True, seeds=0 if three is None else len(three.hm.seeds))


def table_11(rows: Rows, context: Context) -> Section | None:
    """Return Table 11: averages that other methods are published with, DAPT's among them."""
    group = rows.group
    if not context.beside(group) or {set_title(key) for key in rows.sets} != set(published.sets()):
        return None
    made = [
        Row(one.name, tuple(Number(value) for value in one.values), True) for one in published.other_methods()
    ]
    for line in rows.lines:
        three = rows.averages.get(line.label)
        if three is not None:
            made.append(Row(f"{line.label} (ours)", tuple(three[kind].number() for kind in KINDS)))
    return Section(
        "table-11",
        titled("Table 11: other methods and DAPT, averages over eleven sets", group),
        "Published averages, each with its authors' own settings, and ours of this sweep. Rows marked "
        "ViT-B/32 are of another CLIP.",
        (Block("", ("method", *HEADS), tuple(made)),),
        notes=tuple(context.notes(group, rows.lines, marked=False)),
        card=context.card(group, rows.lines),
    )
