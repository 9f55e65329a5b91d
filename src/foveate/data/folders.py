"""Reads folders with one subfolder for each class, optional split folders, and masks."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
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
from foveate.foreground.matching import MASK_FOLDERS, files_in, find_masks, folders_in, suffix_of
from foveate.foreground.opening import PICTURE_SUFFIXES
from foveate.foreground.values import looks_like_mask

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
            no class folders, or a mask fits several pictures.
    """
    top, folders, tree = _top(root, masks)
    listed = _listed(folders, top)
    photos = _photos(root, top, listed)
    return (photos, top, tree) if tree or masks else (_with_masks_beside(photos), top, None)


def _top(root: Path, masks: Path | None, depth: int = 0) -> tuple[Path, list[Path], Path | None]:
    """Return the folder that contains the class or split folders, these folders, and its mask tree."""
    folders = [folder for folder in _folders(root) if masks is None or not masks.is_relative_to(folder)]
    tree = next((folder for folder in folders if _is_mask_tree(folder, folders, root)), None)
    folders = [folder for folder in folders if folder != tree]
    if len(folders) != 1 or depth == _DEEPEST or not _filled(folders[0]):
        return root, folders, tree
    inner, has_usual_name = folders[0], folders[0].name.lower() in PICTURE_FOLDERS
    if split_of_folder(inner.name) or (_has_pictures(inner) and not has_usual_name):
        return root, folders, tree
    if not has_usual_name:
        warnings.warn(
            f"{root} holds one folder alone, {inner.name}: its folders are taken for the classes",
            stacklevel=4,
        )
    top, folders, inner_tree = _top(inner, masks, depth + 1)
    return top, folders, tree or inner_tree


def _listed(folders: Sequence[Path], root: Path) -> list[_ClassFolder]:
    """Distinguish class folders from split folders."""
    splits = {folder: split for folder in folders if (split := split_of_folder(folder.name))}
    inner = {folder: _filled(folder) for folder in folders}
    full = [folder for folder in splits if inner[folder]]
    shared = _shared(inner)
    siblings_full = any(inner[folder] for folder in folders if folder not in splits)
    lone_class = len(full) == 1 and full[0] not in shared and siblings_full  # a class called "test"
    if full and not lone_class:
        return _split_class_folders(folders, splits, inner, root)
    if splits and len(splits) == len(folders):
        names = " and ".join(folder.name for folder in splits)
        raise InputError(
            f"{root}: {names} hold pictures and no class folders; put them in one folder per class, as"
            f" {folders[0].name}/cat/01.jpg, or give a list of pictures and labels (.csv)"
        )
    listed = [_ClassFolder(sub, f.name, split_of_folder(sub.name)) for f in folders for sub in inner[f]]
    if folders and all(inner.values()) and all(folder.split for folder in listed):  # class/train
        return _by_split(listed)
    _warn_of_splits(folders, splits, inner, shared, root)
    return [_ClassFolder(folder, folder.name) for folder in folders]


def _warn_of_splits(
    folders: Sequence[Path],
    splits: Iterable[Path],
    inner: Mapping[Path, Sequence[Path]],
    shared: Sequence[Path],
    root: Path,
) -> None:
    """Warn about class folders that may be splits, because of their names or of equal folders in them."""
    if shared:
        first, second = shared[:2]
        common = sorted({p.name for p in inner[first]} & {p.name for p in inner[second]})
        warnings.warn(
            f"{root}: {first.name} and {second.name} are taken for classes, though both hold"
            f" {' and '.join(common[:2])}: if they are splits, call them train, val and test",
            stacklevel=5,
        )
    for folder in splits:
        others = _few([p.name for p in folders if p != folder])
        warnings.warn(
            f"{folder} is taken for a class, for beside it are {others}: if it is a split, put class folders"
            " into it",
            stacklevel=5,
        )


def _split_class_folders(
    folders: Sequence[Path], splits: Mapping[Path, str], inner: Mapping[Path, Sequence[Path]], root: Path
) -> list[_ClassFolder]:
    left_out = [folder for folder in folders if folder not in splits or not inner[folder]]
    loose = [folder for folder in splits if inner[folder] and _has_pictures(folder)]
    if left_out or loose:
        why = "it has no class folders" if left_out and left_out[0] in splits else "no train, val or test"
        skipped = (
            [f"{left_out[0].name} ({why})", *(folder.name for folder in left_out[1:])] if left_out else []
        )
        skipped += [f"pictures in {folder.name} that are in no class folder" for folder in loose]
        warnings.warn(f"{root}: left out: {_few(skipped)}", stacklevel=5)
    return _by_split(
        [
            _ClassFolder(class_folder, class_folder.name, split)
            for folder, split in splits.items()
            if inner[folder]
            for class_folder in _folders(folder)
        ]
    )


