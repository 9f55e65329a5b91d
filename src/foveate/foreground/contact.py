"""Contact sheets: the pictures of a set with mask outlines, worst first, as a HTML page or a PNG."""

import base64
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from foveate.errors import InputError
from foveate.foreground.pictures import open_picture
from foveate.foreground.proposers.base import Mask
from foveate.foreground.quality import Quality, quality, score_and_area, spans, worst_first
from foveate.foreground.records import MaskRecord, StoredMask
from foveate.foreground.store import stored_masks

_LINE, _INK = (0, 229, 255), (20, 20, 20)
_DIM = 0.55  # blend factor of the background towards grey
_GREY = 96.0
_CAPTION = 34  # pixels below each picture of the grid

Choice = Literal["worst", "spread"]


def contact_sheet_html(
    records: Sequence[MaskRecord],
    folder: Path,
    photos: Path,
    *,
    statistics: Quality | None = None,
    most: int = 600,
    side: int = 192,
) -> str:
    """Return a self-contained HTML page with masks on their pictures and the statistics of the set.

    Args:
        records: Records of the masks.
        folder: Folder of the masks, as a tree or packed.
        photos: Root folder of the pictures.
        statistics: Result of `quality`; computed if None.
        most: Maximum number of pictures: the worst ones. Each takes about 10 kB.
        side: Longer side of a thumbnail, in pixels.

    Raises:
        InputError: There are no records, or their masks do not exist.
    """
    statistics = statistics or quality(records, folder)
    shown = worst_first(records)[:most]
    masks = stored_masks(folder) or {}
    tiles = "\n".join(_tile(record, _thumbnail(record, masks, photos, side)) for record in shown)
    counts = Counter(record.label for record in shown)
    options = "".join(
        f'<option value="{escape(label)}">{escape(label) or "no class"} ({count})</option>'
        for label, count in sorted(counts.items())
    )
    rows = "".join(f"<tr><th>{escape(title)}<td>{escape(value)}" for title, value in _numbers(statistics))
    page = _PAGE.format(
        title=escape(f"Masks: {folder.name}"),
        style=_STYLE,
        script=_SCRIPT,
        rows=rows,
        bars=histogram_svg(statistics.areas),
        extent=f"{len(shown)} of {len(records)}, worst first",
        options=options,
        all=len(shown),
        tiles=tiles,
    )
    return _printable(page)


