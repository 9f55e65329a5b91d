"""Converts pictures given as paths, bytes, arrays, tensors or Pillow images."""

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


def as_pictures(pictures: Any) -> list[Path | LazyPicture]:
    """Return a list of pictures from one picture or several.

    Args:
        pictures: Paths, PIL pictures, arrays (height x width x channels), tensors (channels x height x
            width), bytes of picture files, open files; or a single one of these.

    Raises:
        InputError: A picture is of another type; the message gives its index and type.
    """
    if isinstance(pictures, np.ndarray) and pictures.dtype.kind in "OU":
        pictures = pictures.tolist()  # an array of paths, as from pandas
    single = isinstance(pictures, str | bytes | bytearray | os.PathLike | Image.Image | LazyPicture)
    if single or hasattr(pictures, "read") or (_has_numbers(pictures) and pictures.ndim < 4):
        return [as_picture(pictures)]
    if isinstance(pictures, Mapping) or not isinstance(pictures, Iterable):
        return [as_picture(pictures)]  # raises InputError
    return [as_picture(item, index) for index, item in enumerate(cast("Iterable[object]", pictures))]


def as_picture(picture: object, index: int = 0) -> Path | LazyPicture:
    """Return one picture; see `as_pictures` for the accepted types.

    Args:
        picture: The picture.
        index: Its index, for messages.

    Raises:
        InputError: It is of another type, an empty path or a web address.
    """
    name = f"picture {index}"
    if isinstance(picture, str | os.PathLike):
        path = os.fsdecode(cast("str", picture))
        if not path or "://" in path:
            problem = "a web address: fetch the picture first, and give the file" if path else "an empty path"
            raise InputError(f"{path or name} is {problem}")
        return home_of(path)
    if isinstance(picture, Image.Image):
        return MemoryPicture(picture, name)
    if isinstance(picture, LazyPicture):
        return picture
    if _has_numbers(picture):
        return MemoryPicture(_from_numbers(picture, name), name)
    try:
        content = cast("Any", picture).read() if hasattr(picture, "read") else picture
    except (OSError, ValueError) as error:
        raise InputError(f"{name} is an open file that cannot be read ({error})") from error
    if isinstance(content, bytes | bytearray | memoryview):
        return FilePicture(bytes(content), name)
    raise InputError(
        f"{name} is of type {type(picture).__name__}: give a path, a PIL picture, an array, a tensor, or the"
        " bytes of a picture file"
    )


def _from_numbers(values: Any, name: str) -> Image.Image:
    """Return the picture that an array or a tensor holds."""
    is_tensor = not isinstance(values, np.ndarray)
    values = values.detach().cpu() if is_tensor else values
    array = np.asarray(values.float() if is_tensor and values.is_floating_point() else values)
    counts = (1, 3, 4) if is_tensor else (1, 3)
    if array.ndim == 3 and array.shape[0] in counts and (is_tensor or array.shape[2] not in (1, 3, 4)):
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
    white = 1 if array.dtype.kind == "f" and high <= 1 else 255
    if not 0 <= low <= high <= white:  # also refuses NaN
        raise InputError(
            f"{name} has numbers from {low:.3g} to {high:.3g}: give them in [0, 255], or floats in [0, 1],"
            " not normalised"
        )
    return Image.fromarray(np.rint(array * (255 / white)).astype(np.uint8))


def _has_numbers(value: object) -> bool:
    """Return whether a value is an array or a tensor, without importing PyTorch."""
    return isinstance(value, np.ndarray) or all(hasattr(value, attribute) for attribute in ("detach", "ndim"))
