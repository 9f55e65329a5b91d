"""Pictures that programs read differently: turned, in other colours, deeper, with a palette, animated.

They are drawn here, from a seed, so that every export is tried on them.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112


def draw_awkward(folder: Path, seed: int = 0) -> list[Path]:
    """Draw such files into a folder; return them.

    Args:
        folder: It is there, and empty.
        seed: Of the drawings.
    """
    rng = np.random.default_rng(seed)
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION] = turn
        _drawing(rng, 97, 61).save(folder / f"turned-{turn}.jpg", exif=exif, quality=90)
    for name, made in _KINDS.items():
        made(_drawing(rng, 83, 120), folder / name)
    return sorted(folder.iterdir())


def _drawing(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Return smooth colours with a bright corner: what is turned or mirrored looks otherwise."""
    coarse = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    drawn = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    drawn.paste((255, 240, 20), (2, 3, width // 3, height // 4))
    return drawn


def _alpha(drawn: Image.Image, mode: str) -> Image.Image:
    ramp = Image.fromarray(np.linspace(0, 255, drawn.width, dtype=np.uint8)[None].repeat(drawn.height, 0))
    made = drawn.convert(mode.removesuffix("A") if mode == "LA" else "RGB")
    made.putalpha(ramp)
    return made


def _deep(drawn: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(drawn.convert("L")).astype(np.uint16) * 257)


def _moving(drawn: Image.Image, path: Path) -> None:
    frames = [drawn.rotate(90 * turn, expand=False) for turn in range(1, 3)]
    drawn.save(path, save_all=True, append_images=frames, duration=80)


def _see_through(drawn: Image.Image, path: Path) -> None:
    drawn.quantize(16).save(path, transparency=3)


_KINDS: dict[str, Callable[[Image.Image, Path], None]] = {
    "cmyk.jpg": lambda drawn, path: drawn.convert("CMYK").save(path, quality=90),
    "grey.jpg": lambda drawn, path: drawn.convert("L").save(path, quality=90),
    "grey-16-bit.png": lambda drawn, path: _deep(drawn).save(path),
    "palette.png": lambda drawn, path: drawn.quantize(16).save(path),
    "palette-see-through.png": _see_through,
    "alpha.png": lambda drawn, path: _alpha(drawn, "RGBA").save(path),
    "grey-alpha.png": lambda drawn, path: _alpha(drawn, "LA").save(path),
    "two-colours.png": lambda drawn, path: drawn.convert("1").save(path),
    "moving.gif": _moving,
    "moving.png": _moving,
    "plain.bmp": lambda drawn, path: drawn.save(path),
    "packed.tif": lambda drawn, path: drawn.save(path, compression="tiff_lzw"),
    "long.png": lambda drawn, path: drawn.resize((9, 700)).save(path),
    "small.png": lambda drawn, path: drawn.resize((3, 2)).save(path),
}
