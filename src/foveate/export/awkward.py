"""Pictures that programs read differently: rotated by EXIF, CMYK, 16 bits, with a palette, animated.

They are drawn from a seed, and each export is verified on them.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112


def draw_awkward(folder: Path, seed: int = 0) -> list[Path]:
    """Draw such files into a folder; return their paths.

    Args:
        folder: An existing, empty folder.
        seed: Seed of the drawings.
    """
    rng = np.random.default_rng(seed)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        _drawing(rng, 97, 61).save(folder / f"turned-{orientation}.jpg", exif=exif, quality=90)
    for name, save in _KINDS.items():
        save(_drawing(rng, 83, 120), folder / name)
    return sorted(folder.iterdir())


def _drawing(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Return smooth colours with a bright corner, so that a rotated or mirrored picture differs."""
    coarse = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    drawing = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    drawing.paste((255, 240, 20), (2, 3, width // 3, height // 4))
    return drawing


def _alpha(drawing: Image.Image, mode: str) -> Image.Image:
    ramp = Image.fromarray(np.linspace(0, 255, drawing.width, dtype=np.uint8)[None].repeat(drawing.height, 0))
    image = drawing.convert(mode.removesuffix("A") if mode == "LA" else "RGB")
    image.putalpha(ramp)
    return image


def _deep(drawing: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(drawing.convert("L")).astype(np.uint16) * 257)


def _save_animated(drawing: Image.Image, path: Path) -> None:
    frames = [drawing.rotate(90 * turn, expand=False) for turn in range(1, 3)]
    drawing.save(path, save_all=True, append_images=frames, duration=80)


def _save_transparent(drawing: Image.Image, path: Path) -> None:
    drawing.quantize(16).save(path, transparency=3)


_KINDS: dict[str, Callable[[Image.Image, Path], None]] = {
    "cmyk.jpg": lambda drawn, path: drawn.convert("CMYK").save(path, quality=90),
    "grey.jpg": lambda drawn, path: drawn.convert("L").save(path, quality=90),
    "grey-16-bit.png": lambda drawn, path: _deep(drawn).save(path),
    "palette.png": lambda drawn, path: drawn.quantize(16).save(path),
    "palette-see-through.png": _save_transparent,
    "alpha.png": lambda drawn, path: _alpha(drawn, "RGBA").save(path),
    "grey-alpha.png": lambda drawn, path: _alpha(drawn, "LA").save(path),
    "two-colours.png": lambda drawn, path: drawn.convert("1").save(path),
    "moving.gif": _save_animated,
    "moving.png": _save_animated,
    "plain.bmp": lambda drawn, path: drawn.save(path),
    "packed.tif": lambda drawn, path: drawn.save(path, compression="tiff_lzw"),
    "long.png": lambda drawn, path: drawn.resize((9, 700)).save(path),
    "small.png": lambda drawn, path: drawn.resize((3, 2)).save(path),
}
