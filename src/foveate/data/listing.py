"""Pictures in folder trees, and which of them can be read; PyTorch is not needed."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from foveate.foreground.matching import walk
from foveate.foreground.opening import PICTURE_SUFFIXES, BadPicture, LazyPicture, looks_like_picture
from foveate.foreground.pictures import open_picture

UNREAD_SUFFIXES = frozenset(
    (
        *(".heic", ".heif", ".hif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".orf", ".rw2"),
        *(".jp2", ".j2k", ".jpx", ".jxl", ".tga", ".psd", ".svg", ".ico", ".pcx", ".exr", ".hdr", ".dds"),
        *(".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm"),
    )
)
"""Suffixes of common picture and video formats that are not read."""


def list_pictures(folder: Path) -> list[Path]:
    """Return all pictures in a folder tree, sorted; skip hidden files, pipes and other kinds."""
    return list(pictures_in(folder))


def pictures_in(folder: Path) -> Iterator[Path]:
    """Yield the same pictures one by one, without listing the whole tree first."""
    return walk(folder, PICTURE_SUFFIXES.__contains__)


def tell_unread(folders: Iterable[Path]) -> None:
    """Warn about pictures and videos in formats that are not read, with their number by suffix."""
    files = (file for folder in folders for file in walk(folder, lambda end: end not in PICTURE_SUFFIXES))
    unread = sorted(
        path for path in files if path.suffix.lower() in UNREAD_SUFFIXES or looks_like_picture(path)
    )
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        endings = Counter(path.suffix.lower() or "without an ending" for path in unread).most_common()
        counts = ", ".join(f"{number} {ending}" for ending, number in endings)
        warnings.warn(
            f"{unread[0]}{more} left out: formats that are not read ({counts}); convert them to JPEG or PNG,"
            " or give them the ending of what they are",
            stacklevel=2,
        )


def decode_all(
    sources: Iterable[Path | LazyPicture], workers: int = 2
) -> Iterator[tuple[Path | LazyPicture, BadPicture | None]]:
    """Decode every picture once, in order; yield each with its error, or None.

    Args:
        sources: The pictures.
        workers: Number of threads.
    """

    def attempt(source: Path | LazyPicture) -> tuple[Path | LazyPicture, BadPicture | None]:
        try:
            open_picture(source)
        except BadPicture as error:
            return source, error
        return source, None

    with ThreadPoolExecutor(max(1, workers)) as pool:
        yield from pool.map(attempt, sources)
