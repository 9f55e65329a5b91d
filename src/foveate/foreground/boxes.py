"""Reads boxes from a table as masks: every pixel in one of a picture's boxes is foreground.

The table is a `.csv` file with a header and one row for each box: `image`, and the edges `left`, `top`,
`right`, `bottom` (or `xmin`, `ymin`, `xmax`, `ymax`). Edges are pixels of the upright picture, from its
upper left corner. If no number in the file is above 1, they are shares of width and height, as in Open
Images.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.foreground.opening import BadPicture, LazyPicture, opened, upright_size
from foveate.readers import IMAGE_COLUMNS, find_column, read_csv

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
