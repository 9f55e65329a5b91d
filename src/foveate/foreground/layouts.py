"""Layouts of mask files: the paths of masks in relation to the paths of pictures.

A rule gives the base folder of the masks (`root`, `root/mask`, `root/masks`), the part of the picture's
path that they repeat, and the change of the file name.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from foveate.foreground.opening import PICTURE_SUFFIXES
from foveate.foreground.values import MASK_ARRAYS

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
Pictures = Sequence[tuple[Path, Path]]
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
