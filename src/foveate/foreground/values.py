"""Decodes the values of mask files of every kind.

The meaning is detected once for a whole set of masks, not for each file: a single index mask without
void and a single binary mask can look the same.
"""

import io
import math
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from foveate.foreground.opening import PIXEL_LIMIT, BadPicture, LazyPicture, opened, orientation, turn
from foveate.foreground.options import MaskValues
from foveate.readers import one_line

MaskSource = Path | LazyPicture | Image.Image
Values = UInt8[np.ndarray, "height width"]
Histogram = Int64[np.ndarray, "256"]

MASK_ARRAYS = (".npy", ".npz")
_LOSSY = ("JPEG", "MPO", "WEBP")
_GRADED = 40  # an index map rarely has this many labels in one picture, a graded mask nearly always has


@dataclass(frozen=True)
class RawMask:
    """Values of a mask file, before they are interpreted.

    Attributes:
        values: One byte for each pixel.
        decided: Whether the file format defines the foreground (1-bit picture, boolean array); values
            are 0 and 255.
        lossy: Whether compression may have changed the values.
    """

    values: Values
    decided: bool
    lossy: bool


def read_mask(source: MaskSource, values: MaskValues = "auto", *, invert: bool = False) -> Image.Image:
    """Decode a mask to a picture of mode "L": 255 on the foreground, 0 elsewhere.

    Args:
        source: A picture file, a `.npy` or `.npz` file, a lazy mask, or a picture in memory.
        values: Meaning of the values; "auto" detects it from this file.
        invert: Whether the file marks the background. Void always becomes background.

    Raises:
        BadPicture: The file cannot be read, or its array is not a mask.
    """
    raw = read_raw(source)
    if values == "auto":
        values = _decide([raw])
    pixels = raw.values
    threshold = 128 if raw.decided or values in ("binary255", "soft") else 1
    foreground = pixels >= threshold
    if invert:
        foreground = ~foreground
    if values == "index_void255" and not raw.decided:
        foreground &= pixels < 255
    return Image.fromarray(np.where(foreground, 255, 0).astype(np.uint8))


