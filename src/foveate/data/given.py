"""Pictures as a program hands them over: paths, bytes, arrays, tensors, Pillow's own."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.files import home_of
from foveate.foreground.opening import FilePicture, LazyPicture


class MemoryPicture(LazyPicture):
    """A picture that is in memory already."""

    def __init__(self, image: Image.Image, name: str = "picture in memory") -> None:
        self._image = image
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def load(self) -> Image.Image:
        return self._image


def as_pictures(given: Any) -> list[Path | LazyPicture]:
    """Return what was handed over as pictures: one, or several in a row.

    Args:
        given: Paths, PIL pictures, arrays (height x width x channels), tensors (channels x height x width),
            bytes of picture files, open files; or one of these.

    Raises:
        InputError: One is of another type; it says where it stands, and which type.
    """
    if isinstance(given, np.ndarray) and given.dtype.kind in "OU":
        given = given.tolist()  # of paths, as pandas gives them
    single = isinstance(given, str | bytes | bytearray | os.PathLike | Image.Image | LazyPicture)
    if single or hasattr(given, "read") or (_has_numbers(given) and given.ndim < 4):
        return [as_picture(given)]
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        return [as_picture(given)]  # which refuses it
    return [as_picture(one, place) for place, one in enumerate(cast("Iterable[object]", given))]


def as_picture(given: object, place: int = 0) -> Path | LazyPicture:
    """Return one picture; `as_pictures` says what may be given.

    Args:
        given: The picture.
        place: Its number, for messages.

    Raises:
        InputError: It is of another type, or an address of the web.
    """
    name = f"picture {place}"
    if isinstance(given, str | os.PathLike):
        path = os.fsdecode(cast("str", given))
        if not path or "://" in path:
            what = "a web address: fetch the picture first, and give the file" if path else "an empty path"
            raise InputError(f"{path or name} is {what}")
        return home_of(path)
    if isinstance(given, Image.Image):
        return MemoryPicture(given, name)
    if isinstance(given, LazyPicture):
        return given
    if _has_numbers(given):
        return MemoryPicture(_from_numbers(given, name), name)
    try:
        content = cast("Any", given).read() if hasattr(given, "read") else given
    except (OSError, ValueError) as error:
        raise InputError(f"{name} is an open file that cannot be read ({error})") from error
    if isinstance(content, bytes | bytearray | memoryview):
        return FilePicture(bytes(content), name)
    raise InputError(
        f"{name} is of type {type(given).__name__}: give a path, a PIL picture, an array, a tensor, or the"
        " bytes of a picture file"
    )


def _from_numbers(given: Any, name: str) -> Image.Image:
    """Return the picture that an array or a tensor holds."""
    is_tensor = not isinstance(given, np.ndarray)
    given = given.detach().cpu() if is_tensor else given
    array = np.asarray(given.float() if is_tensor and given.is_floating_point() else given)
    first = (1, 3, 4) if is_tensor else (1, 3)
    if array.ndim == 3 and array.shape[0] in first and (is_tensor or array.shape[2] not in (1, 3, 4)):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    channels = array.shape[2] if array.ndim == 3 else 1
    if (
        array.ndim not in (2, 3)
        or channels not in (1, 3, 4)
        or array.dtype.kind not in "uif"
        or not array.size
    ):
        raise InputError(
            f"{name} is an array of shape {array.shape} and type {array.dtype}: give height x width x 3"
            " numbers"
        )
    low, high = float(array.min()), float(array.max())
    most = 1 if array.dtype.kind == "f" and high <= 1 else 255
    if not 0 <= low <= high <= most:  # nor NaN
        raise InputError(
            f"{name} has numbers from {low:.3g} to {high:.3g}: give them in [0, 255], or floats in [0, 1],"
            " not normalised"
        )
    return Image.fromarray(np.rint(array * (255 / most)).astype(np.uint8))


def _has_numbers(given: object) -> bool:
    """Return whether something is an array or a tensor; PyTorch is not imported to know."""
    return isinstance(given, np.ndarray) or all(hasattr(given, name) for name in ("detach", "ndim"))
