"""Lists the pictures of a labelled source, or of a folder without classes, as jobs for a proposer."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from foveate.data.fewshot import base_new, draw_shots
from foveate.data.folders import read_folder
from foveate.data.listing import list_pictures
from foveate.data.samples import Photos
from foveate.data.sources import full_path, load_photos
from foveate.data.tables import find_split_file
from foveate.errors import InputError
from foveate.foreground.cutting import MaskJob
from foveate.foreground.matching import find_masks
from foveate.foreground.values import looks_like_mask


def mask_jobs(
    source: str | Path,
    *,
    out: Path | None = None,
    images: str | Path | None = None,
    base_only: bool = False,
    shots: int | None = None,
    seed: int = 1,
    prompt: Callable[[str], str] | None = None,
) -> list[MaskJob]:
    """List the pictures that need masks.

    Args:
        source: A source on disk for `load_photos`; or a folder of pictures without class folders, whose
            jobs have no label.
        out: Output folder of the masks. It may be inside the picture folder and is not a class.
        images: What paths in a list or split file are relative to.
        base_only: Take only the first half of the classes.
        shots: Take only the pictures that a run with this many shots draws for training; None takes all.
        seed: Seed of that draw.
        prompt: Returns the search text for a class name (empty if unknown); default: the name itself.

    Returns:
        One job for each picture. Its name is the picture's path relative to the root folder, so
        `find_masks` finds a mask that is written under this name.

    Raises:
        InputError: There are no pictures, pictures are not files, or one picture is in two classes.
    """
    path = full_path(source)
    if path.is_dir() and find_split_file(path) is None:
        masks = full_path(out) if out and full_path(out).is_relative_to(path) else None
        pictures = _flat(path, masks)
        if pictures:
            if base_only or shots is not None:
                raise InputError(f"{path} has no class folders: leave --classes and --shots out")
            prompt_text = prompt("") if prompt else ""
            return [MaskJob(picture.name, picture, "", prompt_text) for picture in pictures]
        photos, top, _ = read_folder(path, masks)
    else:
        photos = load_photos(source if str(source).startswith("hf:") else path, images=images)
        top = full_path(images) if images is not None else path if path.is_dir() else path.parent
    if shots is not None:
        photos = draw_shots(photos, shots, seed).train
    if base_only:
        photos = photos.only(base_new(photos)[0])
    return _jobs(photos, top, prompt or str)


def _jobs(photos: Photos, top: Path, prompt: Callable[[str], str]) -> list[MaskJob]:
    files: dict[Path, str] = {}
    for sample in photos.samples:
        if not isinstance(sample.picture, Path):
            raise InputError(f"{sample.name}: it is no file, and masks are kept under file names")
        file, label = full_path(sample.picture), photos.names[sample.label]
        if files.setdefault(file, label) != label:
            raise InputError(f"{file} is both {files[file]!r} and {label!r}, and has one mask: list it once")
    if not all(file.is_relative_to(top) for file in files):
        top = Path(os.path.commonpath([file.parent for file in files]))
    return [
        MaskJob(file.relative_to(top).as_posix(), file, label, prompt(label)) for file, label in files.items()
    ]


def _flat(folder: Path, masks: Path | None) -> list[Path]:
    """Return the pictures of a flat folder, without masks that lie beside them."""
    pictures = [path for path in list_pictures(folder) if masks is None or not path.is_relative_to(masks)]
    if not all(path.parent == folder for path in pictures):
        return []
    masks_beside = {mask for mask in _beside(pictures) if mask is not None and looks_like_mask(mask)}
    return [path for path in pictures if path not in masks_beside]


def _beside(pictures: Iterable[Path]) -> list[Path | None]:
    return find_masks([(picture, Path(picture.name)) for picture in pictures], None)
