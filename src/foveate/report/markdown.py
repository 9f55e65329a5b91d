"""A report as Markdown."""

from collections.abc import Iterable, Iterator, Sequence

from foveate.report.model import Block, Report, Section
from foveate.report.plain import spread_out

_SPECIAL = {letter: f"\\{letter}" for letter in "\\`*_[]<>|"}


def markdown(report: Report) -> str:
    """Return the page."""
    parts = [f"# {escape(report.title)}", *map(escape, report.facts), *_listed(report.warnings)]
    parts += _listed([f"{title}: {said}" for title, said in report.sets])
    for section in report.sections:
        parts += _section(section)
    parts += ["## How to read it", *map(escape, report.legend)]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(words: str) -> str:
    """Return words that mean themselves in Markdown."""
    return "".join(_SPECIAL.get(letter, letter) for letter in words)


def _section(section: Section) -> Iterator[str]:
    yield f"## {escape(section.heading)}"
    yield escape(section.lead)
    for block in section.blocks:
        yield from _block(block)
    for block in section.details:
        yield from _block(block)
    if section.missing:
        yield "Missing runs:"
        yield from _listed(section.missing)
    yield from _listed(section.notes)
    if section.card:
        yield "Protocol:"
        yield "\n".join(f"- {name}: {escape(value)}" for name, value in section.card)


def _block(block: Block) -> Iterator[str]:
    if block.title:
        yield f"**{escape(block.title)}**"
    heads, rows = spread_out(block)
    ruler = ["---", *("---:" for _ in heads[1:])]
    yield "\n".join(
        _line(cells) for cells in (map(escape, heads), ruler, *(map(escape, row) for row in rows))
    )


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _listed(words: Sequence[str]) -> Iterator[str]:
    if words:
        yield "\n".join(f"- {escape(one)}" for one in words)
