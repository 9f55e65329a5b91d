"""Reads foveate's masks, from a tree or a packed set."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

from foveate.errors import InputError
from foveate.foreground.opening import opened
from foveate.foreground.records import (
    HEAD,
    MANIFEST,
    MaskRecord,
    StoredMask,
    read_bytes,
    read_head,
    read_lines,
)
from foveate.foreground.shards import is_packed, open_shards, read_shard


class TreeMask(StoredMask):
    """One mask of a tree."""

    def __init__(self, folder: Path, file: str, fallback: bool) -> None:
        self._folder, self._file, self._fallback = folder, file, fallback

    @property
    def name(self) -> str:
        return self._file

    @property
    def fallback(self) -> bool:
        return self._fallback

    def load(self) -> Image.Image:
        with opened(self._folder / self._file) as image:
            image.load()
            return image


def read_key(folder: Path) -> dict[str, object]:
    """Return the settings of the masks in a tree or in a packed set.

    Raises:
        InputError: The masks are not foveate's, are damaged, or have a newer format.
    """
    if is_packed(folder):
        return dict(open_shards(folder).key)
    path = folder / HEAD
    if not path.is_file():
        raise InputError(f"{folder} has no {HEAD}: it holds no masks that foveate made")
    return read_head(path.read_bytes(), str(path))


def read_manifest(folder: Path) -> list[MaskRecord]:
    """Return the records of a tree or a packed set, each name once, in the order of creation.

    Records without a mask file are left out.

    Raises:
        InputError: There is no manifest, or it is damaged.
    """
    if is_packed(folder):
        shards = [folder] if folder.is_file() else open_shards(folder).shards
        return [record for shard in shards for record in read_shard(shard)[1]]
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} has no {MANIFEST}: it holds no masks that foveate made")
    return list(read_tree(folder)[0].values())


def stored_masks(folder: Path) -> Mapping[str, StoredMask] | None:
    """Return foveate's masks in this folder, by name of the picture; None if there are none.

    Args:
        folder: A tree, a packed set or one shard of it.

    Raises:
        InputError: The manifest or the index is damaged.
    """
    if is_packed(folder):
        return open_shards(folder).masks()
    if not (folder / MANIFEST).is_file() or not (folder / HEAD).is_file():
        return None
    read_key(folder)
    records, _ = read_tree(folder)
    return {name: TreeMask(folder, record.file, record.fallback) for name, record in records.items()}


def read_tree(folder: Path) -> tuple[dict[str, MaskRecord], int]:
    """Return the records whose mask exists, and the number of bytes of complete manifest lines."""
    manifest = folder / MANIFEST
    records, end = read_lines(read_bytes(manifest), str(manifest))
    existing = _existing(folder, (record.file for record in records.values()))
    return {name: entry for name, entry in records.items() if entry.file in existing}, end


def _existing(folder: Path, files: Iterable[str]) -> set[str]:
    """Return those files that exist; this lists folders instead of checking each file."""
    requested = set(files)
    listed: set[str] = set()
    for parent in {file.rpartition("/")[0] for file in requested}:
        if (folder / parent).is_dir():
            prefix = f"{parent}/" if parent else ""
            with os.scandir(folder / parent) as entries:
                listed.update(prefix + entry.name for entry in entries)
    return requested & listed