def contact_sheet_png(
    records: Sequence[MaskRecord],
    folder: Path,
    photos: Path,
    *,
    number: int = 48,
    columns: int = 8,
    side: int = 160,
    choose: Choice = "worst",
) -> Image.Image:
    """Return a grid of pictures with masks and captions.

    Args:
        records: Records of the masks.
        folder: Folder of the masks, as a tree or packed.
        photos: Root folder of the pictures.
        number: Maximum number of pictures.
        columns: Number of pictures in a row.
        side: Longer side of a thumbnail, in pixels.
        choose: "worst", or "spread": equal steps from the worst to the best.

    Raises:
        InputError: There are no records, or their masks do not exist.
    """
    if not records:
        raise InputError(f"{folder}: there are no masks to show")
    masks = stored_masks(folder) or {}
    ranked, number = worst_first(records), min(number, len(records))
    indices = (
        np.linspace(0, len(ranked) - 1, number).round().astype(int) if choose == "spread" else range(number)
    )
    columns, gap = min(columns, number), 8
    size = gap + columns * (side + gap), gap + -(-number // columns) * (side + _CAPTION + gap)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for cell, index in enumerate(indices):
        record = ranked[index]
        left, top = gap + cell % columns * (side + gap), gap + cell // columns * (side + _CAPTION + gap)
        picture = _thumbnail(record, masks, photos, side)
        sheet.paste(picture, (left + (side - picture.width) // 2, top + side - picture.height))
        summary = "nothing found" if record.fallback else score_and_area(record)
        for row, text in enumerate((_printable(record.label or record.name), summary)):
            fill = (170, 40, 20) if record.fallback else _INK
            pen.text((left, top + side + 3 + 15 * row), _fitting(text, side, font), fill=fill, font=font)
    return sheet


def with_outline(picture: Image.Image, mask: Mask, width: int = 2) -> Image.Image:
    """Return the picture with a dimmed background and a line along the foreground's inner edge.

    Args:
        picture: Of mode "RGB".
        mask: Mask of the same size.
        width: Width of the line, in pixels.
    """
    mask_image = Image.fromarray(mask.astype(np.uint8) * 255)
    padded = Image.new("L", (mask_image.width + 2 * width, mask_image.height + 2 * width))
    padded.paste(mask_image, (width, width))  # pad with background, so that a full mask has a frame
    inner = np.asarray(padded.filter(ImageFilter.MinFilter(2 * width + 1)))[width:-width, width:-width] > 0
    outer = np.asarray(mask_image.filter(ImageFilter.MaxFilter(3))) > 0
    pixels = np.asarray(picture, np.float32)
    grey = pixels.mean(2, keepdims=True) * 0.4 + _GREY * 0.6
    pixels = np.where(mask[..., None], pixels, pixels + _DIM * (grey - pixels))
    pixels[outer & ~mask] = _INK
    pixels[mask & ~inner] = _LINE
    return Image.fromarray(pixels.round().astype(np.uint8))


def histogram_svg(counts: Sequence[int]) -> str:
    """Return a bar chart of the number of masks by area, with the numbers above the bars."""
    width, height, step, highest = 360, 120, 34, max(max(counts), 1)
    parts: list[str] = []
    for index, (span, count) in enumerate(zip(spans(), counts, strict=True)):
        bar_height, left = 80 * count / highest, 10 + index * step
        parts += [
            f'<rect x="{left}" y="{100 - bar_height:.1f}" width="{step - 4}" height="{bar_height:.1f}">',
            f"<title>{span}: {count}</title></rect>",
            f'<text x="{left + 15}" y="{96 - bar_height:.1f}">{count}</text>',
            f'<text x="{left - 2}" y="114">{index / 10:.1f}</text>',
        ]
    parts.append(f'<text x="{10 + 10 * step - 2}" y="114">1.0</text>')
    label = "How many masks have which area"
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _numbers(statistics: Quality) -> Iterator[tuple[str, str]]:
    for title, value in statistics.rows(worst=0):
        if not title.startswith("area "):
            yield title, value


def _thumbnail(record: MaskRecord, masks: Mapping[str, StoredMask], photos: Path, side: int) -> Image.Image:
    """Return a record's picture with its mask; a grey one with text if the picture does not exist."""
    if record.name not in masks:
        raise InputError(f"the mask of {record.name} is not there; make the masks again")
    scale = side / max(record.width, record.height)
    size = max(1, round(record.width * scale)), max(1, round(record.height * scale))
    mask = masks[record.name].load().convert("L").resize(size, Image.Resampling.BOX)
    try:
        picture = open_picture(photos / record.name).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    except InputError:
        picture = Image.new("RGB", size, (150, 150, 150))
        ImageDraw.Draw(picture).text((4, 4), "no picture", fill=_INK)
    return with_outline(picture, np.asarray(mask) >= 128)


def _tile(record: MaskRecord, picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    name, label, prompt = escape(record.name), escape(record.label), escape(record.prompt)
    warning = "<b>nothing found</b> " if record.fallback else ""
    prompt_span = f"<span>“{prompt}”</span>" if prompt and prompt != label else ""
    return (
        f'<figure data-label="{label}"><img loading="lazy" width="{picture.width}" height="{picture.height}"'
        f' alt="{name}" src="data:image/jpeg;base64,{data}">'
        f'<figcaption title="{name}">{warning}{score_and_area(record)}{", refined" if record.refined else ""}'
        f"<span>{label}</span>{prompt_span}<small>{name}</small></figcaption></figure>"
    )


def _printable(text: str) -> str:
    """Replace characters that are not Unicode (from file names in another encoding)."""
    return text.encode(errors="replace").decode()


def _fitting(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Truncate a line to this width in pixels."""
    length = len(text)
    while length and font.getlength(text[:length] + "…" * (length < len(text))) > width:
        length -= 1
    return text[:length] + "…" * (length < len(text))


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style>
<header><h1>{title}</h1>
<div class="set"><table>{rows}</table><figure class="bars">{bars}<figcaption>area</figcaption></figure></div>
<p>{extent}. Inside the line is the foreground. <label>Class <select id="label">
<option value="" data-all>all ({all})</option>{options}</select></label></p></header>
<main>
{tiles}
</main><script>{script}</script></html>
"""
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #666; --paper: #fafafa;
  --tile: #fff; --bar: #2a7ab0 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --soft: #a0a0a0; --paper: #16181b; --tile: #212429; --bar: #6ab7e8 } }
body { font: 14px/1.4 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 1.5rem }
h1 { font-size: 1.3rem } th { text-align: left; font-weight: normal; color: var(--soft); padding-right: 1rem }
.set { display: flex; flex-wrap: wrap; gap: 2rem; align-items: center }
.bars { margin: 0; width: 22rem; text-align: center; color: var(--soft) }
svg rect { fill: var(--bar) } svg text { fill: var(--ink); font-size: 9px; text-anchor: middle }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 12px }
main figure { margin: 0; padding: 6px; background: var(--tile); border-radius: 6px }
main figure[hidden] { display: none }
img { display: block; margin: auto; max-width: 100%; height: auto }
figcaption span, small { display: block; overflow-wrap: anywhere } small { color: var(--soft) }
figcaption b { color: #d0451b }
"""
_SCRIPT = """
const choice = document.getElementById("label");
choice.onchange = () => {
  const all = "all" in choice.selectedOptions[0].dataset;
  for (const tile of document.querySelectorAll("main figure"))
    tile.hidden = !all && tile.dataset.label !== choice.value;
};
"""