def detect_values(masks: Sequence[MaskSource], look_at: int = 64) -> MaskValues:
    """Detect the meaning of the values from some masks, evenly spread over the set.

    Unreadable masks are skipped here; `check_masks` reports them.

    Raises:
        BadPicture: None of the inspected masks can be read.
    """
    step = max(1, len(masks) // look_at)
    raws: list[RawMask] = []
    first_error: BadPicture | None = None
    for mask in masks[::step][:look_at]:
        try:
            raws.append(read_raw(mask))
        except BadPicture as error:
            first_error = first_error or error
    if first_error is not None and not raws:
        raise first_error
    return _decide(raws)


def looks_like_mask(source: MaskSource) -> bool:
    """Return whether a picture could be a mask: very few colours, or almost only black and white."""
    try:
        raw = read_raw(source, grey_only=True)
    except BadPicture:
        return False
    counts = np.bincount(raw.values.ravel(), minlength=256)
    extremes = counts[:24].sum() + counts[232:].sum()
    return bool(raw.decided or (counts > 0).sum() <= 32 or extremes >= 0.9 * raw.values.size)


def read_raw(source: MaskSource, *, grey_only: bool = False) -> RawMask:
    """Read the values of a mask.

    Args:
        source: As in `read_mask`.
        grey_only: Refuse colour pictures, which are rarely masks.

    Raises:
        BadPicture: The file cannot be read, or is a colour picture under `grey_only`.
    """
    if isinstance(source, Path) and source.suffix.lower() in MASK_ARRAYS:
        return _from_array(load_array(source), str(source))
    with opened(source) as image:
        image.load()
        if image.mode == "P":
            raw, decided = _from_palette(image)
        elif image.mode == "1":
            raw, decided = np.asarray(image.convert("L")), True
        else:
            raw, decided = _one_channel(image, grey_only), False
        lossy = getattr(image, "format", None) in _LOSSY
        upright = turn(Image.fromarray(raw), orientation(image))
        return RawMask(np.asarray(upright), decided, lossy)


def _from_palette(image: Image.Image) -> tuple[np.ndarray, bool]:
    """Use the indices of a palette mask, unless its used colours are only black and white."""
    indices = np.asarray(image)
    colours = np.asarray(image.convert("RGB"))
    if np.isin(colours, (0, 255)).all() and (colours == colours[..., :1]).all():
        return colours[..., 0], bool(colours.any())
    return indices, False


def _one_channel(image: Image.Image, grey_only: bool) -> np.ndarray:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _to_bytes(np.asarray(image))
    if image.mode in ("LA", "RGBA", "La", "RGBa"):
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() < 255:  # a cut-out: opaque pixels are the object
            return alpha
    colours = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    if colours.ndim == 2:
        return colours
    if grey_only and np.abs(colours.astype(np.int16) - colours[..., :1]).mean() > 2:
        raise BadPicture("mask", "has colours")
    return colours.max(axis=-1)  # a coloured object on black is foreground in any colour


def load_array(path: Path) -> np.ndarray:
    """Read the only array of a `.npy` or `.npz` file, or the one named "mask"; detect the format.

    Raises:
        BadPicture: The file cannot be read, or has no such array.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("it is no file")
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                file.seek(0)
                return bounded_array(file, PIXEL_LIMIT)
            with zipfile.ZipFile(file) as archive:
                keys = [name.removesuffix(".npy") for name in archive.namelist()]
                if "mask" not in keys and len(keys) != 1:
                    raise BadPicture(str(path), f"holds {len(keys)} arrays and none is called 'mask'")
                with archive.open(archive.namelist()[keys.index("mask") if "mask" in keys else 0]) as member:
                    return bounded_array(member, PIXEL_LIMIT)
    except BadPicture:
        raise
    except Exception as error:  # numpy, zipfile, zlib and the file system raise their own errors
        raise BadPicture(str(path), f"is no readable array ({one_line(error)})") from error


def bounded_array(file: IO[bytes] | io.BufferedIOBase, most: int) -> np.ndarray:
    """Read a `.npy` file; check its header before memory is allocated.

    Args:
        file: The file, at its start.
        most: Maximum number of values.

    Raises:
        ValueError: The file is not an array of plain numbers, or it is larger; numpy may raise other
            errors.
    """
    beginning = file.read(128)
    version = np.lib.format.read_magic(io.BytesIO(beginning))
    length_size = 2 if version == (1, 0) else 4
    header = beginning + file.read(
        int.from_bytes(beginning[8 : 8 + length_size], "little") + 8 + length_size - len(beginning)
    )
    read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
    shape, fortran, dtype = read_header(io.BytesIO(header[8:]))
    count = math.prod(shape)
    if dtype.kind not in "buif":
        raise ValueError(f"it holds {dtype}, not plain numbers")
    if not 0 <= count <= most:
        raise ValueError(f"it holds {count:,} numbers, more than {most:,}")
    already_read = header[8 + length_size + int.from_bytes(header[8 : 8 + length_size], "little") :]
    data = already_read + file.read(count * dtype.itemsize - len(already_read))
    array = np.frombuffer(data, dtype, count) if count else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _from_array(array: np.ndarray, name: str) -> RawMask:
    squeezed = array
    if not array.size:
        raise BadPicture(name, f"holds an array of shape {array.shape}, without a pixel")
    if array.ndim == 3:
        squeezed = array[0] if array.shape[0] == 1 else array[..., 0] if array.shape[-1] == 1 else array
    if squeezed.ndim != 2 or squeezed.dtype.kind not in "buif":
        reason = f"holds an array of shape {array.shape} and type {array.dtype}, not height x width numbers"
        raise BadPicture(name, reason)
    if squeezed.dtype.kind == "b":
        return RawMask(np.where(squeezed, 255, 0).astype(np.uint8), decided=True, lossy=False)
    return RawMask(_to_bytes(squeezed), decided=False, lossy=False)


def _to_bytes(numbers: np.ndarray) -> Values:
    """Convert values to bytes: floats in [0, 1] and full-range 16 bits are scaled, labels are capped."""
    if numbers.dtype == np.uint8 or numbers.size == 0:
        return numbers.astype(np.uint8)
    finite = np.nan_to_num(numbers.astype(np.float64))
    high = finite.max()
    if numbers.dtype.kind == "f" and high <= 1:
        finite = finite * 255
    elif high == 65535:
        finite = finite / 257
    elif high > 255:
        finite = np.minimum(finite, 254)  # more than 255 labels: all are objects, none is void
    return np.rint(np.clip(finite, 0, 255)).astype(np.uint8)


def _decide(raws: Sequence[RawMask]) -> MaskValues:
    histograms = [np.bincount(raw.values.ravel(), minlength=256) for raw in raws if not raw.decided]
    if not histograms:
        return "binary255"
    lossy = any(raw.lossy for raw in raws)
    total = np.stack(histograms).sum(axis=0).astype(np.int64)
    used = set(np.flatnonzero(total).tolist())
    if used <= {0, 255}:
        return "binary255"
    if used <= {0, 1}:
        return "binary1"
    graded = float(np.median([(counts[1:255] > 0).sum() for counts in histograms])) > _GRADED
    return _decide_from_spread(total, lossy, graded)


def _decide_from_spread(total: Histogram, lossy: bool, graded: bool) -> MaskValues:
    """Distinguish white objects with ringing or soft edges from labels, by the distribution of the values."""
    white = total[192:].sum()
    between = total[32 if lossy else 1 : 192].sum()
    beyond_labels = total[128:255].sum() > 0
    if white >= between and beyond_labels:
        return "binary255" if lossy else "soft"
    if graded and beyond_labels:
        return "soft"
    return "index_void255" if total[255] else "index"
