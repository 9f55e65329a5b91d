"""A self-contained HTML page of wrong, repaired and broken pictures, with their heat maps drawn."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor
from torch.nn import functional as F

from foveate.data.loader import PictureSet
from foveate.data.transforms import eval_view
from foveate.explain.measure import Looks
from foveate.foreground.pictures import open_picture
from foveate.types import PerImage

# Drawing of heat maps: overlays on pictures, outlines of objects, and contact sheets.


Colour = tuple[int, int, int]
RIGHT, WRONG, NEITHER = (24, 128, 56), (190, 40, 40), (70, 70, 70)
_INK: Colour = (20, 20, 20)
_LINE: Colour = (0, 229, 255)  # a cold colour, because heat maps are warm


def overlay(picture: Image.Image, heat: Float[Tensor, "grid grid"], side: int) -> Image.Image:
    """Return the picture with the heat map in warm colours; other parts are darker.

    Args:
        picture: The square view that the method receives.
        heat: The heat map.
        side: Side length of the result, in pixels.
    """
    smooth = F.interpolate(heat[None, None].float(), size=(side, side), mode="bicubic", align_corners=False)[
        0, 0
    ]
    strength = (smooth / smooth.max().clamp_min(1e-12)).clamp(0, 1).cpu().numpy()[..., None] ** 0.8
    base = np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST), np.float32)
    warm = np.array((255, 196, 64), np.float32)
    lit = base * (0.5 + 0.5 * strength) + 0.45 * strength * (warm - base)
    return Image.fromarray(lit.clip(0, 255).astype(np.uint8))


def outlined(picture: Image.Image, mask: Float[Tensor, "height width"], width: int = 2) -> Image.Image:
    """Return the picture with a line along the inner edge of the mask, and a dark line outside of it.

    Args:
        picture: The view that the method receives.
        mask: 1 on the foreground of the same view, at any size.
        width: Width of the line, in pixels of the picture.
    """
    rgb = picture.convert("RGB")
    mask_picture = Image.fromarray((mask.cpu().numpy() > 0.5).astype(np.uint8) * 255)
    inside = mask_picture.resize(rgb.size, Image.Resampling.NEAREST)
    inner, outer = (
        np.asarray(inside.filter(kind(2 * reach + 1))) > 0
        for kind, reach in ((ImageFilter.MinFilter, width), (ImageFilter.MaxFilter, 1))
    )
    filled, pixels = np.asarray(inside) > 0, np.array(rgb)
    pixels[outer & ~filled] = _INK
    pixels[filled & ~inner] = _LINE
    return Image.fromarray(pixels)


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], captions: Sequence[Sequence[str]], heads: Sequence[str]
) -> Image.Image:
    """Arrange pictures of one size in a table, with a caption below each and a header above each column.

    Args:
        rows: Pictures, row by row.
        captions: One per picture; a leading "+" or "-" colours it as right or wrong and is not shown. A
            caption that is wider than its picture is cut.
        heads: One per column; cut in the same way.
    """
    side, gap, line = rows[0][0].width, 12, 22
    width = gap + len(heads) * (side + gap)
    sheet = Image.new("RGB", (width, gap + line + len(rows) * (side + line + gap)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    colours = {"+": RIGHT, "-": WRONG}
    for j, head in enumerate(heads):
        pen.text((gap + j * (side + gap), gap), _cut(head, side, font), fill=_INK, font=font)
    for i, (pictures, texts) in enumerate(zip(rows, captions, strict=True)):
        top = gap + line + i * (side + line + gap)
        for j, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
            left = gap + j * (side + gap)
            sheet.paste(picture, (left, top))
            fill = colours.get(text[:1], NEITHER)
            caption = _cut(text[1:] if text[:1] in colours else text, side, font)
            pen.text((left, top + side + 3), caption, fill=fill, font=font)
    return sheet


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Cut a line of text to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    short = text
    while short and font.getlength(short + "…") > width:
        short = short[:-1]
    return short.rstrip() + "…"


# Pictures that a method gets wrong, and those it repairs or breaks compared with the method below it.


@dataclass(frozen=True)
class CaseGroup:
    """Pictures of one kind, such as those that one method classifies correctly and another one does not.

    Attributes:
        title: Description of the group.
        indices: Indices of pictures to show, the clearest cases first.
        number: Number of pictures in the group.
    """

    title: str
    indices: list[int]
    number: int


def mistakes(looks: Looks, limit: int) -> CaseGroup:
    """Return the pictures that a method gets wrong, by decreasing probability of its wrong answer.

    Args:
        looks: Results of the method.
        limit: Largest number of pictures to show.
    """
    return _group(f"{looks.method} is wrong", ~looks.right, looks.of(looks.answers), limit)


def changed(chain: Sequence[Looks], limit: int) -> list[CaseGroup]:
    """Return repaired and broken pictures of each method, compared with the method before it.

    Args:
        chain: Results on the same pictures: zero-shot CLIP, a backbone, a plug-in over it.
        limit: Largest number of pictures to show per group; those whose true class gained or lost most
            probability come first.
    """
    groups: list[CaseGroup] = []
    for before, after in pairwise(chain):
        gain = after.of(after.labels) - before.of(before.labels)
        repaired, broken = ~before.right & after.right, before.right & ~after.right
        groups.append(_group(f"{before.method} wrong, {after.method} right", repaired, gain, limit))
        groups.append(_group(f"{before.method} right, {after.method} wrong", broken, -gain, limit))
    return groups


def _group(title: str, selected: Bool[Tensor, " batch"], clearness: PerImage, limit: int) -> CaseGroup:
    order = clearness.argsort(descending=True, stable=True)
    indices = [int(index) for index in order[selected[order]]]
    return CaseGroup(title, indices[:limit], len(indices))


@dataclass(frozen=True)
class Shown:
    """One picture for display.

    Attributes:
        name: Name of the picture.
        picture: The view that methods receive, at display size.
        mask: `[S, S]` foreground of the view; None without a mask.
    """

    name: str
    picture: Image.Image
    mask: Float[Tensor, "height width"] | None


def shown(pictures: PictureSet, index: int, side: int) -> Shown:
    """Return the view of a picture at display size.

    Args:
        pictures: Pictures without augmentation.
        index: Index of the picture.
        side: Side length of the result, in pixels.

    Raises:
        BadPicture: The picture is not readable any more.
    """
    sample = pictures.photos.samples[index]
    original = open_picture(sample.picture)
    picture, _ = eval_view(original.size, side).apply(original)
    mask = pictures.item(index).mask[0] if pictures.has_masks and sample.mask is not None else None
    return Shown(sample.name, picture, mask)


# The HTML page.


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
