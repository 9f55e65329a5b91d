"""Decodes any picture file to upright RGB, or raises a one-line error."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from foveate.foreground.opening import (
    BadPicture,
    LazyPicture,
    opened,
    orientation,
    source_name,
    turn,
    upright_size,
)

SMALLEST_SIDE = 2
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def open_picture(source: Path | LazyPicture | Image.Image) -> Image.Image:
    """Decode a picture to RGB, upright by its EXIF orientation, with transparent parts over white.

    A plain RGB file gives exactly the pixels of `Image.open(path).convert("RGB")`. If there are several
    frames or pages, the first is used.

    Raises:
        BadPicture: The file is missing, unreadable, truncated, not a picture, too large or too small.
    """
    return open_with_orientation(source)[0]


def open_with_orientation(source: Path | LazyPicture | Image.Image) -> tuple[Image.Image, int]:
    """Return the result of `open_picture`, and the EXIF orientation (1 to 8) of the stored picture."""
    with opened(source) as image:
        _demand_size(image, source_name(source))
        image.load()
        exif_orientation = orientation(image)
        picture = turn(_to_rgb(image), exif_orientation)
    picture.info = {}  # the orientation is applied; it must not be applied twice
    return picture, exif_orientation


def measure(source: Path | LazyPicture | Image.Image) -> tuple[tuple[int, int], int]:
    """Read the upright (width, height) and the stored EXIF orientation from the header only.

    Raises:
        BadPicture: As in `open_picture`, as far as the header shows the fault.
    """
    with opened(source) as image:
        _demand_size(image, source_name(source))
        return upright_size(image), orientation(image)


def png_bytes(picture: Image.Image) -> bytes:
    """Return the content of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _demand_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if min(width, height) < SMALLEST_SIDE:
        raise BadPicture(name, f"is {width}x{height}, too small to be a picture")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP:
        return _deep_to_grey(np.asarray(image), image.mode).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        straight_mode = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        straight = image.convert(straight_mode) if straight_mode else image
        layer = straight.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    if image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A"):
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _deep_to_grey(values: np.ndarray, mode: str) -> Image.Image:
    """Scale more than 8 bits to 8, because Pillow would clip everything above 255 to white.

    16-bit modes define their range. 32-bit integers and floats do not: the first of the ranges [0, 1]
    (floats only), [0, 255] and [0, 65535] that contains all values is used; otherwise the values are
    stretched from minimum to maximum.
    """
    numbers = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(numbers.min()), float(numbers.max())
    if mode.startswith("I;16"):
        scaled = numbers / 257
    elif low < 0 or high > 65535:
        scaled = (numbers - low) * (255 / (high - low)) if high > low else np.zeros_like(numbers)
    elif mode == "F" and high <= 1:
        scaled = numbers * 255
    else:
        scaled = numbers if high <= 255 else numbers / 257
    return Image.fromarray(np.rint(scaled).astype(np.uint8))
