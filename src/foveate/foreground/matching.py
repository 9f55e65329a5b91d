"""Matches masks to pictures for a whole set at once.

foveate's own masks and COCO files name their pictures. For any other tree of files, every rule
(see below) is tried on every picture. The rule that finds most masks is used for all
pictures, because different rules for different pictures would hide a wrong guess.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Generic, Literal, TypeVar, overload

from foveate.errors import InputError
from foveate.foreground.annotations import BoxMask, CocoMask, coco_masks, read_boxes
from foveate.foreground.opening import PICTURE_SUFFIXES, LazyPicture, source_name
from foveate.foreground.records import StoredMask
from foveate.foreground.shards import is_packed
from foveate.foreground.store import stored_masks
from foveate.foreground.values import MASK_ARRAYS

Pictures = Sequence[tuple[Path, Path]]
MaskFile = Path | LazyPicture
M = TypeVar("M", bound=MaskFile)


@dataclass(frozen=True)
class Match(Generic[M]):
    """Result of the matching.

    Attributes:
        masks: Mask of each picture, or None.
        rule: The layout in words; empty if no mask was found.
        unused: Masks that match no picture, by their names in messages.
    """

    masks: list[M | None]
    rule: str
    unused: tuple[str, ...] = ()

    @property
    def found(self) -> int:
        """Number of pictures with a mask."""
        return sum(mask is not None for mask in self.masks)


@overload
def find_masks(pictures: Pictures, root: None) -> list[Path | None]: ...
@overload
def find_masks(pictures: Pictures, root: Path) -> list[MaskFile | None]: ...
def find_masks(pictures: Pictures, root: Path | None) -> Sequence[MaskFile | None]:
    """Return the mask of each picture, or None.

    Args:
        pictures: Absolute path of each picture, and its path relative to the root folder.
        root: The folder of masks, or the folder that contains `mask/` or `masks/`; a folder of packed
            masks or one shard (`.tar`); a COCO file (`.json`); boxes (`.csv`). None searches
            `x_mask.png` and `x.mask.png` beside each picture.

    Raises:
        InputError: Two pictures would share one mask, or `root` cannot hold masks.
    """
    return (_match_beside(pictures) if root is None else match_masks(pictures, root)).masks


def match_masks(pictures: Pictures, root: Path) -> Match[MaskFile]:
    """Return the masks as `find_masks` does, and their layout.

    Raises:
        InputError: As in `find_masks`.
    """
    if root.suffix.lower() in (".json", ".csv") and root.is_file():
        is_coco = root.suffix.lower() == ".json"
        words = f"COCO's file names, in {root}" if is_coco else f"the names in {root}"
        match = _match_names(pictures, coco_masks(root) if is_coco else read_boxes(root), words)
        pairs = zip(match.masks, pictures, strict=True)
        masks = [mask.on(path) if isinstance(mask, BoxMask | CocoMask) else mask for mask, (path, _) in pairs]
        return replace(match, masks=masks)
    if not root.is_dir() and not (root.is_file() and root.suffix.lower() == ".tar"):
        raise InputError(f"{root}: no such folder of masks; give the folder the mask files are in")
    for folder in [root, *(root / name for name in MASK_FOLDERS)]:
        stored = stored_masks(folder)
        if stored is not None:
            match = _match_names(pictures, stored, f"as foveate's own list in {folder} says")
            return _add_unlisted(pictures, folder, match, stored) if None in match.masks else match
    return _match_tree(pictures, root)


def demand_masks(path: Path) -> None:
    """Check that a path can hold masks, before anything is read.

    Raises:
        InputError: The path is neither a folder nor a file of masks.
    """
    if path.is_file() and path.suffix.lower() not in (".json", ".tar", ".csv"):
        raise InputError(
            f"{path} holds no masks: give their folder, a COCO file (.json), a shard (.tar), or boxes (.csv)"
        )
    if not path.exists():
        raise InputError(f"{path}: no such folder of masks; give the folder the mask files are in")


def _match_names(pictures: Pictures, named: Mapping[str, MaskFile], words: str) -> Match[MaskFile]:
    """Match masks that name their pictures: by the full relative path, or with more or fewer folders."""
    best: list[MaskFile | None] = [None] * len(pictures)
    best_count = 0
    for below_root, depth in depths(pictures):
        rule = Rule(Path(), depth, "same", below_root)
        masks = [named.get(rule.local(*picture).as_posix()) for picture in pictures]
        count = sum(mask is not None for mask in masks)
        if count > best_count:
            best, best_count = masks, count
    if not best_count:
        best, best_count = _match_path_ends(pictures, named)
    _demand_one_each(pictures, best)
    claimed = {id(mask) for mask in best}
    unused = tuple(source_name(mask) for mask in named.values() if id(mask) not in claimed)
    return Match(best, words if best_count else "", unused)


def _match_path_ends(pictures: Pictures, named: Mapping[str, MaskFile]) -> tuple[list[MaskFile | None], int]:
    """Match paths of another machine by their ends, as long as these are unique."""
    longest = max((len(relative.parts) for _, relative in pictures), default=0)
    for length in range(longest, 0, -1):
        ends = {tuple(name.split("/")[-length:]): mask for name, mask in named.items()}
        masks = [ends.get(path.parts[-length:]) for path, _ in pictures]
        count = sum(mask is not None for mask in masks)
        if count and len(ends) == len(named):
            return masks, count
    return [None] * len(pictures), 0


def _add_unlisted(
    pictures: Pictures, root: Path, match: Match[MaskFile], stored: Mapping[str, StoredMask]
) -> Match[MaskFile]:
    """Add masks that a user put into a foveate tree and that its manifest does not list."""
    if is_packed(root):
        return match
    listed = {root / mask.name for mask in stored.values()}
    rows = [row for row, mask in enumerate(match.masks) if mask is None]
    masks = list(match.masks)
    for row, mask in zip(rows, _match_tree([pictures[row] for row in rows], root).masks, strict=True):
        masks[row] = None if mask in listed else mask
    return Match(masks, match.rule, match.unused)


def _match_beside(pictures: Pictures) -> Match[Path]:
    namings: tuple[Naming, ...] = ("_mask", ".mask")
    candidates = [beside(pictures, naming) for naming in namings]
    best = max(candidates, key=lambda masks: sum(mask is not None for mask in masks))
    _demand_one_each(pictures, best)
    return Match(best, "beside the pictures")


def _match_tree(pictures: Pictures, root: Path) -> Match[MaskFile]:
    best: list[Path | None] = [None] * len(pictures)
    words, index, best_count = "", Index(), 0
    for rule, candidates in rules(pictures, root):
        masks = [look_up(rule, candidates, *picture) for picture in pictures]
        count = sum(mask is not None for mask in masks)
        if count > best_count:
            best, words, index, best_count = masks, rule.words(), candidates, count
    _demand_one_each(pictures, best)
    claimed = {*best, *(picture for picture, _ in pictures)}
    unused = tuple(str(path) for path in index.values() if path not in claimed)
    return Match([*best], words, unused)


def _demand_one_each(pictures: Pictures, masks: Sequence[MaskFile | None]) -> None:
    owner: dict[MaskFile, Path] = {}
    for (picture, _), mask in zip(pictures, masks, strict=True):
        if mask is None:
            continue
        if mask in owner:
            raise InputError(
                f"{source_name(mask)} would be the mask of both {owner[mask]} and {picture}; "
                f"lay the masks out in the same folders as the pictures"
            )
        owner[mask] = picture


# Layouts of mask files: the paths of masks in relation to the paths of pictures.
#
# A rule gives the base folder of the masks (`root`, `root/mask`, `root/masks`), the part of the picture's
# path that they repeat, and the change of the file name.


# Lossless first: if one stem has several files, the first of these is used.
MASK_SUFFIXES = (
    ".png",
    ".npy",
    ".npz",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".webp",
    ".pgm",
    ".pbm",
    ".jpg",
    ".jpeg",
)
MASK_FOLDERS = ("mask", "masks")
_INNER_FOLDERS = 3  # maximum number of folders above the pictures that a mask tree repeats

Naming = Literal["same", "appended", "_mask", ".mask"]
Index = dict[str, Path]  # "cat/01.png", suffix in lower case -> the file


@dataclass(frozen=True)
class Rule:
    """Maps a picture's path to its mask's path.

    Attributes:
        base: Folder of the masks.
        depth: Number of trailing parts of the picture's absolute path that are repeated below `base`.
        naming: `same` is 01.jpg -> 01.jpg or 01.png; `appended` is 01.jpg.png; the others are
            01_mask.png and 01.mask.png.
        below_root: Whether `depth` is added to the length of the picture's path relative to the root folder.
    """

    base: Path
    depth: int
    naming: Naming
    below_root: bool = False

    def local(self, picture: Path, relative: Path) -> PurePosixPath:
        """Return the repeated part of the picture's path."""
        return PurePosixPath(*picture.parts[-(self.depth + self.below_root * len(relative.parts)) :])

    def words(self) -> str:
        """Return a description of the rule."""
        relative = f"with {self.depth} folders above the pictures" if self.depth else "as the pictures lie"
        absolute = "flat" if self.depth == 1 else f"by the last {self.depth} parts of the pictures' paths"
        endings = {"same": "", "appended": ", 01.jpg.png for 01.jpg"}
        ending = endings.get(self.naming, f", 01{self.naming}.png for 01.jpg")
        return f"{relative if self.below_root else absolute}, in {self.base}{ending}"


