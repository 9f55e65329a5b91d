"""Telephones' HEIC files, where pillow-heif is installed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.data.listing import list_pictures
from foveate.foreground.pictures import measure, open_picture

heif = pytest.importorskip("pillow_heif")


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_a_heic_file_is_read_upright(turn: int, tmp_path: Path):
    drawn = Image.fromarray(np.linspace(0, 255, 48 * 32 * 3, dtype=np.uint8).reshape(32, 48, 3))
    exif = Image.Exif()
    exif[0x0112] = turn
    plain = heif.from_pillow(drawn)
    plain.save(tmp_path / "a.heic", quality=-1, exif=exif.tobytes())
    drawn.save(tmp_path / "a.png", exif=exif)
    seen, wanted = open_picture(tmp_path / "a.heic"), open_picture(tmp_path / "a.png")
    assert seen.size == wanted.size == measure(tmp_path / "a.heic")[0]
    assert (
        np.abs(np.asarray(seen).astype(int) - np.asarray(wanted)).max() < 12
    )  # colours are stored otherwise
    assert [path.name for path in list_pictures(tmp_path)] == ["a.heic", "a.png"]
