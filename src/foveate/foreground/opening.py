"""Opens picture files safely, for pictures and masks.

`Image.open` of Pillow warns about large pictures through global warning filters, which threads cannot
change independently. So this module calls the plugins directly and applies its own limit to the size in
the header, before pixels are decoded.
"""

import io
import re
import stat
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, cast

from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from foveate.errors import SKIP, InputError

PIXEL_LIMIT = 178_956_970  # where Pillow, too, turns its warning into an error
HEIF = find_spec("pillow_heif") is not None
"""Whether `.heic` files (photos of telephones) can be read: needs the extra `heic`."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", *(("HEIF",) if HEIF else ()))
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
        *((".heic", ".heif", ".hif") if HEIF else ()),
    )
)
_STARTS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"8BPS"),
    *(b"\0\0\0\x0cjP  ", b"\xff\x0a", b"\0\0\0\x0cJXL "),
)
_BOXES = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")
_XMP, _XMP_LIMIT = b"XML:com.adobe.xmp\0", 1 << 20
_EXIF, _ORDERS = b"Exif\x00\x00", {b"II": "<", b"MM": ">"}
_ORIENTATION_TAG, _CAMERA_DIRECTORY = 0x0112, 0x8769
_SHORT, _TEXT, _LONG = 3, 2, 4  # types of EXIF's values
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
    """A picture (or a mask) that is not a file: a row of a dataset, a picture in memory, a drawn scene."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in messages and digests; the same on every machine."""

    @abstractmethod
    def load(self) -> Image.Image:
        """Return the picture; several threads may call this at once."""


class BadPicture(InputError):
    """A picture that cannot be used.

    Attributes:
        name: Path of the file, or name of the lazy picture.
        reason: The fault, without the name.
    """

    def __init__(self, name: str, reason: str, remedy: str = f"replace or remove it{SKIP}") -> None:
        super().__init__(f"{name}: {reason}; {remedy}")
        self.name = name
        self.reason = reason


@contextmanager
def plain_errors() -> Generator[None]:
    """Turn a `BadPicture` raised in this block into a plain `InputError`.

    Users of the Python interface then need to know only one exception class. The `BadPicture` is its cause.
    """
    try:
        yield
    except BadPicture as error:
        raise InputError(str(error)) from error


class FilePicture(LazyPicture):
    """A picture file in memory.

    Args:
        content: Bytes of the whole file.
        name: Name in messages.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self._content, self._name = content, name

    @property
    def name(self) -> str:
        return self._name

    def load(self) -> Image.Image:
        return _identify(io.BytesIO(self._content), self._name)


def source_name(source: Path | LazyPicture | Image.Image) -> str:
    """Return the name of a picture in messages."""
    if isinstance(source, Path):
        return str(source)
    return source.name if isinstance(source, LazyPicture) else "picture in memory"


class _QuietJpeg(JpegImageFile):
    """A JPEG whose EXIF block Pillow does not read: it would warn about tags that do not matter here."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


@contextmanager
def opened(source: Path | LazyPicture | Image.Image) -> Generator[Image.Image]:
    """Yield the picture with its header read and its size within the limit; pixels are read on demand.

    Raises:
        BadPicture: The file does not exist, is not permitted, is not a picture, or has too many pixels.
            Also, from inside the `with` block, for any error of Pillow during decoding.
    """
    name = source_name(source)
    try:
        if isinstance(source, Path):
            mode = source.stat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe would block
                raise BadPicture(name, "is a pipe or a device, no file")
            with source.open("rb") as file:
                yield _within_limit(_identify(file, name), name)
        else:
            yield _within_limit(source.load() if isinstance(source, LazyPicture) else source, name)
    except InputError:
        raise
    except OSError as error:
        raise BadPicture(name, _explain(error)) from error
    except (
        Exception
    ) as error:  # on broken files, Pillow's plugins raise anything from SyntaxError to struct.error
        raise BadPicture(name, f"cannot be decoded ({error})".replace("\n", " ")) from error


def decode(content: bytes, name: str) -> Image.Image:
    """Decode a picture from the bytes of its file.

    Args:
        content: Bytes of the whole file.
        name: Name in messages.

    Raises:
        BadPicture: As in `opened`.
    """
    with opened(FilePicture(content, name)) as image:
        image.load()
        return image


def orientation(image: Image.Image) -> int:
    """Return the orientation from EXIF, otherwise XMP: 1 to 8; 1 if both are missing or unreadable.

    It is parsed from the raw block, because Pillow's parser warns about other broken tags. Pillow's
    plugin already rotates a TIFF upright, so a TIFF has orientation 1.
    """
    if getattr(image, "format", None) == "TIFF":
        return 1
    block, byte_order = _exif(image)
    value, xmp = None, image.info.get("xmp")
    with suppress(struct.error):
        value = _first_directory(block, byte_order).get(_ORIENTATION_TAG)
    if value is None and isinstance(xmp, bytes):
        match = re.search(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])", xmp)
        value = int(match[1]) if match else None
    return value or 1


def exif_texts(image: Image.Image) -> dict[int, str]:
    """Return the texts in EXIF by tag, from the first directory and the camera's; broken ones are left out.

    It is parsed from the raw block, as for `orientation`. Of a TIFF only the first directory is read.
    """
    if getattr(image, "format", None) == "TIFF":
        return {tag: text.strip("\0 ") for tag, text in image.getexif().items() if isinstance(text, str)}
    block, byte_order = _exif(image)
    texts, pointers = dict[int, str](), [4]  # the first directory holds the pointer to the camera's
    with suppress(struct.error):
        for pointer in pointers:
            (start,) = struct.unpack_from(f"{byte_order}I", block, pointer)
            for tag, value_type, count, offset in _entries(block, byte_order, start):
                if value_type == _TEXT:
                    begin = offset if count <= 4 else struct.unpack_from(f"{byte_order}I", block, offset)[0]
                    text = block[begin : begin + count].partition(b"\0")[0].decode("utf-8", "replace")
                    texts.setdefault(tag, text.strip())
                elif tag == _CAMERA_DIRECTORY and value_type == _LONG and len(pointers) == 1:
                    pointers.append(offset)
    return texts


