"""Drawing of heat maps: overlays on pictures, outlines of objects, and contact sheets."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor
from torch.nn import functional as F

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
