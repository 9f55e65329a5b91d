"""Reads folders with one subfolder for each class, optional split folders, and masks."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.data.listing import list_pictures, pictures_in, tell_unread
from foveate.data.naming import (
    are_wordnet,
    clean_names,
    imagenet_names,
    in_order,
    read_class_names,
    split_of_folder,
)
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError
from foveate.foreground.layouts import MASK_FOLDERS, is_folder
from foveate.foreground.masks import find_masks, looks_like_mask
from foveate.foreground.opening import PICTURE_SUFFIXES

PICTURE_FOLDERS = ("images", "image", "imgs", "photos", "pictures")
_LOOKED_AT = 8
_DEEPEST = 2  # maximum number of extra folder levels


@dataclass(frozen=True)
class _ClassFolder:
    """A folder with pictures of one class, and its split."""

    path: Path
    name: str
    split: str | None = None


def read_folder(root: Path, masks: Path | None = None) -> tuple[Photos, Path, Path | None]:
    """Read a folder that has one subfolder for each class.

    Split folders have common names ("train", "seg_test", "Validation set"). Folders beside them are left
    out with a warning. If one folder contains all the others, the search continues in it.

    Args:
        root: Folder of the class folders, of the split folders, or of one folder that contains them.
        masks: The folder of masks, if it is known; it is not a class.

    Returns:
        The photos (with masks that lie beside pictures), the folder their paths are relative to, and the
        mask tree in `root`, if there is one.

    Raises:
        InputError: There is no picture, a class has no pictures, two classes have one name, splits have
            no class folders, or folders could be classes or splits.
    """
    top, folders, tree = _top(root, masks)
    listed = _listed(folders, top)
    photos = _photos(root, top, listed)
    return (photos, top, tree) if tree or masks else (_with_masks_beside(photos), top, None)


def _top(root: Path, masks: Path | None, depth: int = 0) -> tuple[Path, list[Path], Path | None]:
    """Return the folder that contains the class or split folders, these folders, and its mask tree."""
    folders = [one for one in _folders(root) if masks is None or not masks.is_relative_to(one)]
    tree = next((one for one in folders if _is_mask_tree(one, folders, root)), None)
    folders = [one for one in folders if one != tree]
    if len(folders) != 1 or depth == _DEEPEST or not _nested(folders[0]):
        return root, folders, tree
    inner, usual = folders[0], folders[0].name.lower() in PICTURE_FOLDERS
    if split_of_folder(inner.name) or (_files(inner) and not usual):
        return root, folders, tree
    if not usual:
        warnings.warn(
            f"{root} holds one folder alone, {inner.name}: its folders are taken for the classes",
            stacklevel=4,
        )
    top, folders, own = _top(inner, masks, depth + 1)
    return top, folders, tree or own


def _listed(folders: Sequence[Path], root: Path) -> list[_ClassFolder]:
    """Distinguish class folders from split folders."""
    splits = {folder: split for folder in folders if (split := split_of_folder(folder.name))}
    inner = {folder: _nested(folder) for folder in folders}
    full = [folder for folder in splits if inner[folder]]
    shared = _shared(inner)
    alone = len(full) == 1 and len(folders) > 1 and any(inner[one] for one in folders if one not in splits)
    if full and not (alone and full[0] not in shared):
        return _of_splits(folders, splits, inner, root)
    if splits and len(splits) == len(folders):
        names = " and ".join(folder.name for folder in splits)
        raise InputError(
            f"{root}: {names} hold pictures and no class folders; put them in one folder per class, as"
            f" {folders[0].name}/cat/01.jpg, or give a list of pictures and labels (.csv)"
        )
    of_class = {folder: {split_of_folder(one.name) for one in inside} for folder, inside in inner.items()}
    if all(found and None not in found for found in of_class.values()) and folders:
        below = [(folder, one) for folder in folders for one in inner[folder]]
        return _by_split([_ClassFolder(one, folder.name, split_of_folder(one.name)) for folder, one in below])
    if shared:
        one, other = shared[:2]
        both = sorted({p.name for p in inner[one]} & {p.name for p in inner[other]})
        warnings.warn(
            f"{root}: {one.name} and {other.name} are taken for classes, though both hold"
            f" {' and '.join(both[:2])}: if they are splits, call them train, val and test",
            stacklevel=4,
        )
    for folder in splits:
        beside = _few([p.name for p in folders if p != folder])
        warnings.warn(
            f"{folder} is taken for a class, for beside it are {beside}: if it is a split, put class folders"
            " into it",
            stacklevel=4,
        )
    return [_ClassFolder(folder, folder.name) for folder in folders]


def _of_splits(
    folders: Sequence[Path], splits: Mapping[Path, str], inner: Mapping[Path, Sequence[Path]], root: Path
) -> list[_ClassFolder]:
    left_out = [folder for folder in folders if folder not in splits or not inner[folder]]
    loose = [folder for folder in splits if inner[folder] and _files(folder)]
    if left_out or loose:
        why = "it has no class folders" if left_out and left_out[0] in splits else "no train, val or test"
        told = [f"{left_out[0].name} ({why})", *(folder.name for folder in left_out[1:])] if left_out else []
        told += [f"pictures in {folder.name} that are in no class folder" for folder in loose]
        warnings.warn(f"{root}: left out: {_few(told)}", stacklevel=5)
    return _by_split(
        [
            _ClassFolder(one, one.name, split)
            for folder, split in splits.items()
            if inner[folder]
            for one in _folders(folder)
        ]
    )


def _by_split(listed: list[_ClassFolder]) -> list[_ClassFolder]:
    return sorted(listed, key=lambda one: ("train", "val", "test").index(one.split or "train"))


def _shared(inner: Mapping[Path, Sequence[Path]]) -> list[Path]:
    """Return the folders that contain two folders with the same names."""
    names = {folder: {one.name for one in inside} for folder, inside in inner.items() if inside}
    for folder, own in names.items():
        alike = [one for one, other in names.items() if len(own & other) >= 2]
        if len(alike) > 1:
            return sorted(alike, key=lambda one: one != folder)
    return []


def _nested(folder: Path) -> list[Path]:
    """Return the subfolders that hold pictures."""
    return [one for one in _folders(folder) if any(True for _ in pictures_in(one))]


def class_folders(folder: Path) -> list[Path]:
    """Return the subfolders that hold pictures, after descending through a single common folder."""
    inside = _nested(folder)
    return class_folders(inside[0]) if len(inside) == 1 and _nested(inside[0]) else inside


def _files(folder: Path) -> list[Path]:
    """Return the pictures directly in a folder."""
    return [one for one in folder.iterdir() if one.suffix.lower() in PICTURE_SUFFIXES and one.is_file()]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _folders(root: Path) -> list[Path]:
    hidden = (".", "__")  # `__MACOSX` is part of archives from macOS
    with os.scandir(root) as entries:
        names = sorted(one.name for one in entries if not one.name.startswith(hidden) and is_folder(one))
    return [root / name for name in names]


def _is_mask_tree(folder: Path, folders: Sequence[Path], root: Path) -> bool:
    """Whether a folder named like masks holds the masks of the others, and not photos of masks."""
    if folder.name.lower() not in MASK_FOLDERS:
        return False
    inside = list_pictures(folder)
    if not inside or not _look_like_masks(inside):
        return False
    beside = [one for one in folders if one != folder]
    alike = not _nested(folder) and not any(_nested(one) for one in beside)  # like class folders
    if alike and len(beside) == 1:  # without it, only one class would be left
        return False
    others = [p for one in beside for p in list_pictures(one)]
    try:
        claimed = find_masks([(p, p.relative_to(root)) for p in others], folder)
    except InputError:  # one mask fits several pictures
        if alike:
            return False
        raise
    return sum(mask is not None for mask in claimed) >= len(inside) / 2


def _look_like_masks(files: Sequence[Path]) -> bool:
    looked = files[:: max(1, len(files) // _LOOKED_AT)][:_LOOKED_AT]
    return sum(looks_like_mask(file) for file in looked) > len(looked) / 2


def _photos(root: Path, top: Path, listed: Sequence[_ClassFolder]) -> Photos:
    pictures = {folder.path: list_pictures(folder.path) for folder in listed}
    tell_unread(pictures)
    if not any(pictures.values()):
        raise InputError(
            f"{root}: no pictures found; put them in one folder per class, as {root.name}/cat/01.jpg "
            f"(read are {', '.join(sorted(PICTURE_SUFFIXES))})"
        )
    for folder, own in pictures.items():
        if not own:
            raise InputError(f"{folder}: this class folder has no pictures; add some or remove the folder")
    origins = in_order({folder.name for folder in listed})
    given = _given_names(top, origins)
    names = clean_names({origin: given.get(origin, origin) for origin in origins}, str(root))
    label = {origin: row for row, origin in enumerate(origins)}
    samples = [
        Sample(picture, label[folder.name], None, folder.split)
        for folder in listed
        for picture in pictures[folder.path]
    ]
    return Photos(names, tuple(samples))


def _given_names(root: Path, origins: Sequence[str]) -> Mapping[str, str]:
    """Return names from `classnames.txt` in this folder or a parent, else CLIP's names of WordNet ids."""
    for place in (root, root.parent, root.parent.parent):
        file = place / "classnames.txt"
        given = read_class_names(file, origins) if file.is_file() else {}
        without = [origin for origin in origins if origin not in given]
        if given or (place == root and file.is_file()):
            if without:
                warnings.warn(
                    f"{file} has no name for {len(without)} of {len(origins)} class folders, first"
                    f" {without[0]!r}: write a line of it, the folder, a space and the name",
                    stacklevel=5,
                )
            return given
    if are_wordnet(origins):
        warnings.warn(
            f"{root}: its folders are WordNet ids: {origins[0]} is called {imagenet_names()[origins[0]]!r},"
            " and so on, as CLIP's list of ImageNet's names has it; classnames.txt can say otherwise",
            stacklevel=5,
        )
        return {origin: imagenet_names()[origin] for origin in origins}
    return {}


def _with_masks_beside(photos: Photos) -> Photos:
    """Use `x_mask.png` beside `x.jpg` as a mask and not as a picture, if such files look like masks."""
    paths = [sample.picture for sample in photos.samples if isinstance(sample.picture, Path)]
    beside = find_masks([(path, path) for path in paths], None)  # by their names alone
    masks = {path: mask for path, mask in zip(paths, beside, strict=True) if mask is not None}
    if not masks or not _look_like_masks(sorted(masks.values())):
        return photos
    claimed = set(masks.values())
    samples = [
        Sample(path, sample.label, masks.get(path), sample.split)
        for path, sample in zip(paths, photos.samples, strict=True)
        if path not in claimed
    ]
    return photos.with_samples(samples)
