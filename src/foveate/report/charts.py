"""Charts that several tables have: averages of rows, and what plug-ins add set by set."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from foveate.report.estimates import Estimate
from foveate.report.lines import Line
from foveate.report.model import Chart, Point, Series
from foveate.report.pairs import Gain

_GREY = 7
Pair = tuple[Line, Line]


def point_of(estimate: Estimate, place: int) -> Point:
    """Return a figure with its interval, for a chart of names."""
    number = estimate.number()
    return Point(estimate.value, place, number.low, number.high)


def named(row: tuple[str, Estimate]) -> str:
    """Return a row's name for a chart, marked where its figure is."""
    label, estimate = row
    return f"{label} {estimate.mark}".strip()


def rows_chart(
    title: str, label: str, found: Mapping[str, Estimate], published: Mapping[str, float]
) -> Chart:
    """Return one figure of each row, with published ones beside.

    Args:
        title: Over it.
        label: Under it.
        found: Figures by the row's label.
        published: Likewise.
    """
    names = tuple(map(named, found.items()))
    ours = tuple(point_of(estimate, place) for place, estimate in enumerate(found.values()))
    theirs = tuple(
        Point(published[label], place, published=True)
        for place, label in enumerate(found)
        if label in published
    )
    series = (Series("ours", ours, _GREY), *([Series("published", theirs, -1)] if theirs else []))
    return Chart("dots", title, series, names, label)


def gain_charts(
    found: Sequence[Gain], names: Sequence[str], published: Callable[[Pair, int], float | None], what: str
) -> Iterator[Chart]:
    """Yield, for each pair of rows, what the second adds on each set.

    Args:
        found: Gains.
        names: Of sets.
        published: What the second adds in the paper, on the set at a place.
        what: Is added: "HM".
    """
    for colour, gain in enumerate(found):
        ours = [(gain.on_set(place), place) for place in range(len(names))]
        paper = [(published(gain.pair, place), place) for place in range(len(names))]
        points = tuple(point_of(one, place) for one, place in ours if one is not None)
        theirs = tuple(Point(one, place, published=True) for one, place in paper if one is not None)
        series = (Series("ours", points, colour), *([Series("published", theirs, -1)] if theirs else []))
        title = f"{gain.pair[1].label}: gain in {what}"
        yield Chart("dots", title, series, tuple(names), "points", zero=True)
