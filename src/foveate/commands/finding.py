"""Pictures that the user names, files and folders; PyTorch is not needed."""

from collections.abc import Sequence
from pathlib import Path

from foveate.commands.screen import note
from foveate.data.listing import decode_all, list_pictures, tell_unread
from foveate.errors import InputError


def find_pictures(photos: Sequence[str]) -> list[Path]:
    """Replace each folder by the pictures in it.

    Raises:
        InputError: A folder has no pictures, or a path is a URL.
    """
    found: list[Path] = []
    for word in photos:
        if "://" in word:
            raise InputError(f"{word} is a web address: fetch the picture first, and give the file")
        given = Path(word)
        if not given.is_dir():
            if given.is_fifo():
                raise InputError(f"{given} is a pipe, no picture: give a file, or a folder")
            found.append(given)
            continue
        inside = list_pictures(given)
        if not inside:
            raise InputError(f"{given} has no pictures: give pictures, or a folder that has some")
        tell_unread([given])
        found += inside
    return found


def good_pictures(paths: Sequence[Path]) -> list[Path]:
    """Leave out unreadable pictures, with a note.

    Raises:
        InputError: No picture is readable.
    """
    looked = list(zip(paths, decode_all(paths), strict=True))
    bad = [error for _, (_, error) in looked if error is not None]
    if len(bad) == len(paths):
        raise InputError(
            f"none of {len(paths)} pictures can be read, first {bad[0].name}: {bad[0].reason}; give others"
        )
    for error in bad:
        note(f"{error.name}: {error.reason}")
    if bad:
        note(f"left out {len(bad)} of {len(paths)} pictures")
    return [path for path, (_, error) in looked if error is None]
