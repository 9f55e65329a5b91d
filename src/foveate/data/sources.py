"""Loads labelled photos from folders, lists, split files and datasets."""

import codecs
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from foveate.data.folders import class_folders, read_folder
from foveate.data.hub import HubRows, load_from_hub, read_rows
from foveate.data.samples import Photos, as_pictures
from foveate.data.tables import TABLES, find_split_file, has_labels, read_split_file, read_table
from foveate.errors import InputError
from foveate.files import home_of
from foveate.foreground.layouts import MASK_FOLDERS
from foveate.foreground.matching import demand_masks, find_masks
from foveate.foreground.options import MaskValues
from foveate.foreground.values import detect_values

HUB = "hf:"
Source = str | Path | Photos | HubRows | Mapping[str, HubRows]


def load_photos(
    source: Source,
    *,
    masks: str | Path | None = None,
    images: str | Path | None = None,
    mask_values: MaskValues = "auto",
    invert_masks: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Photos:
    """Read a labelled set of pictures.

    Args:
        source: A folder with one subfolder for each class; a folder with one split file; a `.csv`,
            `.tsv` or `.jsonl` list; a `split_zhou_*.json`; a Hugging Face dataset or a mapping of splits
            to datasets; "hf:owner/name"; or photos that are loaded already.
        masks: The folder of masks or of packed masks; one shard of packed masks (`.tar`); a COCO file
            (`.json`); boxes (`.csv`). None searches the usual places of the source.
        images: Base folder of relative paths in a list or split file.
        mask_values: Meaning of the values in masks; "auto" infers it from some of them.
        invert_masks: Whether masks mark the background.
        columns: The source's own column names, e.g. `{"image": "img", "label": "fine_label"}`.

    Returns:
        The photos. If any photo has a mask, `mask_values` is not "auto".

    Raises:
        InputError: The source is unusable; the message is one line.
    """
    tree = None if masks is None else full_path(masks)
    if tree is not None:
        demand_masks(tree)
    pictures = None if images is None else full_path(images)
    photos, top, found_tree = _read(source, tree, pictures, columns)
    if tree is not None:
        photos = _attach(photos, top, tree, required=True)
    elif found_tree is not None:
        photos = _attach(photos, top, found_tree, required=False)
    photos = replace(photos, mask_values=_values(photos, mask_values))
    return replace(photos, invert_masks=invert_masks or photos.invert_masks)


def with_masks(photos: Photos, masks: Any) -> Photos:
    """Return pictures with masks; a picture without a matching mask keeps its own, if it has one.

    Args:
        photos: The pictures.
        masks: Masks on disk, as for `load_photos`; or one mask for each picture, as for `as_pictures`.

    Raises:
        InputError: No mask on disk matches a picture, or there are more or fewer masks than pictures.
    """
    if isinstance(masks, str | os.PathLike):
        return load_photos(photos, masks=cast("str | Path", masks))
    mask_sources = as_pictures(masks)
    if len(mask_sources) != len(photos):
        raise InputError(
            f"there are {len(photos)} pictures and {len(mask_sources)} masks: give one mask a picture"
        )
    samples = [replace(sample, mask=mask) for sample, mask in zip(photos.samples, mask_sources, strict=True)]
    return replace(photos.with_samples(samples), mask_values=detect_values(mask_sources))


def _read(
    source: Source, masks: Path | None, images: Path | None, columns: Mapping[str, str] | None
) -> tuple[Photos, Path | None, Path | None]:
    """Return the photos, the folder their paths are relative to, and the mask tree next to them."""
    if isinstance(source, Photos):
        return source, None, None
    if isinstance(source, str | os.PathLike):
        if str(source).startswith(HUB):
            return read_rows(load_from_hub(str(source).removeprefix(HUB)), columns), None, None
        return _read_path(full_path(source), masks, images, columns)
    if isinstance(source, HubRows) or (isinstance(source, Mapping) and source):
        return read_rows(source, columns), None, None
    raise InputError(
        f"the data is of type {type(source).__name__}: give a folder, a list, pictures with a"
        " list of their labels, a Hugging Face dataset, or a mapping of splits to such"
    )


def _read_path(
    path: Path, masks: Path | None, images: Path | None, columns: Mapping[str, str] | None
) -> tuple[Photos, Path | None, Path | None]:
    try:
        if path.is_dir():
            return _read_dir(path, masks, images, columns)
        is_file, exists = path.is_file(), path.exists()
    except OSError as error:  # a name that no file can have
        raise InputError(f"{path}: {error.strerror}") from error
    if not is_file:
        raise InputError(f"{path}: {'is a pipe or a device' if exists else 'no such file or folder'}")
    is_json = path.suffix.lower() == ".json"
    if path.suffix.lower() in TABLES or (is_json and _holds_a_list(path)):
        return read_table(path, images, columns), images or path.parent, None
    if is_json:
        return _read_split(path, images)
    formats = ", ".join((*TABLES, ".json"))
    raise InputError(f"{path}: not a list we read; give a folder per class, or a file ending in {formats}")


def _holds_a_list(path: Path) -> bool:
    """Return whether a JSON file begins as a list, without parsing it: split files of large sets are long."""
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    except OSError:  # the reader reports it
        return False


def _read_dir(
    path: Path, masks: Path | None, images: Path | None, columns: Mapping[str, str] | None
) -> tuple[Photos, Path | None, Path | None]:
    """Read a folder: by its split file, or, if it has no class folders, by its single list of labels."""
    split_file = find_split_file(path)
    if split_file is not None:
        return _read_split(split_file, images)
    if len(class_folders(path)) < 2:
        lists = [p for p in sorted(path.iterdir()) if p.suffix.lower() in TABLES and has_labels(p)]
        if len(lists) == 1:
            warnings.warn(f"{path} has no class folders: its list {lists[0].name} is read", stacklevel=4)
            return read_table(lists[0], images, columns), images or path, None
    return read_folder(path, masks)


def _read_split(path: Path, images: Path | None) -> tuple[Photos, Path, Path | None]:
    """Read a split file; search masks beside it, beside its pictures and, as in FVG-PT, one folder up."""
    photos, top = read_split_file(path, images)
    for folder in dict.fromkeys((path.parent, top.parent, path.parent.parent)):
        for name in MASK_FOLDERS:
            if (folder / name).is_dir() and (folder / name) != top:
                return photos, top, folder / name
    return photos, top, None


def _attach(photos: Photos, top: Path | None, tree: Path, *, required: bool) -> Photos:
    """Attach masks from a tree to all pictures that are files."""
    paths = [sample.picture for sample in photos.samples if isinstance(sample.picture, Path)]
    if not paths:
        raise InputError(
            f"{tree}: these pictures are no files, so no mask file can be matched to them by name"
        )
    if top is None or not all(path.is_relative_to(top) for path in paths):
        top = Path(os.path.commonpath([path.parent for path in paths]))
    masks = find_masks([(path, path.relative_to(top)) for path in paths], tree)
    if required and not any(masks):
        name = paths[0].relative_to(top)
        example = (tree / name).with_suffix(".png") if tree.is_dir() else name
        raise InputError(f"{tree}: no mask in it matches a picture; expected, for instance, {example}")
    by_path = dict(zip(paths, masks, strict=True))
    samples = [
        replace(sample, mask=by_path[sample.picture] or sample.mask)
        if isinstance(sample.picture, Path)
        else sample
        for sample in photos.samples
    ]
    return photos.with_samples(samples)


def _values(photos: Photos, requested: MaskValues) -> MaskValues:
    if requested != "auto" or photos.mask_values != "auto":
        return photos.mask_values if requested == "auto" else requested
    masks = [sample.mask for sample in photos.samples if sample.mask is not None]
    return detect_values(masks) if masks else "auto"


def full_path(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path without `~` and `..`; links stay, because their names may be classes.

    Raises:
        InputError: It is no path, or an empty one.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{path!r} is of type {type(path).__name__}: give a path")
    if not str(path).strip():
        raise InputError("an empty path was given: give a folder per class, or a list of pictures")
    return Path(os.path.normpath(home_of(path).absolute()))
