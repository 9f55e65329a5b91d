"""Generalised base to new: trained and other classes among all names together."""

from collections.abc import Mapping, Sequence

from foveate.evaluate.metrics import mean
from foveate.report.context import Context, titled
from foveate.report.estimates import Estimate, average, hm
from foveate.report.lines import Line
from foveate.report.model import Block, Number, Row, Section
from foveate.report.three import Rows
from foveate.report.titles import set_title


def generalised(rows: Rows, context: Context) -> Section | None:
    """Return base-to-new among all names together, where it was asked for."""
    lines = [line for line in rows.lines if any(_mixed(line, key) for key in rows.sets)]
    if not lines:
        return None
    blocks = [_mixed_block(rows, lines, key) for key in rows.sets]
    if len(rows.sets) > 1:
        blocks.insert(0, _mixed_block(rows, lines, None))
    return Section(
        "generalised",
        titled("Generalised base to new", rows.group),
        "All test pictures among all names together, which the paper does not report: accuracy on "
        "pictures of trained classes, on those of the others, the harmonic mean of these two, and on all "
        "pictures.",
        tuple(blocks),
        "grid",
        notes=tuple(
            context.notes(
                rows.group,
                lines,
                paper=False,
                marked=any(
                    isinstance(cell, Number) and bool(cell.mark)
                    for block in blocks
                    for row in block.rows
                    for cell in row.cells
                ),
            )
        ),
        card=context.card(rows.group, lines),
        drawn=rows.group.drawn,
    )


def _mixed(line: Line, key: str) -> dict[int, tuple[float, float, float]]:
    found: dict[int, tuple[float, float, float]] = {}
    for seed, run in line.runs.get((key, 0.0), {}).items():
        one = run.of(key, "all")
        if one is not None and one.trained is not None and one.others is not None:
            found[seed] = one.trained, one.others, one.accuracy
    return found


def _mixed_block(rows: Rows, lines: Sequence[Line], key: str | None) -> Block:
    made: list[Row] = []
    for line in lines:
        own = [found for one in (rows.sets if key is None else [key]) if (found := _mixed(line, one))]
        whole = len(own) == (len(rows.sets) if key is None else 1)
        made.append(Row(line.label, tuple(_mixed_numbers(own, whole, rows.seeds))))
    title = f"Average over {len(rows.sets)} sets" if key is None else set_title(key)
    return Block(title, ("method", "trained", "others", "HM", "all"), tuple(made))


def _mixed_numbers(
    own: Sequence[Mapping[int, tuple[float, float, float]]], whole: bool, wanted: Sequence[int]
) -> list[Number]:
    if not own:
        return [Number(None)] * 4
    kinds: list[Estimate] = []
    for place in range(3):
        parts = [
            Estimate(
                mean([values[place] for values in found.values()]),
                {seed: values[place] for seed, values in found.items()},
                mark="" if set(wanted) <= set(found) else "†",
            )
            for found in own
        ]
        kinds.append(average(parts, whole))
    trained, others, every = kinds
    return [one.number() for one in (trained, others, hm(trained, others), every)]
