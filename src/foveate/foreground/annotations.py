"""Masks from annotation files: COCO's run lengths and polygons, and boxes from a table."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Bool
from PIL import Image

from foveate.errors import InputError
from foveate.foreground.checks import same_shape
from foveate.foreground.opening import PIXEL_LIMIT, BadPicture, LazyPicture, opened, upright_size
from foveate.foreground.proposers.registry import demand
from foveate.readers import IMAGE_COLUMNS, find_column, one_line, read_csv, read_json

# COCO run lengths: alternating numbers of background and foreground pixels, column by column.
#
# There are two forms: a list of numbers, or a string with the numbers in groups of five bits (from the
# fourth on as the difference to the number two before). Source: `maskApi.c` of the COCO API. This decoder
# checks its input: it refuses a broken mask, where the C code may write out of bounds.


Inside = Bool[np.ndarray, "height width"]


def decode(counts: str | bytes | Sequence[object], height: int, width: int) -> Inside:
    """Decode a mask.

    Args:
        counts: The runs, in either form.
        height: Height in pixels.
        width: Width in pixels.

    Raises:
        ValueError: The runs do not form a mask of this size.
    """
    total = height * width
    if not 0 < total <= PIXEL_LIMIT:
        raise ValueError(f"it is {height} x {width} pixels")
    numbers = _from_text(counts) if isinstance(counts, str | bytes) else counts
    runs = [run for run in numbers if isinstance(run, int) and 0 <= run <= total]
    if len(runs) < len(numbers) or sum(runs) != total:
        raise ValueError(f"its runs do not make {height} x {width} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def encode(mask: Inside) -> list[int]:
    """Return the runs of a mask as numbers."""
    flat = np.concatenate(([False], mask.T.ravel()))
    edges = [0, *(int(edge) for edge in np.flatnonzero(flat[1:] != flat[:-1])), mask.size]
    return [end - start for start, end in pairwise(edges)]


def _from_text(text: str | bytes) -> list[int]:
    codes = (text.encode() if isinstance(text, str) else text).strip()
    runs: list[int] = []
    value, shift = 0, 0
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its runs are not in COCO's letters")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # more groups of this number follow
            continue
        if bits & 16:  # negative: extend the sign
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("its runs end within a number")
    return runs


# Reads masks from a COCO file: run lengths and polygons, decoded on access.


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


def _decode_part(part: Any, size: tuple[int, int] | None) -> Inside:
    match part:
        case {"size": [int(height), int(width)], "counts": str() | list() as counts}:
            return decode(cast("str | list[object]", counts), height, width)
        case list() if size is not None:
            return _fill_polygons(cast("list[Any]", part), size)
        case list():
            raise ValueError("polygons need the picture's height and width")
        case _:
            raise ValueError("it is neither runs nor polygons")


def _fill_polygons(polygons: list[Any], size: tuple[int, int]) -> Inside:
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
    if not 0 < height * width <= PIXEL_LIMIT:
        raise ValueError(f"it is {height} x {width} pixels")
    runs = coco.merge(coco.frPyObjects([coordinates.tolist() for coordinates in arrays], height, width))
    return decode(runs["counts"], height, width)


# Reads boxes from a table as masks: every pixel in one of a picture's boxes is foreground.
#
# The table is a `.csv` file with a header and one row for each box: `image`, and the edges `left`, `top`,
# `right`, `bottom` (or `xmin`, `ymin`, `xmax`, `ymax`). Edges are pixels of the upright picture, from its
# upper left corner. If no number in the file is above 1, they are shares of width and height, as in Open
# Images.


NAMES = IMAGE_COLUMNS
EDGES = (("left", "xmin"), ("top", "ymin"), ("right", "xmax"), ("bottom", "ymax"))

Box = tuple[float, float, float, float]  # left, top, right, bottom


class BoxMask(LazyPicture):
    """The boxes of a picture as a mask of its size, drawn on access.

    Args:
        file: The table.
        picture_name: Name of the picture in the table.
        boxes: At least one.
        shares: Whether edges are shares of the picture's sides instead of pixels.
        picture: The picture's file, for its size; None if it is not known yet.
    """

    def __init__(
        self, file: Path, picture_name: str, boxes: Sequence[Box], shares: bool, picture: Path | None = None
    ) -> None:
        self._file, self._picture_name, self._boxes = file, picture_name, boxes
        self._shares, self._picture = shares, picture

    def on(self, picture: Path) -> "BoxMask":
        """Return the boxes as the mask of this picture."""
        return BoxMask(self._file, self._picture_name, self._boxes, self._shares, picture)

    @property
    def name(self) -> str:
        return f"{self._file.name}, {self._picture_name}"

    def load(self) -> Image.Image:
        assert self._picture is not None
        with opened(self._picture) as picture:
            width, height = upright_size(picture)
        inside = np.zeros((height, width), dtype=bool)
        x_scale, y_scale = (width, height) if self._shares else (1, 1)
        for left, top, right, bottom in self._boxes:
            rows = _within(top * y_scale, bottom * y_scale, height)
            inside[rows, _within(left * x_scale, right * x_scale, width)] = True
        if not inside.any():
            raise BadPicture(
                str(self._file),
                f"the boxes of {self._picture_name} cover no pixel of the picture, which is {width}x{height}",
                'give them in pixels of that picture, or pass on_bad="skip"',
            )
        return Image.fromarray(inside)


def read_boxes(path: Path) -> dict[str, BoxMask]:
    """Read a table of boxes, by picture name.

    Raises:
        InputError: A column is missing, a value is not a number, or a box is empty; the message gives
            the line.
    """
    header, lines = read_csv(path)
    columns = [find_column(header, choices) for choices in (NAMES, *EDGES)]
    for choices, column_name in zip((NAMES, *EDGES), columns, strict=True):
        if column_name is None:
            raise InputError(
                f"{path} has no column {choices[0]!r}: a table of boxes has {', '.join(_required_columns())}"
            )
    rows = [_row(path, line_number, [row[str(column)] for column in columns]) for line_number, row in lines]
    if not rows:
        raise InputError(f"{path} has no boxes: give a row for each, with {', '.join(_required_columns())}")
    shares = all(edge <= 1 for _, box in rows for edge in box)
    boxes_by_name: dict[str, list[Box]] = {}
    for name, box in rows:
        boxes_by_name.setdefault(name, []).append(box)
    return {name: BoxMask(path, name, boxes, shares) for name, boxes in boxes_by_name.items()}


def _row(path: Path, line_number: int, fields: Sequence[str]) -> tuple[str, Box]:
    name, *edges = fields
    if not name.strip():
        raise InputError(f"{path}, line {line_number}: no name of a picture")
    try:
        left, top, right, bottom = (float(edge) for edge in edges)
    except ValueError:
        values = ", ".join(" ".join(str(edge).split()) for edge in edges)
        raise InputError(f"{path}, line {line_number}: {values} are not four numbers") from None
    if not (0 <= left < right < float("inf") and 0 <= top < bottom < float("inf")):
        raise InputError(
            f"{path}, line {line_number}: the box from {left:g}, {top:g} to {right:g}, {bottom:g}"
            " has no inside: give left < right and top < bottom, from 0 on"
        )
    return name.strip().replace("\\", "/").strip("/"), (left, top, right, bottom)


def _required_columns() -> list[str]:
    return [NAMES[0], *(choices[0] for choices in EDGES)]


def _within(start: float, end: float, size: int) -> slice:
    """Return the pixels whose centres lie between two edges."""
    first, last = (int(np.clip(np.ceil(edge - 0.5), 0, size)) for edge in (start, end))
    return slice(first, last)
