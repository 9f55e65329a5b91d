"""Fig. 5: the foreground shift index of each row, beside its accuracy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from foveate.evaluate.metrics import mean
from foveate.report.context import Context, titled
from foveate.report.estimates import Estimate
from foveate.report.lines import Line
from foveate.report.model import Block, Chart, Number, Point, Row, Section, Series
from foveate.report.three import HEADS, KINDS, Rows, Three


def shift_section(rows: Rows, context: Context) -> Section | None:
    """Return Fig. 5: the foreground shift index of each row, beside its accuracy."""
    shifts = {line.label: _shifts(line, rows) for line in rows.lines}
    lines = [line for line in rows.lines if shifts[line.label]]
    if not lines:
        return None
    splits = [split for split in ("base", "new", "all") if any(split in shifts[line.label] for line in lines)]
    accuracy = {line.label: rows.averages.get(line.label) for line in lines}
    made = [
        Row(
            line.label,
            (
                *(_shift_number(shifts[line.label].get(split)) for split in splits),
                *(
                    Number(None) if (three := accuracy[line.label]) is None else three[kind].number()
                    for kind in KINDS
                ),
            ),
        )
        for line in lines
    ]
    names = tuple(line.label for line in lines)
    return Section(
        "fig-5",
        titled("Fig. 5: foreground shift index", rows.group),
        "D_fg, the mean of KL(p of the picture ‖ p of its foreground), in nats, over the test pictures "
        "that have masks: how far an answer moves when the background is taken away. Lower is better, of "
        "methods that are right as often: one that always answers the same has none. Means over sets, "
        "then over seeds.",
        (Block("", ("method", *(f"shift {split}" for split in splits), *HEADS), tuple(made)),),
        charts=tuple(_shift_charts(names, lines, splits, shifts, accuracy)),
        chart_caption="Fig. 5: shift index to the left, accuracy to the right.",
        notes=tuple(
            context.notes(
                rows.group,
                lines,
                paper=False,
                marked=any(one.mark for own in shifts.values() for one in own.values()),
            )
        ),
        card=context.card(rows.group, lines),
        drawn=rows.group.drawn,
    )


def _shift_number(estimate: Estimate | None) -> Number:
    return Number(None) if estimate is None else replace(estimate.number(), digits=3)


def _shifts(line: Line, rows: Rows) -> dict[str, Estimate]:
    """Return the mean shift over sets, by split and seed; partial where a set or a seed has none."""
    found: dict[str, Estimate] = {}
    for split in ("base", "new", "all"):
        by_set: dict[str, dict[int, float]] = {}
        for (key, _), seeds in line.runs.items():
            own = {
                seed: one.shift
                for seed, run in seeds.items()
                if (one := run.of(key, split)) is not None and one.shift is not None
            }
            if own:
                by_set[key] = own
        if by_set:
            common = set.intersection(*(set(own) for own in by_set.values()))
            seeds = {seed: mean([own[seed] for own in by_set.values()]) for seed in sorted(common)}
            whole = set(by_set) == set(rows.sets) and common == set(rows.seeds)
            value = mean([mean(list(own.values())) for own in by_set.values()])
            found[split] = Estimate(value, seeds, mark="" if whole else "†")
    return found


def _shift_charts(
    names: tuple[str, ...],
    lines: Sequence[Line],
    splits: Sequence[str],
    shifts: Mapping[str, Mapping[str, Estimate]],
    accuracy: Mapping[str, Three | None],
) -> Iterator[Chart]:
    series = [
        Series(
            f"{split} classes",
            tuple(
                Point(one.value, place)
                for place, line in enumerate(lines)
                if (one := shifts[line.label].get(split)) is not None
            ),
            colour,
        )
        for colour, split in enumerate(splits)
    ]
    yield Chart("dots", "Shift index", tuple(series), names, "D_fg, nats")
    drawn = [
        Series(
            f"{split} classes",
            tuple(
                Point(three[split].value, place, *_interval(three[split]))
                for place, line in enumerate(lines)
                if (three := accuracy[line.label]) is not None
            ),
            colour,
        )
        for colour, split in enumerate(("base", "new"))
    ]
    yield Chart("dots", "Accuracy", tuple(drawn), names, "accuracy, %")


def _interval(estimate: Estimate) -> tuple[float | None, float | None]:
    number = estimate.number()
    return number.low, number.high
