"""Charts as inline SVG: text stays text, and colours are the page's own, so it is right on light and dark."""

from collections.abc import Iterable, Iterator
from html import escape

from foveate.report.axes import Scale, number_text, scale
from foveate.report.model import Chart, Point, Series

WIDTH = 380.0
PALETTE = 8
DASHES = ("none", "6 3", "2 3", "8 3 2 3")
_LINE, _TOP, _BOTTOM, _RIGHT = 22.0, 10.0, 38.0, 14.0
_MORE = 8.0  # between names that have marks above each other
_LETTER = 6.4  # a letter's width at the size of names


def svg(chart: Chart) -> str:
    """Return a chart as an `<svg>` element, 380 units wide."""
    parts = _lines(chart) if chart.kind == "lines" else _dots(chart)
    return "".join([*parts, "</svg>"])


def _open(chart: Chart, height: float) -> str:
    said = f"{chart.title}: {', '.join(dict.fromkeys(one.label for one in chart.series))}"
    return f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(said, quote=True)}">'


def _line(kind: str, x: tuple[float, float], y: tuple[float, float]) -> str:
    return f'<line class="{kind}" x1="{x[0]:.1f}" x2="{x[1]:.1f}" y1="{y[0]:.1f}" y2="{y[1]:.1f}"/>'


def _text(kind: str, x: float, y: float, anchor: str, words: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _dots(chart: Chart) -> Iterator[str]:
    longest = max((len(name) for name in chart.names), default=0)
    left = min(0.48 * WIDTH, 12 + _LETTER * longest)
    shifts = _shifts(chart)
    step = _LINE + (_MORE if any(shifts) else 0)
    height = _TOP + step * len(chart.names) + _BOTTOM
    along = scale([*_values(chart, across=True), *([0.0] if chart.zero else [])], left + 6, WIDTH - _RIGHT)
    yield _open(chart, height)
    yield from _grid(along, _TOP, height - _BOTTOM)
    if chart.zero:
        yield _line("axis", (along(0), along(0)), (_TOP, height - _BOTTOM))
    for place, name in enumerate(chart.names):
        y = _TOP + step * (place + 0.5)
        yield _text("name", left - 4, y + 4, "end", _cut(name, left))
    yield _text("label", (left + WIDTH - _RIGHT) / 2, height - 4, "middle", chart.x_label)
    for series, shift in zip(chart.series, shifts, strict=True):
        for point in series.points:
            yield from _dot(series, point, along, _TOP + step * (point.y + 0.5) + shift)


def _shifts(chart: Chart) -> list[float]:
    """Return how far each series stands from the middle of a name's line: no mark hides another."""
    ours = [series for series in chart.series if series.colour >= 0]
    alone = len(ours) < 2 or all(_lines_of(one) == 1 for one in ours)
    step = 0.0 if alone else min(6.4, 15 / (len(ours) - 1))
    return [step * (ours.index(one) - (len(ours) - 1) / 2) if one in ours else 0.0 for one in chart.series]


def _lines_of(series: Series) -> int:
    return len({point.y for point in series.points})


def _values(chart: Chart, *, across: bool) -> Iterator[float]:
    """Yield the numbers that a scale must hold."""
    for series in chart.series:
        for point in series.points:
            yield point.x if across else point.y
            yield from (end for end in (point.low, point.high) if end is not None and not series.hollow)


def _cut(name: str, left: float) -> str:
    most = int((left - 8) / _LETTER)
    return name if len(name) <= most else name[: most - 1] + "…"


def _grid(along: Scale, top: float, bottom: float) -> Iterator[str]:
    for tick in along.ticks:
        x = along(tick)
        yield _line("grid", (x, x), (top, bottom))
        yield _text("tick", x, bottom + 15, "middle", number_text(tick))


def _colour(series: Series) -> str:
    return "published" if series.colour < 0 else f"c{series.colour % PALETTE}"


def _dot(series: Series, point: Point, along: Scale, y: float) -> Iterator[str]:
    x, colour = along(point.x), _colour(series)
    if point.low is not None and point.high is not None and not series.hollow:
        yield _line(f"whisker {colour}", (along(point.low), along(point.high)), (y, y))
    title = f"<title>{escape(series.label)}: {point.x:.2f}</title>"
    if point.published:
        path = f"M{x:.1f} {y - 4.5:.1f}l4.5 4.5l-4.5 4.5l-4.5 -4.5z"
        yield f'<path class="mark published" d="{path}">{title}</path>'
    else:
        yield _circle(f"{colour} hollow" if series.hollow else colour, x, y, title)


def _circle(kind: str, x: float, y: float, inside: str = "") -> str:
    return f'<circle class="mark {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.8">{inside}</circle>'


def _lines(chart: Chart) -> Iterator[str]:
    height, left, top = 240.0, 40.0, _TOP + 14
    bottom, right = height - _BOTTOM, float(WIDTH - _RIGHT)
    across = scale(
        [*chart.ticks, *(point.x for one in chart.series for point in one.points)], left + 4, right
    )
    up = scale(_values(chart, across=False), bottom, top)
    yield _open(chart, height)
    for tick in up.ticks:
        yield _line("grid", (left, right), (up(tick), up(tick)))
        yield _text("tick", left - 6, up(tick) + 4, "end", number_text(tick))
    for tick in _apart(chart.ticks or across.ticks, across):
        yield _text("tick", across(tick), bottom + 15, "middle", number_text(tick))
    yield _text("label", (left + right) / 2, height - 4, "middle", chart.x_label)
    yield _text("label", 0.0, _TOP, "start", chart.y_label)
    for place, series in enumerate(chart.series):
        aside = 2.6 * (place - (len(chart.series) - 1) / 2)
        yield from _curve(series, across, up, aside)


def _apart(ticks: Iterable[float], across: Scale) -> Iterator[float]:
    """Yield the ticks whose numbers do not touch: 1, 2 and 4 shots stand close to each other."""
    taken = -100.0
    for tick in ticks:
        if across(tick) - taken >= 18:
            taken = across(tick)
            yield tick


def _curve(series: Series, across: Scale, up: Scale, aside: float) -> Iterator[str]:
    colour = _colour(series)
    places = [(across(point.x) + aside, up(point.y)) for point in series.points]
    for point, (x, _) in zip(series.points, places, strict=True):
        if point.low is not None and point.high is not None:
            yield _line(f"whisker {colour}", (x, x), (up(point.low), up(point.high)))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = DASHES[max(series.colour, 0) % len(DASHES)]
    yield f'<polyline class="curve {colour}" points="{path}" stroke-dasharray="{dashes}"/>'
    for point, (x, y) in zip(series.points, places, strict=True):
        yield _circle(colour, x, y, f"<title>{escape(series.label)}: {point.y:.2f}</title>")
