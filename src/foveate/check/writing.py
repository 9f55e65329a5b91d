"""Photos as a list that `load_photos` reads again."""

import os
from pathlib import Path

from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.readers import csv_text


def as_csv(photos: Photos, folder: Path) -> str:
    """Return a list with image, label and split; paths are relative to the folder that it will be in.

    Raises:
        InputError: A picture is no file.
    """
    rows: list[tuple[str, str, str]] = []
    for sample in photos.samples:
        if not isinstance(sample.picture, Path):
            raise InputError(f"{sample.name} is no file, and a list has files: leave --write out")
        path = os.path.relpath(sample.picture.absolute(), folder.absolute())
        rows.append((Path(path).as_posix(), photos.names[sample.label], sample.split or ""))
    return csv_text([("image", "label", "split"), *rows])
