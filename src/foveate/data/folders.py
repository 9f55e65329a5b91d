"""A folder per class, with or without train, val and test above, and its masks."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from foveate.data.naming import SPLITS, clean_names
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError
from foveate.foreground.layouts import MASK_FOLDERS, walk
from foveate.foreground.masks import find_masks, looks_like_mask
from foveate.foreground.opening import PICTURE_SUFFIXES

PICTURE_FOLDERS = ("images", "image", "imgs", "photos", "pictures")
UNREAD_SUFFIXES = frozenset((".heic", ".heif", ".hif", ".dng", ".cr2", ".nef", ".arw"))
"""Of pictures as telephones and cameras write them, which Pillow does not read by itself."""
_LOOKED_AT = 8


def read_folder(root: Path, masks: Path | None = None) -> tuple[Photos, Path, Path | None]:
    """Read a folder per class.

    Args:
        root: The folder of class folders, or of split folders, or of one folder `images` that has them.
        masks: The folder of masks, if the caller knows: it is no class.

    Returns:
        The photos (masks beside pictures attached), the folder their paths are relative to, and the mask tree
        found in `root`, if any.

    Raises:
        InputError: No picture, a class without pictures, or two classes of one name.
    """
    folders = [one for one in _folders(root) if masks is None or not masks.is_relative_to(one)]
    tree = next((one for one in folders if _is_mask_tree(one, folders, root)), None)
    folders = [one for one in folders if one != tree]
    top = root
    if len(folders) == 1 and folders[0].name.lower() in PICTURE_FOLDERS and _folders(folders[0]):
        top = folders[0]
        folders = _folders(top)
    by_split = {folder: _folders(folder) for folder in folders}
    if folders and all(f.name.lower() in SPLITS and inside for f, inside in by_split.items()):
        listed = [(SPLITS[f.name.lower()], one) for f, inside in by_split.items() for one in inside]
        listed.sort(key=lambda pair: ("train", "val", "test").index(pair[0]))
    else:
        listed = [(None, folder) for folder in folders]
    photos = _photos(root, listed)
    return (photos, top, tree) if tree or masks else (_with_masks_beside(photos), top, None)


def list_pictures(folder: Path) -> list[Path]:
    """Every picture in a folder and below, sorted; hidden files and other kinds of files are passed over."""
    return sorted(path for path in walk(folder) if path.suffix.lower() in PICTURE_SUFFIXES)


def tell_unread(folders: Iterable[Path]) -> None:
    """Warn of pictures in folders that are of a kind that is not read, lest they are missed in silence."""
    files = (file for folder in folders for file in walk(folder))
    unread = sorted(file for file in files if file.suffix.lower() in UNREAD_SUFFIXES)
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        warnings.warn(
            f"{unread[0]}{more} left out: {unread[0].suffix} files are not read; convert them to JPEG or PNG",
            stacklevel=2,
        )


def _folders(root: Path) -> list[Path]:
    hidden = (".", "__")  # `__MACOSX` comes with archives from a Mac
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(hidden))


def _is_mask_tree(folder: Path, folders: Sequence[Path], root: Path) -> bool:
    """Whether a folder called masks holds the others' masks, rather than photos of masks."""
    if folder.name.lower() not in MASK_FOLDERS:
        return False
    inside = list_pictures(folder)
    if not inside or not _look_like_masks(inside):
        return False
    others = [p for one in folders if one != folder for p in list_pictures(one)]
    claimed = find_masks([(p, p.relative_to(root)) for p in others], folder)
    return sum(mask is not None for mask in claimed) >= len(inside) / 2


def _look_like_masks(files: Sequence[Path]) -> bool:
    looked = files[:: max(1, len(files) // _LOOKED_AT)][:_LOOKED_AT]
    return sum(looks_like_mask(file) for file in looked) > len(looked) / 2


def _photos(root: Path, listed: Sequence[tuple[str | None, Path]]) -> Photos:
    pictures = {folder: list_pictures(folder) for _, folder in listed}
    if not any(pictures.values()):
        raise InputError(
            f"{root}: no pictures found; put them in one folder per class, as {root.name}/cat/01.jpg "
            f"(read are {', '.join(sorted(PICTURE_SUFFIXES))})"
        )
    for folder, own in pictures.items():
        if not own:
            raise InputError(f"{folder}: this class folder has no pictures; add some or remove the folder")
    tell_unread(pictures)
    given = _given_names(root)
    origins = sorted({folder.name for _, folder in listed})
    names = clean_names({origin: given.get(origin, origin) for origin in origins}, str(root))
    label = {origin: row for row, origin in enumerate(origins)}
    samples = [
        Sample(picture, label[folder.name], None, split)
        for split, folder in listed
        for picture in pictures[folder]
    ]
    return Photos(names, tuple(samples))


def _given_names(root: Path) -> dict[str, str]:
    """Names from `classnames.txt`, the field's list for ImageNet: a folder, a space, a name on each line."""
    for place in (root, root.parent):
        file = place / "classnames.txt"
        if file.is_file():
            lines = file.read_text(encoding="utf-8").splitlines()
            pairs = [line.strip().partition(" ") for line in lines if line.strip()]
            return {folder: name for folder, _, name in pairs}
    return {}


def _with_masks_beside(photos: Photos) -> Photos:
    """Take `x_mask.png` beside `x.jpg` for a mask and not for a picture, where such files look like masks."""
    paths = [sample.picture for sample in photos.samples if isinstance(sample.picture, Path)]
    beside = find_masks([(path, Path(path.name)) for path in paths], None)
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