def depths(pictures: Pictures) -> Iterator[tuple[bool, int]]:
    """Yield the parts of a picture's path that masks may repeat, the most likely first; the first match wins.

    Each item is whether the path relative to the root folder counts, and the number of (additional)
    parts.
    """
    longest = max((len(rel.parts) for _, rel in pictures), default=1)
    yield True, 0
    yield from ((True, extra) for extra in range(_INNER_FOLDERS, 0, -1))
    yield from ((False, parts) for parts in range(longest - 1, 0, -1))


def rules(pictures: Pictures, root: Path) -> Iterator[tuple[Rule, Index]]:
    """Yield all rules to try, the most likely first; the first match wins."""
    namings: tuple[Naming, ...] = ("same", "appended", "_mask", ".mask")
    for base in (root, *(root / name for name in MASK_FOLDERS)):
        index = _index(base) if base.is_dir() else {}
        if index:
            for below_root, depth in depths(pictures):
                yield from ((Rule(base, depth, naming, below_root), index) for naming in namings)


def walk(folder: Path, accepts: Callable[[str], bool] | None = None) -> Iterator[Path]:
    """Yield the files in a folder tree that are not hidden, sorted; follow links, visit each folder once.

    Pipes and devices are left out. A broken link is yielded, so that reading it gives the error.

    Args:
        folder: Top of the tree.
        accepts: Returns whether to take files with this suffix (lower case); None takes all files.
    """
    visited: set[str] = set()  # without it, a link to a parent folder would recurse forever

    def below(directory: Path) -> Iterator[Path]:
        real_path = os.path.realpath(directory)
        if real_path in visited:
            return
        visited.add(real_path)
        with os.scandir(directory) as entries:
            listing = sorted(
                (entry.name, is_folder(entry), entry) for entry in entries if entry.name[0] != "."
            )
        for name, is_directory, entry in listing:
            if is_directory:
                yield from below(directory / name)
            elif (accepts is None or accepts(suffix_of(name))) and (
                entry.is_file() or not Path(entry).exists()
            ):
                yield directory / name

    return below(folder)


