"""A report as LaTeX, with booktabs: a document that compiles, and tables that can be copied out of it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from foveate.report.model import Block, Cell, Number, Report, Row, Section, signed, text
from foveate.report.plain import spread_out

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "Δ": r"$\Delta$",
    "λ": r"$\lambda$",
    "‖": r"$\|$",
    "†": r"\textdagger{}",
    "✓": r"$\checkmark$",
    "–": "--",
    "’": "'",
}
_HEAD = r"""\documentclass[10pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{amssymb,booktabs,graphicx,longtable}
\usepackage[margin=2cm]{geometry}
\setlength{\tabcolsep}{4pt}
\newcommand{\fit}[1]{\sbox0{#1}\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi}
\begin{document}
"""
_ACROSS = 3
_MANY = 9  # columns of figures, below which deviations stand then
_LONG = 14  # letters of a head on one line
_SMALL = 7  # columns of a long table, which is set smaller then


def latex(report: Report) -> str:
    """Return the document."""
    parts = [
        _HEAD,
        rf"\section*{{{escape(report.title)}}}",
        *map(escape, report.facts),
        *_listed(report.warnings),
        *_listed([f"{title}: {said}" for title, said in report.sets]),
    ]
    for section in report.sections:
        parts += _section(section)
    parts += [r"\section*{How to read it}", *map(escape, report.legend), r"\end{document}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(words: str) -> str:
    """Return words that mean themselves in LaTeX."""
    return "".join(_SPECIAL.get(letter, letter) for letter in words)


def _section(section: Section) -> Iterator[str]:
    yield f"% ---- {section.key}"
    yield rf"\section*{{{escape(section.heading)}}}"
    yield escape(section.lead)
    yield from (_band(blocks) for blocks in _bands(section))
    for block in section.details:
        yield _long(block)
    yield from _listed([f"Missing: {one}." for one in section.missing])
    yield from _listed(section.notes)
    yield from _listed([f"{name}: {value}" for name, value in section.card])


def _bands(section: Section) -> list[list[Block]]:
    """Return what stands beside each other: three blocks with the same rows, as the papers set them."""
    blocks = list(section.blocks)
    labels = {tuple(row.label for row in block.rows) for block in blocks}
    widths = {len(block.columns) for block in blocks}
    if section.layout == "wide" or len(labels) > 1 or max(widths, default=0) > 4:
        return [[block] for block in blocks]
    return [blocks[start : start + _ACROSS] for start in range(0, len(blocks), _ACROSS)]


def _band(blocks: Sequence[Block]) -> str:
    """Return blocks with the same rows as one table, no wider than the page."""
    columns = [head for block in blocks for head in block.columns[1:]]
    lines = [line for rows in zip(*(block.rows for block in blocks), strict=True) for line in _lines(rows)]
    body = "\n".join(
        [
            rf"\fit{{\begin{{tabular}}{{l{'r' * len(columns)}}}",
            r"\toprule",
            *(_titles(blocks) if any(block.title for block in blocks) else ()),
            _line(map(escape, (blocks[0].columns[0], *columns))),
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
        ]
    )
    return rf"\noindent {body}\par\medskip"


def _titles(blocks: Sequence[Block]) -> Iterator[str]:
    width = len(blocks[0].columns) - 1
    yield _line(["", *(rf"\multicolumn{{{width}}}{{c}}{{{escape(block.title)}}}" for block in blocks)])
    ends = ((2 + place * width, 1 + (place + 1) * width) for place in range(len(blocks)))
    yield "".join(rf"\cmidrule(lr){{{start}-{end}}}" for start, end in ends)


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a row of ours; below it its deviations, where there are many columns, and what is published."""
    cells = [cell for row in rows for cell in row.cells]
    below = len(cells) > _MANY
    yield _line([escape(rows[0].label), *(_cell(cell, spread=not below) for cell in cells)])
    if below and any(map(_spread, cells)):
        yield _line(["", *map(_spread, cells)])
    if any(map(_published, cells)):
        yield _line([r"\quad\small published, $\Delta$", *map(_published, cells)])


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell, *, spread: bool) -> str:
    if isinstance(cell, str):
        return escape(cell)
    shown = escape(text(replace(cell, sd=None)))
    shown = rf"\textbf{{{shown}}}" if cell.best else shown
    return f"{shown} {_spread(cell)}".strip() if spread else shown


def _spread(cell: Cell) -> str:
    known = isinstance(cell, Number) and cell.value is not None and cell.sd is not None
    return rf"{{\scriptsize $\pm$\,{cell.sd:.{cell.digits}f}}}" if known else ""  # type: ignore[union-attr]


def _published(cell: Cell) -> str:
    if isinstance(cell, str) or cell.published is None:
        return ""
    apart = "" if cell.difference is None else f" {escape(signed(cell.difference, cell.digits))}"
    return rf"{{\scriptsize {cell.published:.{cell.digits}f}{apart}}}"


def _long(block: Block) -> str:
    heads, rows = spread_out(block)
    size = "scriptsize" if len(heads) > _SMALL else "small"
    return "\n".join(
        [
            rf"{{\{size}",
            rf"\begin{{longtable}}{{l{'r' * (len(heads) - 1)}}}",
            rf"\multicolumn{{{len(heads)}}}{{l}}{{\textbf{{{escape(block.title)}}}}} \\",
            r"\toprule",
            _line(map(_head, heads)),
            r"\midrule",
            r"\endhead",
            *(_line(map(escape, row)) for row in rows),
            r"\bottomrule",
            r"\end{longtable}}",
        ]
    )


def _head(words: str) -> str:
    """Return the head of a column, on two lines where it is long."""
    if len(words) <= _LONG or " " not in words:
        return escape(words)
    middle = min(
        (at for at, letter in enumerate(words) if letter == " "), key=lambda at: abs(2 * at - len(words))
    )
    return rf"\shortstack[r]{{{escape(words[:middle])}\\{escape(words[middle + 1 :])}}}"


def _listed(words: Sequence[str]) -> Iterator[str]:
    if words:
        items = "\n".join(rf"\item {escape(one)}" for one in words)
        yield f"\\begin{{itemize}}\n\\itemsep0pt\n{items}\n\\end{{itemize}}"
