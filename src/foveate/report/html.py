"""A report as one HTML file: no script, nothing from elsewhere, for light and dark, phones and paper."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files

from foveate.report.model import Block, Cell, Chart, Number, Report, Row, Section, Series, signed, text
from foveate.report.svg import DASHES, PALETTE, svg

_MANY = 9  # columns, which stand closer then
_SOME = 5
_META = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">'


def html(report: Report) -> str:
    """Return the page."""
    style = files("foveate.report").joinpath("page.css").read_text(encoding="utf-8").strip()
    facts = "".join(f"<p>{escape(fact)}</p>" for fact in report.facts)
    warnings = "".join(f'<p class="warning">{escape(one)}</p>' for one in report.warnings)
    sets = _folded("The drawn sets", _pairs(report.sets)) if report.sets else ""
    contents = "".join(_contents(report.sections))
    body = "\n".join(_section(section) for section in report.sections)
    legend = "".join(f"<p>{escape(one)}</p>" for one in report.legend)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n{_META}\n<title>{escape(report.title)}</title>\n'
        f"<style>\n{style}\n</style>\n</head>\n<body>\n<header><h1>{escape(report.title)}</h1>{facts}{warnings}{sets}</header>\n"
        f'<nav aria-label="Tables"><ul>{contents}</ul></nav>\n<main>\n{body}\n</main>\n'
        f'<footer id="how"><h2>How to read it</h2>{legend}</footer>\n</body>\n</html>\n'
    )


def _section(section: Section) -> str:
    parts = [f'<section id="{section.key}"><h2>{escape(section.title)}</h2>']
    if section.drawn:
        parts.append('<p class="drawn">drawn scenes, not photographs</p>')
    parts.append(f"<p>{escape(section.lead)}</p>")
    if section.layout == "grid" and len(section.blocks) > 1:
        parts.append(
            f'<div class="grid">{"".join(f"<div>{_block(block)}</div>" for block in section.blocks)}</div>'
        )
    else:
        parts += [
            _block(block, "wide dense" if len(block.columns) > _MANY else "wide") for block in section.blocks
        ]
    parts += [_figure(section), _missing(section), _list(section.notes, "notes")]
    parts += [
        _folded(block.title, _block(block, "long", titled=False), opened=block.kind == "gains")
        for block in section.details
    ]
    if section.card:
        parts.append(_folded("Protocol", _pairs(section.card), "card"))
    return "\n".join(part for part in (*parts, "</section>") if part)


def _contents(sections: Sequence[Section]) -> Iterator[str]:
    """Yield the table of contents; it says what is drawn where the same table is there of photographs too."""
    titles = [one.title for one in sections]
    for one in sections:
        said = one.title if titles.count(one.title) == 1 else one.heading
        yield f'<li><a href="#{one.key}">{escape(said)}</a></li>'
    yield '<li><a href="#how">How to read it</a></li>'


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    said = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f"<dl>{said}</dl>"


def _folded(title: str, inside: str, kind: str = "more", *, opened: bool = False) -> str:
    """Return what opens when it is asked for; a "card" is printed on paper too."""
    kind = f'class="{kind}"{" open" if opened else ""}'
    return f"<details {kind}><summary>{escape(title)}</summary>{inside}</details>"


def _list(words: Iterable[str], name: str) -> str:
    items = "".join(f"<li>{escape(one)}</li>" for one in words)
    return f'<ul class="{name}">{items}</ul>' if items else ""


def _missing(section: Section) -> str:
    if not section.missing:
        return ""
    number = len(section.missing)
    return _folded(f"{number} missing run{'s' * (number != 1)}", _list(section.missing, "missing"), "card")


def _block(block: Block, name: str = "", *, titled: bool = True) -> str:
    title = f"<h3>{escape(block.title)}</h3>" if block.title and titled else ""
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in block.columns)
    rows = "".join(_row(row) for row in block.rows)
    kind = f' class="{name or _closeness(block)}"'
    return (
        f'{title}<div class="scroll" tabindex="0"><table{kind}><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _closeness(block: Block) -> str:
    """Return how close columns of a block stand, which shares the width with another."""
    return "tight" if len(block.columns) > _SOME else "loose"


def _row(row: Row) -> str:
    kind = ' class="theirs"' if row.published else ""
    return f'<tr{kind}><th scope="row">{_unbroken(row.label)}</th>{"".join(map(_cell, row.cells))}</tr>'


def _unbroken(label: str) -> str:
    """Return a label that breaks between words, never at a dash: "FVG-PT" stays whole."""
    return " ".join(f"<span>{escape(word)}</span>" if "-" in word else escape(word) for word in label.split())


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f'<td class="word">{escape(cell)}</td>'
    shown = escape(text(replace(cell, sd=None)))
    shown = f"<b>{shown}</b>" if cell.best else shown
    spread = "" if cell.sd is None else f' <small class="sd">±{cell.sd:.{cell.digits}f}</small>'
    return f"<td{_said(cell)}>{shown}{spread}{_published(cell)}</td>"


def _said(cell: Number) -> str:
    """Return the interval, for who points at the figure; it stands under "all figures" too."""
    if cell.low is None or cell.high is None:
        return ""
    ends = f"{cell.low:.{cell.digits}f} to {cell.high:.{cell.digits}f}"
    return f' title="95 % interval {ends}, {cell.seeds} seeds"'


def _published(cell: Number) -> str:
    if cell.published is None:
        return ""
    shown = f"{cell.published:.{cell.digits}f}"
    if cell.difference is None:
        return f"<small><i>paper </i>{shown}</small>"
    kind = "up" if cell.difference > 0 else "down"
    change = signed(cell.difference, cell.digits)
    kind = "" if cell.neutral or not float(change.replace("−", "-")) else kind
    return f'<small><i>paper </i>{shown} <span class="{kind}">{change}</span></small>'


def _figure(section: Section) -> str:
    if not section.charts:
        return ""
    charts = "".join(
        f"<div><h3>{escape(chart.title)}</h3>{_legend(chart)}{svg(chart)}</div>" for chart in section.charts
    )
    caption = f"<figcaption>{escape(section.chart_caption)}</figcaption>"
    return f'<figure><div class="charts">{charts}</div>{caption}</figure>'


def _legend(chart: Chart) -> str:
    if len(chart.series) < 2 or (
        chart.kind == "dots" and tuple(one.label for one in chart.series) == chart.names
    ):
        return ""
    return f'<ul class="legend">{"".join(_keys(chart))}</ul>'


def _keys(chart: Chart) -> Iterator[str]:
    for series in chart.series:
        yield f"<li>{_sign(series, chart.kind == 'lines')}{escape(series.label)}</li>"


def _sign(series: Series, line: bool) -> str:
    colour = f"c{series.colour % PALETTE}"
    if series.colour < 0:
        drawn = '<path class="mark published" d="M12 1.5l4.5 4.5l-4.5 4.5l-4.5 -4.5z"/>'
    else:
        hollow = " hollow" if series.hollow else ""
        dashes = DASHES[series.colour % len(DASHES)]
        curve = f'<path class="curve {colour}" d="M0 6h24" stroke-dasharray="{dashes}"/>' if line else ""
        drawn = f'{curve}<circle class="mark {colour}{hollow}" cx="12" cy="6" r="4"/>'
    return f'<svg viewBox="0 0 24 12" aria-hidden="true">{drawn}</svg>'