def _by_split(listed: list[_ClassFolder]) -> list[_ClassFolder]:
    return sorted(listed, key=lambda folder: ("train", "val", "test").index(folder.split or "train"))


def _shared(inner: Mapping[Path, Sequence[Path]]) -> list[Path]:
    """Return folders that have at least two subfolder names in common; empty if there are none."""
    names = {folder: {sub.name for sub in children} for folder, children in inner.items() if children}
    for folder, own_names in names.items():
        alike = [other for other, other_names in names.items() if len(own_names & other_names) >= 2]
        if len(alike) > 1:
            return sorted(alike, key=lambda other: other != folder)
    return []


def _filled(folder: Path) -> list[Path]:
    """Return the subfolders that hold pictures."""
    return [subfolder for subfolder in _folders(folder) if any(True for _ in pictures_in(subfolder))]


def class_folders(folder: Path) -> list[Path]:
    """Return the subfolders that hold pictures, after descending through a single common folder."""
    filled = _filled(folder)
    return class_folders(filled[0]) if len(filled) == 1 and _filled(filled[0]) else filled


def _has_pictures(folder: Path) -> bool:
    """Return whether pictures are directly in a folder."""
    return any(suffix_of(name) in PICTURE_SUFFIXES for name in files_in(folder))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _folders(root: Path) -> list[Path]:
    return [root / name for name in folders_in(root) if not name.startswith("__")]  # as __MACOSX in archives


def _is_mask_tree(folder: Path, folders: Sequence[Path], root: Path) -> bool:
    """Whether a folder named "mask" or "masks" has masks for the other folders, and is not a class."""
    if folder.name.lower() not in MASK_FOLDERS:
        return False
    mask_files = list_pictures(folder)
    if not mask_files or not _look_like_masks(mask_files):
        return False
    siblings = [sibling for sibling in folders if sibling != folder]
    flat = not _filled(folder) and not any(_filled(sibling) for sibling in siblings)  # like class folders
    if flat and len(siblings) == 1:  # as a mask tree, it would leave one class
        return False
    pictures = [p for sibling in siblings for p in list_pictures(sibling)]
    try:
        masks = find_masks([(p, p.relative_to(root)) for p in pictures], folder)
    except InputError:  # one mask fits several pictures
        if flat:
            return False
        raise
    return sum(mask is not None for mask in masks) >= len(mask_files) / 2


def _look_like_masks(files: Sequence[Path]) -> bool:
    sampled = files[:: max(1, len(files) // _LOOKED_AT)][:_LOOKED_AT]
    return sum(looks_like_mask(file) for file in sampled) > len(sampled) / 2


def _photos(root: Path, top: Path, listed: Sequence[_ClassFolder]) -> Photos:
    pictures = {folder.path: list_pictures(folder.path) for folder in listed}
    tell_unread(pictures)
    if not any(pictures.values()):
        raise InputError(
            f"{root}: no pictures found; put them in one folder per class, as {root.name}/cat/01.jpg "
            f"(read are {', '.join(sorted(PICTURE_SUFFIXES))})"
        )
    for folder, files in pictures.items():
        if not files:
            raise InputError(f"{folder}: this class folder has no pictures; add some or remove the folder")
    origins = in_order({folder.name for folder in listed})
    listed_names = _given_names(top, origins)
    names = clean_names({origin: listed_names.get(origin, origin) for origin in origins}, str(root))
    label_of = {origin: row for row, origin in enumerate(origins)}
    samples = [
        Sample(picture, label_of[folder.name], None, folder.split)
        for folder in listed
        for picture in pictures[folder.path]
    ]
    return Photos(names, tuple(samples))


def _given_names(root: Path, origins: Sequence[str]) -> Mapping[str, str]:
    """Return names from `classnames.txt` in this folder or a parent, else CLIP's names of WordNet ids."""
    for folder in (root, root.parent, root.parent.parent):
        file = folder / "classnames.txt"
        names = read_class_names(file, origins) if file.is_file() else {}
        unnamed = [origin for origin in origins if origin not in names]
        if names or (folder == root and file.is_file()):
            if unnamed:
                warnings.warn(
                    f"{file} has no name for {len(unnamed)} of {len(origins)} class folders, first"
                    f" {unnamed[0]!r}: write a line of it, the folder, a space and the name",
                    stacklevel=5,
                )
            return names
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
    matches = find_masks([(path, path) for path in paths], None)  # by their names alone
    masks = {path: mask for path, mask in zip(paths, matches, strict=True) if mask is not None}
    if not masks or not _look_like_masks(sorted(masks.values())):
        return photos
    mask_files = set(masks.values())
    samples = [
        Sample(path, sample.label, masks.get(path), sample.split)
        for path, sample in zip(paths, photos.samples, strict=True)
        if path not in mask_files
    ]
    return photos.with_samples(samples)
