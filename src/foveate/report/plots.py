"""Charts as inline SVG, made with matplotlib.

Text stays text, and colours are CSS variables of the page (`--c0`), so a chart suits light, dark and
print.
"""

import io
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from foveate.report.model import Chart, Series

WIDTH = 380.0
PALETTE = 8
DASHES = ("none", "6 3", "2 3", "8 3 2 3")
_LINE, _MORE, _TOP, _BOTTOM, _RIGHT, _HEIGHT = 22.0, 8.0, 10.0, 38.0, 14.0, 240.0
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_LETTER = 6.4  # width of a letter in the font size of names
_COLOURS = {
    **{name: f"#{0xF0A0 + index:06x}" for index, name in enumerate(("paper", "ink", "soft", "rule"))},
    **{f"c{index}": f"#{0xF0B0 + index:06x}" for index in range(PALETTE)},
}
_STYLE: dict[Any, Any] = {
    **{"svg.fonttype": "none", "font.size": 11.0, "figure.facecolor": "none", "axes.facecolor": "none"},
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
    **{"axes.axisbelow": True, "axes.grid": True, "grid.color": _COLOURS["rule"], "grid.linewidth": 1.0},
    **{"axes.labelcolor": _COLOURS["soft"], "xtick.color": _COLOURS["soft"], "ytick.color": _COLOURS["soft"]},
    **{"xtick.major.size": 0.0, "ytick.major.size": 0.0, "lines.solid_capstyle": "round"},
}


def svg(chart: Chart) -> str:
    """Return a chart as an `<svg>` element, 380 units wide; a tooltip gives the number of each point."""
    rows = len(chart.names)
    shifts = _shifts(chart)
    step = _LINE + (_MORE if any(shifts) else 0)
    height = _HEIGHT if chart.kind == "lines" else _TOP + step * rows + _BOTTOM
    longest = max((len(name) for name in chart.names), default=0)
    left = 40.0 if chart.kind == "lines" else min(0.48 * WIDTH, 12 + _LETTER * longest)
    top = _TOP + (14 if chart.kind == "lines" else 0)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        box = (
            left / WIDTH,
            _BOTTOM / height,
            (WIDTH - left - _RIGHT) / WIDTH,
            (height - top - _BOTTOM) / height,
        )
        axes = figure.add_axes(box)
        axes.set_xlabel(chart.x_label)
        axes.margins(0.06)
        titles: dict[str, str] = {}
        if chart.kind == "lines":
            _lines(axes, chart, titles)
        else:
            _dots(axes, chart, [shift / step for shift in shifts], titles)
            letters = int((left - 8) / _LETTER)
            labels = [name if len(name) <= letters else name[: letters - 1] + "…" for name in chart.names]
            axes.set_yticks(range(rows), labels, color=_COLOURS["ink"])
            axes.set_ylim(rows - 0.5, -0.5)
            axes.grid(visible=False, axis="y")
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    description = f"{chart.title}: {', '.join(dict.fromkeys(series.label for series in chart.series))}"
    return _inline(file.getvalue(), description, titles)


def _shifts(chart: Chart) -> list[float]:
    """Return the vertical offset of each series from a name's line, so that points do not overlap."""
    ours = [series for series in chart.series if series.colour >= 0]
    alone = len(ours) < 2 or all(len({point.y for point in item.points}) == 1 for item in ours)
    step = 0.0 if alone or chart.kind == "lines" else min(6.4, 15 / (len(ours) - 1))
    return [step * (ours.index(item) - (len(ours) - 1) / 2) if item in ours else 0.0 for item in chart.series]


def _dots(axes: Axes, chart: Chart, shifts: list[float], titles: dict[str, str]) -> None:
    if chart.zero:
        axes.axvline(0, color=_COLOURS["soft"], linewidth=1.0, zorder=1, clip_on=False)
        axes.update_datalim([(0.0, 0.0)])
    for series, shift in zip(chart.series, shifts, strict=True):
        for point in series.points:
            y = point.y + shift
            if point.low is not None and point.high is not None and not series.hollow:
                _whisker(axes, series, (point.low, point.high), (y, y))
            _mark(axes, series, point.x, y, f"{series.label}: {point.x:.2f}", titles)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))


