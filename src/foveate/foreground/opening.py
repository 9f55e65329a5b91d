"""Opening picture files safely, for pictures and masks alike.

Pillow's own `Image.open` warns about large pictures through the process-wide warning filters, which threads
cannot change without disturbing each other. Here the plugins are asked directly and our own limit is applied
to the size in the header, before a pixel is decoded.
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from foveate.errors import InputError

PIXEL_LIMIT = 178_956_970  # where Pillow, too, turns its warning into an error
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")
PICTURE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".avif",
    )
)
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class LazyPicture(ABC):
    """A picture (or a mask) that is no file: a row of a dataset, a picture in memory, a drawn scene."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages and digests call it; the same on every machine."""

    @abstractmethod
    def load(self) -> Image.Image:
        """Return the picture; called from several threads at once."""


class BadPicture(InputError):
    """A picture that cannot be used.

    Attributes:
        name: The file, or the lazy picture's name.
        reason: What is wrong with it, without the name.
    """

    def __init__(
        self, name: str, reason: str, remedy: str = "replace or remove it, or pass --on-bad skip"
    ) -> None:
        super().__init__(f"{name}: {reason}; {remedy}")
        self.name = name
        self.reason = reason


def source_name(source: Path | LazyPicture | Image.Image) -> str:
    """What to call a picture in a message."""
    if isinstance(source, Path):
        return str(source)
    return source.name if isinstance(source, LazyPicture) else "picture in memory"


class _QuietJpeg(JpegImageFile):
    """A JPEG whose EXIF block Pillow leaves alone: looking for dots per inch, it warns of unrelated tags."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


@contextmanager
def opened(source: Path | LazyPicture | Image.Image) -> Generator[Image.Image]:
    """Yield the picture with its header read and its size within the limit; pixels are read on demand.

    Raises:
        BadPicture: No such file, no permission, not a picture, too many pixels; or, from inside the `with`
            block, whatever Pillow raises while decoding.
    """
    name = source_name(source)
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                yield _within_limit(_identify(file, source), name)
        else:
            yield _within_limit(source.load() if isinstance(source, LazyPicture) else source, name)
    except InputError:
        raise
    except OSError as error:
        raise BadPicture(name, _explain(error)) from error
    except (
        Exception
    ) as error:  # Pillow's plugins raise anything from SyntaxError to struct.error on broken files
        raise BadPicture(name, f"cannot be decoded ({error})".replace("\n", " ")) from error


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or it cannot be read.

    Read from the raw block rather than by Pillow's parser, which warns about every other broken tag. A TIFF
    is turned upright by Pillow's plugin already, so it counts as 1.
    """
    block = image.info.get("exif")
    if not isinstance(block, bytes) or getattr(image, "format", None) == "TIFF":
        return 1
    block = block.removeprefix(b"Exif\x00\x00")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    try:
        return _first_directory(block, order).get(_ORIENTATION_TAG, 1) if order else 1
    except struct.error:
        return 1


def turn(image: Image.Image, exif_orientation: int) -> Image.Image:
    """Turn a picture stored with this EXIF orientation upright."""
    move = _TURNS.get(exif_orientation)
    return image if move is None else image.transpose(move)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) as the picture is looked at."""
    width, height = image.size
    return (height, width) if orientation(image) >= 5 else (width, height)


def _first_directory(block: bytes, order: str) -> dict[int, int]:
    (start,) = struct.unpack_from(order + "I", block, 4)
    (entries,) = struct.unpack_from(order + "H", block, start)
    found: dict[int, int] = {}
    for entry in range(entries):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", block, start + 2 + 12 * entry)
        if kind == 3 and 1 <= value <= 8:  # a SHORT
            found.setdefault(tag, value)
    return found


def _identify(file: BinaryIO, path: Path) -> ImageFile.ImageFile:
    start = file.read(16)
    if not start:
        raise BadPicture(str(path), "is empty (0 bytes)")
    Image.init()
    for name in FORMATS:
        if name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[name]
        answer = accept(start) if accept is not None else False
        if answer and not isinstance(answer, str):  # a string says why the format is not supported here
            file.seek(0)
            return (_QuietJpeg if name == "JPEG" else factory)(file, str(path))
    raise BadPicture(str(path), f"is not a picture in a format we read ({', '.join(FORMATS)})")


def _within_limit(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > PIXEL_LIMIT:
        reason = f"is {width}x{height}, more than the {PIXEL_LIMIT / 1e6:.0f} million pixels we decode"
        raise BadPicture(name, reason, "make it smaller or remove it, or pass --on-bad skip")
    return image


def _explain(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, PermissionError):
        return "may not be read (no permission)"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a picture"
    if "truncated" in str(error).lower():
        return "is cut off before its end (truncated)"
    return f"cannot be decoded ({error})".replace("\n", " ")
