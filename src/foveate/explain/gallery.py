"""A self-contained HTML page of wrong, repaired and broken pictures."""

import base64
import io
from collections.abc import Callable, Sequence
from html import escape

from PIL import Image

from foveate.explain.cases import CaseGroup, Shown
from foveate.explain.measure import Looks
from foveate.explain.pictures import outlined, overlay

SIDE = 168
_META = ('<meta charset="utf-8">', '<meta name="viewport" content="width=device-width">')
_STYLE = """
:root { color-scheme: light dark; --right: #188038; --wrong: #be2828; --soft: #8886; }
@media (prefers-color-scheme: dark) { :root { --right: #5bc27a; --wrong: #ff7b72; } }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--soft); text-align: right; }
th:first-child, td:first-child { text-align: left; }
article { border-top: 1px solid var(--soft); padding: .9rem 0; }
article h3 { font-size: 1rem; margin: 0 0 .5rem; } article h3 small { font-weight: normal; opacity: .7; }
.row { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; width: 168px; } img { display: block; width: 168px; height: 168px; }
footer { border-top: 1px solid var(--soft); padding-top: .9rem; opacity: .8; }
figcaption { font-size: .85rem; } .right { color: var(--right); } .wrong { color: var(--wrong); }
""".strip()


def gallery(
    title: str,
    facts: Sequence[str],
    table: Sequence[Sequence[str]],
    chain: Sequence[Looks],
    groups: Sequence[CaseGroup],
    show: Callable[[int], Shown],
    how: str = "",
) -> str:
    """Return the HTML page.

    Args:
        title: Title of the page.
        facts: Lines below the title: the result.
        table: Rows of cells; the first row is the header.
        chain: Results of several methods on the same pictures.
        groups: Results of `mistakes` and `changed` for the same chain.
        show: Returns a picture by its index.
        how: Last line: how it was measured.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(fact)}</p>" for fact in facts),
        _table(table),
        _contents(groups),
        *(_section(number, group, chain, show) for number, group in enumerate(groups)),
        f"<footer>{escape(how)}</footer>" if how else "",
    ]
    head = "\n".join((*_META, f"<title>{escape(title)}</title>"))
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n<style>\n{_STYLE}\n</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    header, *body_rows = rows
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body_rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _contents(groups: Sequence[CaseGroup]) -> str:
    links = (
        f'<li><a href="#group-{number}">{escape(group.title)}</a>: {group.number}</li>'
        for number, group in enumerate(groups)
    )
    return f"<nav><ul>{''.join(links)}</ul></nav>"


def _section(number: int, group: CaseGroup, chain: Sequence[Looks], show: Callable[[int], Shown]) -> str:
    note = "" if len(group.indices) == group.number else f", {len(group.indices)} shown"
    title = f'<h2 id="group-{number}">{escape(group.title)} ({group.number}{note})</h2>'
    cases = [_case(index, chain, show(index)) for index in group.indices]
    return "\n".join([f"<section>{title}", *(cases or ["<p>None.</p>"]), "</section>"])


def _case(index: int, chain: Sequence[Looks], shown: Shown) -> str:
    truth = chain[0].names[int(chain[0].labels[index])]
    picture = shown.picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    marked = picture if shown.mask is None else outlined(picture, shown.mask)
    description = "the picture" if shown.mask is None else "the picture, its object outlined"
    figures = [_figure(marked, f"{truth}: {description}", escape(description))]
    for looks in chain:
        highlighted = overlay(picture, looks.heat[index], SIDE)
        figures.append(_figure(highlighted, f"what {looks.method} looked at", _caption(looks, index)))
    heading = f"<h3>{escape(truth)} <small>{escape(shown.name)}</small></h3>"
    return f'<article>{heading}\n<div class="row">\n' + "\n".join(figures) + "\n</div></article>"


def _caption(looks: Looks, index: int) -> str:
    """Return a method's prediction and, if it is wrong, the probability of the true class."""
    answer, label, explained = (
        int(values[index]) for values in (looks.answers, looks.labels, looks.explained)
    )
    p, right = looks.probabilities[index], answer == label
    verdict = "right" if right else "wrong"
    prediction = f'<b class="{verdict}">{escape(looks.names[answer])}</b> {p[answer]:.2f}'
    lines = [f"{escape(looks.method)}:", prediction]
    if not right:
        lines.append(f"<br>{escape(looks.names[label])} {p[label]:.2f}")
    if explained != answer:
        lines.append(f"<br>asked about {escape(looks.names[explained])}")
    energy = looks.figures.get("energy")
    if energy is not None and not energy[index].isnan():
        lines.append(f"<br>{100 * float(energy[index]):.0f} % on the object")
    return " ".join(lines)


def _figure(picture: Image.Image, alt: str, caption: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alt, quote=True)}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
