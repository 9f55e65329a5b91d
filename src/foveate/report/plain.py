"""Tables as rows of words, for formats that have no second line in a cell."""

from collections.abc import Iterator, Sequence

from foveate.report.model import Block, Cell, Number, Row, signed, text

PUBLISHED, DIFFERENCE = "published", "Δ"


def spread_out(block: Block) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows; behind a column with published figures stand these, and the differences."""
    beside = [
        any(_has_published(row.cells[place]) for row in block.rows) for place in range(len(block.columns) - 1)
    ]
    heads = [block.columns[0]]
    for column, more in zip(block.columns[1:], beside, strict=True):
        heads += [column, PUBLISHED, DIFFERENCE] if more else [column]
    return heads, [list(_row(row, beside)) for row in block.rows]


def _has_published(cell: Cell) -> bool:
    return isinstance(cell, Number) and cell.published is not None


def _row(row: Row, beside: Sequence[bool]) -> Iterator[str]:
    yield row.label
    for cell, more in zip(row.cells, beside, strict=True):
        yield text(cell)
        if more:
            yield from published(cell)


def published(cell: Cell) -> tuple[str, str]:
    """Return the published figure of a cell, and by how much ours is above it."""
    if isinstance(cell, str) or cell.published is None:
        return "–", "–"
    shown = f"{cell.published:.{cell.digits}f}"
    return shown, "–" if cell.difference is None else signed(cell.difference, cell.digits)
