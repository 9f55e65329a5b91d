"""Writes photos as a list that `load_photos` can read."""

import os
from pathlib import Path

from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.readers import csv_text


def as_csv(photos: Photos, folder: Path) -> str:
    """Return a CSV list with image, label and split; paths are relative to the folder of the list.

    Raises:
        InputError: A picture is not a file.
    """
    rows: list[tuple[str, str, str]] = []
    for sample in photos.samples:
        if not isinstance(sample.picture, Path):
            raise InputError(f"{sample.name} is no file, and a list has files: leave --write out")
        path = os.path.relpath(sample.picture.absolute(), folder.absolute())
        rows.append((Path(path).as_posix(), photos.names[sample.label], sample.split or ""))
    return csv_text([("image", "label", "split"), *rows])
