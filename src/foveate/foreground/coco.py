"""Reads masks from a COCO file: run lengths and polygons, decoded on access."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.foreground import rle
from foveate.foreground.checks import same_shape
from foveate.foreground.opening import BadPicture, LazyPicture, opened, upright_size
from foveate.foreground.proposers.registry import demand
from foveate.readers import one_line, read_json

_REMEDY = 'mend the annotation, or pass on_bad="skip"'


class CocoMask(LazyPicture):
    """Union of all annotations of one picture.

    Args:
        file: The COCO file.
        picture: The picture's `file_name`.
        size: (height, width) of the picture, needed for polygons; None if the file does not give it.
        parts: The `segmentation` values of the annotations.
        path: The picture's own file, if it is known.
    """

    def __init__(
        self,
        file: Path,
        picture: str,
        size: tuple[int, int] | None,
        parts: Sequence[Any],
        path: Path | None = None,
    ) -> None:
        self._file, self._picture, self._size, self._parts, self._path = file, picture, size, parts, path

    def on(self, picture: Path) -> "CocoMask":
        """Return it as the mask of this picture, which must have the same shape."""
        return CocoMask(self._file, self._picture, self._size, self._parts, picture)

    @property
    def name(self) -> str:
        return f"{self._file.name}, {self._picture}"

    def load(self) -> Image.Image:
        try:
            self._check_sizes()
            masks = [_decode_part(part, self._size) for part in self._parts]
            return Image.fromarray(np.ascontiguousarray(np.logical_or.reduce(masks)))
        except BadPicture:
            raise
        except Exception as error:  # pycocotools and numpy raise their own errors
            reason = f"the mask of {self._picture} is damaged ({one_line(error)})"
            raise BadPicture(str(self._file), reason, _REMEDY) from error

    def _check_sizes(self) -> None:
        """Refuse masks of another shape than the picture's before memory is allocated."""
        if self._path is None:
            return
        with opened(self._path) as picture:
            width, height = upright_size(picture)
        sizes = [part["size"] for part in self._parts if isinstance(part, dict) and "size" in part]
        for mask_height, mask_width in [*sizes, *([self._size] if self._size else [])]:
            if not same_shape((mask_width, mask_height), (width, height)) and not same_shape(
                (mask_height, mask_width), (width, height)
            ):
                raise BadPicture(
                    str(self._file),
                    f"the mask of {self._picture} is damaged (it is {mask_width}x{mask_height}, and the"
                    f" picture is {width}x{height})",
                    _REMEDY,
                )


def coco_masks(path: Path) -> dict[str, CocoMask]:
    """Read the annotations of a COCO file, by file name of the picture; skip pictures without annotations.

    Raises:
        InputError: The file is not a COCO file, or has polygons and pycocotools is not installed.
    """
    try:
        content = read_json(path)
        annotated = _annotated(content)
        pairs = [_mask(path, image, parts) for image, parts in annotated]
    except (ValueError, TypeError, KeyError) as error:
        reason = one_line(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path} is no COCO file of masks ({reason}); it needs images with id and file_name, "
            f"and annotations with image_id and segmentation"
        ) from error
    if any(isinstance(part, list) for _, parts in annotated for part in parts):
        demand("masks", f"reading the polygons in {path.name}", "pycocotools")
    by_name = dict(pairs)
    if len(by_name) < len(pairs):
        raise InputError(f"{path} lists a file_name twice; give each picture one id")
    return by_name


def _annotated(content: Any) -> list[tuple[dict[str, Any], list[Any]]]:
    """Return all images with annotations, and their segmentations."""
    images: dict[Any, Any] = {}
    for image in content["images"]:
        if image["id"] in images:
            raise InputError(f"it has two images of the id {image['id']!r}: give each its own")
        images[image["id"]] = image
    parts_by_id: dict[Any, list[Any]] = {}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in images:
            raise InputError(
                f"it has an annotation of image {annotation['image_id']!r}, and no image of that id"
            )
        parts_by_id.setdefault(annotation["image_id"], []).append(annotation["segmentation"])
    return [(images[image_id], parts) for image_id, parts in parts_by_id.items()]


def _mask(path: Path, image: dict[str, Any], parts: list[Any]) -> tuple[str, CocoMask]:
    name = str(image["file_name"]).replace("\\", "/").strip("/")
    height, width = image.get("height"), image.get("width")
    for side in (height, width):
        if side is not None and (not isinstance(side, int) or isinstance(side, bool) or side < 1):
            raise InputError(f"its image {name} has the height {height!r} and the width {width!r}")
    size = (height, width) if height is not None and width is not None else None
    return name, CocoMask(path, name, size, parts)


def _decode_part(part: Any, size: tuple[int, int] | None) -> rle.Inside:
    match part:
        case {"size": [int(height), int(width)], "counts": str() | list() as counts}:
            return rle.decode(cast("str | list[object]", counts), height, width)
        case list() if size is not None:
            return _fill_polygons(cast("list[Any]", part), size)
        case list():
            raise ValueError("polygons need the picture's height and width")
        case _:
            raise ValueError("it is neither runs nor polygons")


def _fill_polygons(polygons: list[Any], size: tuple[int, int]) -> rle.Inside:
    """Fill polygons as COCO does, which differs from drawing libraries at the edges."""
    from pycocotools import mask as coco  # pyright: ignore

    arrays = [np.asarray(polygon, np.float64) for polygon in polygons]
    if not arrays or any(
        coordinates.ndim != 1 or coordinates.size < 6 or coordinates.size % 2 for coordinates in arrays
    ):
        raise ValueError("a polygon is not x, y, x, y, ... of three corners or more")
    if not all(np.isfinite(coordinates).all() and np.abs(coordinates).max() < 1e6 for coordinates in arrays):
        raise ValueError("a polygon's corner is not in the picture")
    height, width = size
    if not 0 < height * width <= rle.PIXEL_LIMIT:
        raise ValueError(f"it is {height} x {width} pixels")
    runs = coco.merge(coco.frPyObjects([coordinates.tolist() for coordinates in arrays], height, width))
    return rle.decode(runs["counts"], height, width)
