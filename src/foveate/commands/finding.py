"""Pictures that the user names, files and folders; PyTorch is not needed."""

from collections.abc import Sequence
from pathlib import Path

from foveate.commands.screen import note
from foveate.data.listing import decode_all, list_pictures, tell_unread
from foveate.errors import InputError
from foveate.files import home_of


def find_pictures(photos: Sequence[str]) -> list[Path]:
    """Replace each folder by the pictures in it.

    Raises:
        InputError: A folder has no pictures, or a path is a URL.
    """
    paths: list[Path] = []
    for photo in photos:
        if "://" in photo:
            raise InputError(f"{photo} is a web address: fetch the picture first, and give the file")
        path = home_of(photo)
        if not path.is_dir():
            if path.is_fifo():
                raise InputError(f"{path} is a pipe, no picture: give a file, or a folder")
            paths.append(path)
            continue
        pictures = list_pictures(path)
        if not pictures:
            raise InputError(f"{path} has no pictures: give pictures, or a folder that has some")
        tell_unread([path])
        paths += pictures
    return paths


def good_pictures(paths: Sequence[Path]) -> list[Path]:
    """Leave out unreadable pictures, with a note.

    Raises:
        InputError: No picture is readable.
    """
    decoded = list(zip(paths, decode_all(paths), strict=True))
    bad = [error for _, (_, error) in decoded if error is not None]
    if len(bad) == len(paths):
        raise InputError(
            f"none of {len(paths)} pictures can be read, first {bad[0].name}: {bad[0].reason}; give others"
        )
    for error in bad:
        note(f"{error.name}: {error.reason}")
    if bad:
        note(f"left out {len(bad)} of {len(paths)} pictures")
    return [path for path, (_, error) in decoded if error is None]
