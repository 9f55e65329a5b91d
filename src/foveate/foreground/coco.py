"""Masks in a COCO file: run lengths and polygons by picture, read without unpacking them first."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.foreground import rle
from foveate.foreground.opening import BadPicture, LazyPicture
from foveate.foreground.proposers.registry import demand

_REMEDY = "mend the annotation, or pass --on-bad skip"


class CocoMask(LazyPicture):
    """All that is annotated in one picture, together.

    Args:
        file: The COCO file.
        picture: The picture's `file_name`.
        size: Its (height, width), which polygons need; None where the file does not say.
        parts: The annotations' `segmentation`s.
    """

    def __init__(self, file: Path, picture: str, size: tuple[int, int] | None, parts: Sequence[Any]) -> None:
        self._file, self._picture, self._size, self._parts = file, picture, size, parts

    @property
    def name(self) -> str:
        return f"{self._file.name}, {self._picture}"

    def load(self) -> Image.Image:
        try:
            masks = [_decoded(part, self._size) for part in self._parts]
            return Image.fromarray(np.ascontiguousarray(np.logical_or.reduce(masks)))
        except (ValueError, TypeError, KeyError) as error:
            reason = f"the mask of {self._picture} is damaged ({error})".replace("\n", " ")
            raise BadPicture(str(self._file), reason, _REMEDY) from error


def coco_masks(path: Path) -> dict[str, CocoMask]:
    """Read a COCO file's annotations, by the pictures' file names; pictures without any are left out.

    Raises:
        InputError: It is no such file, or has polygons and pycocotools is not installed.
    """
    try:
        content = json.loads(path.read_bytes())
        images = {one["id"]: one for one in content["images"]}
        parts: dict[Any, list[Any]] = {}
        for one in content["annotations"]:
            parts.setdefault(one["image_id"], []).append(one["segmentation"])
        masks = [_mask(path, images[number], found) for number, found in parts.items()]
    except (ValueError, TypeError, KeyError) as error:
        what = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise InputError(
            f"{path} is no COCO file of masks ({what}); it needs images with id and file_name, "
            f"and annotations with image_id and segmentation"
        ) from error
    if any(isinstance(part, list) for found in parts.values() for part in found):
        demand("masks", f"reading the polygons in {path.name}", "pycocotools")
    by_name = dict(masks)
    if len(by_name) < len(masks):
        raise InputError(f"{path} lists a file_name twice; give each picture one id")
    return by_name


def _mask(path: Path, image: dict[str, Any], parts: list[Any]) -> tuple[str, CocoMask]:
    name = str(image["file_name"]).replace("\\", "/").strip("/")
    height, width = image.get("height"), image.get("width")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return name, CocoMask(path, name, size, parts)


def _decoded(part: Any, size: tuple[int, int] | None) -> rle.Inside:
    match part:
        case {"size": [int(height), int(width)], "counts": str() | list() as counts}:
            return rle.decode(cast("str | list[object]", counts), height, width)
        case list() if size is not None:
            return _filled(cast("list[Any]", part), size)
        case list():
            raise ValueError("polygons need the picture's height and width")
        case _:
            raise ValueError("it is neither runs nor polygons")


def _filled(polygons: list[Any], size: tuple[int, int]) -> rle.Inside:
    """Fill polygons as COCO does, which is no drawing library's way at the edges."""
    from pycocotools import mask as coco  # pyright: ignore

    corners = [np.asarray(polygon, np.float64) for polygon in polygons]
    if not corners or any(one.ndim != 1 or one.size < 6 or one.size % 2 for one in corners):
        raise ValueError("a polygon is not x, y, x, y, ... of three corners or more")
    if not all(np.isfinite(one).all() and np.abs(one).max() < 1e6 for one in corners):
        raise ValueError("a polygon's corner is not in the picture")
    height, width = size
    if not 0 < height * width <= rle.PIXEL_LIMIT:
        raise ValueError(f"it is {height} x {width} pixels")
    runs = coco.merge(coco.frPyObjects([one.tolist() for one in corners], height, width))
    return rle.decode(runs["counts"], height, width)