def folders_in(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, and of links to folders, that are not hidden."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name[0] != "." and is_folder(entry))


def files_in(folder: Path) -> list[str]:
    """Return the sorted names of the files in a folder, and of links to files; hidden ones too."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_file())


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one; only links need a further system call."""
    return Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()


def suffix_of(name: str) -> str:
    """Return the ending of a file's name in lower case, as `Path.suffix` finds it."""
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def _index(base: Path) -> Index:
    allowed = PICTURE_SUFFIXES.union(MASK_ARRAYS)
    return {
        path.relative_to(base).with_suffix(path.suffix.lower()).as_posix(): path
        for path in walk(base, allowed.__contains__)
    }


def look_up(rule: Rule, index: Index, picture: Path, relative: Path) -> Path | None:
    """Return the picture's mask according to a rule."""
    local = rule.local(picture, relative)
    for candidate in _candidates(local, rule.naming):
        mask = index.get(candidate)
        if mask is not None and mask != picture:
            return mask
    return None


def _candidates(local: PurePosixPath, naming: Naming) -> Iterator[str]:
    folder = "" if local.parent == PurePosixPath(".") else f"{local.parent}/"
    if naming == "same":
        yield f"{folder}{local.stem}{local.suffix.lower()}"
    stem = {"same": local.stem, "appended": local.name}.get(naming, f"{local.stem}{naming}")
    yield from (f"{folder}{stem}{suffix}" for suffix in MASK_SUFFIXES)


def beside(pictures: Pictures, naming: Naming) -> list[Path | None]:
    """Return the masks that lie beside their pictures, for one naming, such as `01_mask.png`."""
    folders: dict[str, Index] = {}
    masks: list[Path | None] = []
    for picture, relative in pictures:
        folder, _, _ = str(picture).rpartition("/")
        if folder not in folders:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries)
            paths = (Path(folder, name) for name in names if naming in name)  # few folders have any
            folders[folder] = {
                f"{path.stem}{path.suffix.lower()}": path for path in paths if path.stem.endswith(naming)
            }
        index = folders[folder]
        masks.append(look_up(Rule(Path(folder), 1, naming), index, picture, relative) if index else None)
    return masks