def _lines(axes: Axes, chart: Chart, titles: dict[str, str]) -> None:
    left = -axes.get_position().x0 * WIDTH / (WIDTH - 54)
    axes.set_title(chart.y_label, loc="left", x=left, fontsize=11.0, color=_COLOURS["soft"])
    xs = sorted({*chart.ticks, *(point.x for series in chart.series for point in series.points)})
    unit = ((xs[-1] - xs[0]) or 1.0) * 1.12 / (WIDTH - 54) if xs else 1.0
    for index, series in enumerate(chart.series):
        offset = 2.6 * (index - (len(chart.series) - 1) / 2) * unit
        for point in series.points:
            if point.low is not None and point.high is not None:
                _whisker(axes, series, (point.x + offset,) * 2, (point.low, point.high))
        dashes = DASHES[max(series.colour, 0) % len(DASHES)]
        style: Any = "-" if dashes == "none" else (0, [float(length) / 1.8 for length in dashes.split()])
        curve = [[point.x + offset for point in series.points], [point.y for point in series.points]]
        axes.plot(*curve, color=_colour(series), linewidth=1.8, linestyle=style, clip_on=False, gid="curve")
        for point in series.points:
            _mark(axes, series, point.x + offset, point.y, f"{series.label}: {point.y:.2f}", titles)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    labelled: list[float] = []
    for tick in chart.ticks:  # 1, 2 and 4 shots are close together: labels must not overlap
        if not labelled or (tick - labelled[-1]) / unit >= 18:
            labelled.append(tick)
    if labelled:
        axes.xaxis.set_major_locator(FixedLocator(labelled))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    axes.grid(visible=False, axis="x")


def _colour(series: Series) -> str:
    return _COLOURS["soft" if series.colour < 0 else f"c{series.colour % PALETTE}"]


def _whisker(axes: Axes, series: Series, x: tuple[float, ...], y: tuple[float, ...]) -> None:
    axes.plot(x, y, color=_colour(series), linewidth=1.6, alpha=0.5, zorder=2, clip_on=False)


def _mark(axes: Axes, series: Series, x: float, y: float, tooltip: str, titles: dict[str, str]) -> None:
    hollow = series.hollow or series.colour < 0
    axes.plot(
        [x],
        [y],
        marker="D" if series.colour < 0 else "o",
        markersize=6.4 if series.colour < 0 else 7.6,
        markeredgewidth=1.4 if hollow else 0.0,
        markeredgecolor=_colour(series),
        markerfacecolor=_COLOURS["paper"] if series.hollow else "none" if hollow else _colour(series),
        zorder=3,
        clip_on=False,
        gid=f"mark-{len(titles)}",
    )
    titles[f"mark-{len(titles)}"] = tooltip


def _inline(text: str, description: str, titles: dict[str, str]) -> str:
    """Convert matplotlib's SVG to an element of a page: no URLs, no ids, the page's colours."""
    for name, colour in _COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    root = ElementTree.fromstring(text)
    shapes = {path.get("id", ""): path.get("d", "") for path in root.iter(f"{_SVG}path")}
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{_SVG}defs", f"{_SVG}metadata"):
                parent.remove(child)
    for element in list(root.iter()):
        name = element.attrib.pop("id", "")
        _tidy(element, shapes)
        if name == "curve":
            element.set("class", name)
        if name in titles:
            title = ElementTree.Element("title")
            title.text = titles[name]
            element.insert(0, title)
    root.attrib = {"viewBox": root.get("viewBox", ""), "role": "img", "aria-label": description}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _tidy(element: ElementTree.Element, shapes: Mapping[str, str]) -> None:
    """Make an element self-contained: a point has its own path, text has the page's font."""
    element.tag = element.tag.removeprefix(_SVG)
    element.text, element.tail = (element.text or "").strip(), None
    element.attrib.pop("clip-path", None)  # nothing is drawn outside the axes
    if element.tag == "use":
        element.tag = "path"
        element.set("d", shapes[element.attrib.pop(_LINK)[1:]])
        element.set("transform", f"translate({element.attrib.pop('x')} {element.attrib.pop('y')})")
    if element.tag == "text":
        style = element.get("style", "").split("; ")
        element.set("style", "; ".join(part for part in style if part.startswith(("fill", "text-anchor"))))
        element.attrib.pop("transform", None)
    if "d" in element.attrib:
        element.set("d", " ".join(element.attrib["d"].split()))
