"""Many seeds of the same row: how far they lie apart."""

from foveate.report.context import Context, figures_block, figures_row, titled
from foveate.report.model import Block, Chart, Number, Point, Row, Section, Series
from foveate.report.three import HEADS, KINDS, Rows
from foveate.report.titles import set_title


def robustness(rows: Rows, context: Context) -> Section:
    """Return deviation and range over seeds, set by set, and a chart with a mark for each seed."""
    made: list[Row] = []
    figures: list[Row] = []
    for line in rows.lines:
        for key, three in rows.found[line.label].items():
            values = three.hm.seeds.values()
            numbers = [three[kind].number() for kind in KINDS]
            least, most = Number(min(values)), Number(max(values))
            made.append(Row(line.label, (set_title(key), *numbers, least, most, str(len(values)))))
            for head, number in zip(HEADS, numbers, strict=True):
                figures.append(figures_row(line.label, set_title(key), head, number))
    return Section(
        "seeds",
        titled("Seed robustness", rows.group),
        "The same training under many seeds. A seed decides which pictures are drawn, where learning "
        "starts, the order of pictures and their views.",
        (Block("", ("method", "set", *HEADS, "least HM", "highest HM", "seeds"), tuple(made)),),
        charts=tuple(_chart(rows, key) for key in rows.sets),
        chart_caption="HM of each seed, a mark each.",
        details=(figures_block(figures),),
        missing=rows.missing(),
        notes=tuple(
            context.notes(
                rows.group,
                rows.lines,
                paper=False,
                marked=any(three.hm.mark for own in rows.found.values() for three in own.values()),
            )
        ),
        card=context.card(rows.group, rows.lines),
        drawn=rows.group.drawn,
    )


def _chart(rows: Rows, key: str) -> Chart:
    lines = [line for line in rows.lines if key in rows.found[line.label]]
    series = tuple(
        Series(
            line.label,
            tuple(Point(value, place) for value in rows.found[line.label][key].hm.seeds.values()),
            place,
            hollow=True,
        )
        for place, line in enumerate(lines)
    )
    return Chart("dots", set_title(key), series, tuple(line.label for line in lines), "HM, %")
