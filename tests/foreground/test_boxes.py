"""Boxes in a table: what is inside, in pixels and in shares, and what is wrong with a table."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.data.loader import PictureSet
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.foreground.matching import find_masks
from foveate.foreground.values import read_mask

SIZE = (10, 8)  # width, height


@pytest.fixture
def mask_of(tmp_path: Path) -> Callable[..., np.ndarray]:
    """Return the mask that a table gives the picture p/a.png, of 10 x 8 pixels."""

    def made(table: str, **save: object) -> np.ndarray:
        picture = tmp_path / "p" / "a.png"
        picture.parent.mkdir()
        Image.new("RGB", SIZE).save(picture, **save)
        file = tmp_path / "boxes.csv"
        file.write_text(table, encoding="utf-8")
        (found,) = find_masks([(picture, Path("a.png"))], file)
        assert found is not None
        return np.asarray(read_mask(found)) == 255

    return made


def painted(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Boxes by hand: pixel (x, y) is inside where left <= x < right and top <= y < bottom."""
    inside = np.zeros((SIZE[1], SIZE[0]), dtype=bool)
    for left, top, right, bottom in boxes:
        for y in range(SIZE[1]):
            for x in range(SIZE[0]):
                inside[y, x] |= left <= x < right and top <= y < bottom
    return inside


@pytest.mark.parametrize(
    ("table", "boxes"),
    [
        ("image,left,top,right,bottom\na.png,2,1,7,5\n", [(2, 1, 7, 5)]),
        ("image,left,top,right,bottom\na.png,0,0,2,2\na.png,6,5,99,99\n", [(0, 0, 2, 2), (6, 5, 10, 8)]),
        ("label,xmin,ymin,xmax,ymax,path\ncat,0.2,0.25,0.5,1,p/a.png\n", [(2, 2, 5, 8)]),
        ("\ufeffImage, Left,Top,Right,Bottom\na.png,2.4,1,6.6,5\n", [(2, 1, 7, 5)]),  # middles at 2.5 and 6.5
    ],
)
def test_what_lies_in_a_box_is_foreground(mask_of, table: str, boxes: list[tuple[int, int, int, int]]):
    assert np.array_equal(mask_of(table), painted(*boxes))


def test_a_one_pixel_box_is_in_pixels_where_any_other_box_is(mask_of):
    table = "image,left,top,right,bottom\na.png,0,0,1,1\nb.png,3,3,5,5\n"
    assert np.array_equal(mask_of(table), painted((0, 0, 1, 1)))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("image,left,top,right\na.png,1,2,3\n", "has no column 'bottom': a table of boxes has image, left,"),
        ("image,left,top,right,bottom\n", "has no boxes"),
        ("image,left,top,right,bottom\na.png,1,2,3,x\n", "line 2: 1, 2, 3, x are not four numbers"),
        ("image,left,top,right,bottom\na.png,1,2\n", "line 2: 1, 2, ,  are not four numbers"),
        (
            "image,left,top,right,bottom\na.png,1,2,3,4\na.png,5,2,3,4\n",
            "line 3: the box from 5, 2 to 3, 4 has",
        ),
        ("image,left,top,right,bottom\na.png,nan,2,3,4\n", "line 2: the box from nan"),
        ("image,left,top,right,bottom\na.png,-1,2,3,4\n", "line 2: the box from -1"),
    ],
)
def test_a_wrong_table_is_told_by_its_line(mask_of, table: str, says: str):
    with pytest.raises(InputError, match=says):
        mask_of(table)


def test_views_crop_boxes_with_their_pictures(shapes, tmp_path: Path):
    data = shapes(pictures=2)
    rows = [f"{path.parent.name}/{path.name},5,3,30,20" for path in sorted((data / "photos").rglob("*.png"))]
    file = tmp_path / "boxes.csv"
    file.write_text("\n".join(["image,left,top,right,bottom", *rows]), encoding="utf-8")
    photos = load_photos(data / "photos", masks=file)
    assert [sample.mask.name for sample in photos.samples] == [
        f"boxes.csv, {row.split(',')[0]}" for row in rows
    ]
    item = PictureSet(photos, 32).item(0)  # 40 x 32: the middle 32 columns, from 4 on
    expected = np.zeros((32, 32))
    expected[3:20, 1:26] = 1
    assert np.array_equal(item.mask[0].numpy(), expected)
    assert item.area == pytest.approx(25 * 17 / (40 * 32))