def turn(image: Image.Image, exif_orientation: int) -> Image.Image:
    """Rotate a picture with this EXIF orientation upright."""
    transposition = _TURNS.get(exif_orientation)
    return image if transposition is None else image.transpose(transposition)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) of the upright picture."""
    width, height = image.size
    return (height, width) if orientation(image) >= 5 else (width, height)


def _exif(image: Image.Image) -> tuple[bytes, str]:
    """Return the EXIF block and its byte order for `struct`; both are empty if there is none."""
    block = image.info.get("exif")
    block = block.removeprefix(_EXIF) if isinstance(block, bytes) else b""
    byte_order = _ORDERS.get(block[:2], "")
    return (block, byte_order) if byte_order else (b"", "")


def _first_directory(block: bytes, byte_order: str) -> dict[int, int]:
    (start,) = struct.unpack_from(byte_order + "I", block, 4)
    values: dict[int, int] = {}
    for tag, value_type, _, offset in _entries(block, byte_order, start):
        (value,) = struct.unpack_from(byte_order + "H", block, offset)
        if value_type == _SHORT and 1 <= value <= 8:
            values.setdefault(tag, value)
    return values


def _entries(block: bytes, byte_order: str, start: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield tag, type and number of values of each entry of a directory, and the offset of its four bytes."""
    (entry_count,) = struct.unpack_from(byte_order + "H", block, start)
    for index in range(entry_count):
        offset = start + 2 + 12 * index
        tag, value_type, count = struct.unpack_from(byte_order + "HHI", block, offset)
        yield tag, value_type, count, offset + 8


def _identify(file: BinaryIO | io.BufferedIOBase, name: str) -> ImageFile.ImageFile:
    header = file.read(16)
    if not header:
        raise BadPicture(name, "is empty (0 bytes)")
    Image.init()
    if HEIF and header[4:12] in _BOXES and "HEIF" not in Image.OPEN:
        import pillow_heif

        pillow_heif.register_heif_opener()  # it rotates pictures upright and resets the EXIF orientation
    for format_name in FORMATS:
        if format_name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[format_name]
        accepted = accept(header) if accept is not None else False
        if accepted and not isinstance(accepted, str):  # a string is the reason why the format is unsupported
            file.seek(0)
            if format_name == "PNG":
                return _open_png(file, name)
            return (_QuietJpeg if format_name == "JPEG" else factory)(cast("BinaryIO", file), name)
    raise BadPicture(name, f"is not a picture in a format we read ({', '.join(FORMATS)})")


def _open_png(file: BinaryIO | io.BufferedIOBase, name: str) -> ImageFile.ImageFile:
    """Open a PNG without its texts and colour profile, but with the orientation from them.

    They do not affect pixels, but Pillow refuses a picture if they are large. Also, Pillow does not read
    chunks after the pixels until it has decoded them.
    """
    info: dict[str, bytes] = {}
    kept_ranges, removed = [(0, 8)], False
    for kind, start, length in _chunks(file):
        if kind not in (b"eXIf", b"iTXt", b"tEXt", b"zTXt", b"iCCP"):
            kept_ranges.append((start, length + 12))
            continue
        removed = True
        file.seek(start + 8)
        data = file.read(length if kind in (b"eXIf", b"iTXt") else 0)
        if kind == b"eXIf":
            info.setdefault("exif", data)
        elif data.startswith(_XMP):
            info.setdefault("xmp", _text(data))
    if removed:
        pieces: list[bytes] = []
        for start, length in kept_ranges:
            file.seek(start)
            pieces.append(file.read(length))
        file = io.BytesIO(b"".join(pieces))
    file.seek(0)
    image = PngImageFile(cast("BinaryIO", file), name)
    image.info.update(info)
    return image


def _chunks(file: BinaryIO | io.BufferedIOBase) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and length of the complete chunks of a PNG."""
    size, start = file.seek(0, io.SEEK_END), 8
    while start + 12 <= size:
        file.seek(start)
        header = file.read(8)
        length = int.from_bytes(header[:4], "big")
        yield header[4:], start, length
        start += length + 12


def _text(data: bytes) -> bytes:
    """Return the text of an iTXt chunk; nothing if its compression is invalid."""
    rest = data.partition(b"\0")[2]  # skip compression flag, method, language, translated keyword
    text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    try:
        return zlib.decompressobj().decompress(text, _XMP_LIMIT) if rest[:1] == b"\1" else text
    except zlib.error:
        return b""


def looks_like_picture(path: Path) -> bool:
    """Return whether the first bytes of a file are those of a picture, whatever its name is."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            header = file.read(16)
    except OSError:
        return False
    return header.startswith(_STARTS) or header[4:12] in _BOXES


def _within_limit(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if not width * height:
        raise BadPicture(name, f"is {width}x{height}, without a pixel")
    if width * height > PIXEL_LIMIT:
        reason = f"is {width}x{height}, more than the {PIXEL_LIMIT / 1e6:.0f} million pixels we decode"
        raise BadPicture(name, reason, f"make it smaller or remove it{SKIP}")
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
