"""A report as LaTeX, with booktabs: a document that compiles, and tables that can be copied out of it."""

from collections.abc import Iterator, Sequence

from foveate.report.model import Block, Cell, Number, Report, Section, text
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
\usepackage{amssymb,booktabs,longtable}
\usepackage[margin=2cm]{geometry}
\setlength{\tabcolsep}{4pt}
\begin{document}
"""
_ACROSS = 3


def latex(report: Report) -> str:
    """Return the document."""
    parts = [
        _HEAD,
        rf"\section*{{{escape(report.title)}}}",
        *map(escape, report.facts),
        *_listed(report.warnings),
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
    yield rf"\section*{{{escape(section.title)}}}"
    yield escape(section.lead)
    for band in _bands(section):
        yield _side_by_side(band) if len(band) > 1 else _tabular(band[0])
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


def _side_by_side(blocks: Sequence[Block]) -> str:
    """Return blocks with the same rows as one table: figures of ours, with published ones below."""
    width = len(blocks[0].columns) - 1
    spec = "l" + " ".join("c" * width for _ in blocks)
    titles = " & ".join(rf"\multicolumn{{{width}}}{{c}}{{{escape(block.title)}}}" for block in blocks)
    rules = "".join(
        rf"\cmidrule(lr){{{2 + place * width}-{1 + (place + 1) * width}}}" for place in range(len(blocks))
    )
    heads = " & ".join(
        [escape(blocks[0].columns[0]), *(escape(head) for block in blocks for head in block.columns[1:])]
    )
    lines: list[str] = []
    for rows in zip(*(block.rows for block in blocks), strict=True):
        cells = [cell for row in rows for cell in row.cells]
        lines.append(" & ".join([escape(rows[0].label), *map(_cell, cells)]) + r" \\")
        if any(isinstance(cell, Number) and cell.published is not None for cell in cells):
            lines.append(" & ".join([r"\quad published", *map(_published, cells)]) + r" \\")
    body = "\n".join(lines)
    return (
        f"\\begin{{tabular}}{{{spec}}}\n\\toprule\n & {titles} \\\\\n{rules}\n{heads} "
        f"\\\\\n\\midrule\n{body}\n"
        "\\bottomrule\n\\end{tabular}"
    )


def _cell(cell: Cell) -> str:
    shown = escape(text(cell))
    return rf"\textbf{{{shown}}}" if isinstance(cell, Number) and cell.best else shown


def _published(cell: Cell) -> str:
    known = isinstance(cell, Number) and cell.published is not None
    return rf"\small {cell.published:.{cell.digits}f}" if known else ""  # type: ignore[union-attr]


def _tabular(block: Block) -> str:
    heads, rows = spread_out(block)
    lines = "\n".join(" & ".join(map(escape, row)) + r" \\" for row in rows)
    head = " & ".join(map(escape, heads))
    title = rf"\textbf{{{escape(block.title)}}}\\[2pt]" + "\n" if block.title else ""
    return (
        f"{title}\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}\n\\toprule\n{head} \\\\\n"
        f"\\midrule\n{lines}\n\\bottomrule\n\\end{{tabular}}"
    )


def _long(block: Block) -> str:
    heads, rows = spread_out(block)
    head = " & ".join(map(escape, heads)) + r" \\"
    lines = "\n".join(" & ".join(map(escape, row)) + r" \\" for row in rows)
    return (
        f"{{\\small\n\\begin{{longtable}}{{l{'r' * (len(heads) - 1)}}}\n\\multicolumn{{{len(heads)}}}{{l}}"
        f"{{\\textbf{{{escape(block.title)}}}}} "
        f"\\\\\n\\toprule\n{head}\n\\midrule\n\\endhead\n{lines}\n\\bottomrule\n"
        "\\end{longtable}}"
    )


def _listed(words: Sequence[str]) -> Iterator[str]:
    if words:
        items = "\n".join(rf"\item {escape(one)}" for one in words)
        yield f"\\begin{{itemize}}\n\\itemsep0pt\n{items}\n\\end{{itemize}}"
