"""Layouts of mask files: the paths of masks in relation to the paths of pictures.

A rule gives the base folder of the masks (`root`, `root/mask`, `root/masks`), the part of the picture's
path that they repeat, and the change of the file name.
"""

from collections.abc import Iterator, Sequence
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
        own: Whether `depth` is added to the length of the picture's path relative to the root folder.
    """

    base: Path
    depth: int
    naming: Naming
    own: bool = False

    def local(self, picture: Path, relative: Path) -> PurePosixPath:
        """Return the repeated part of the picture's path."""
        return PurePosixPath(*picture.parts[-(self.depth + self.own * len(relative.parts)) :])

    def words(self) -> str:
        """Return a description of the rule."""
        above = f"with {self.depth} folders above the pictures" if self.depth else "as the pictures lie"
        kept = "flat" if self.depth == 1 else f"by the last {self.depth} parts of the pictures' paths"
        named = {"same": "", "appended": ", 01.jpg.png for 01.jpg"}
        ending = named.get(self.naming, f", 01{self.naming}.png for 01.jpg")
        return f"{above if self.own else kept}, in {self.base}{ending}"


def depths(pictures: Pictures) -> Iterator[tuple[bool, int]]:
    """Yield the parts of a picture's path that masks may repeat, the most likely first; the first match wins.

    Each item is whether the path relative to the root folder counts, and the number of (additional)
    parts.
    """
    relative = max((len(rel.parts) for _, rel in pictures), default=1)
    yield True, 0
    yield from ((True, more) for more in range(_INNER_FOLDERS, 0, -1))
    yield from ((False, parts) for parts in range(relative - 1, 0, -1))


def rules(pictures: Pictures, root: Path) -> Iterator[tuple[Rule, Index]]:
    """Yield all rules to try, the most likely first; the first match wins."""
    namings: tuple[Naming, ...] = ("same", "appended", "_mask", ".mask")
    for base in (root, *(root / name for name in MASK_FOLDERS)):
        index = _index(base) if base.is_dir() else {}
        if index:
            for own, depth in depths(pictures):
                yield from ((Rule(base, depth, naming, own), index) for naming in namings)


def walk(folder: Path) -> Iterator[Path]:
    """Yield all files in a folder tree that are not hidden; follow links, visit each folder once."""
    seen: set[Path] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if here.resolve() in seen:  # a link to a parent would never end
            continue
        seen.add(here.resolve())
        for path in here.iterdir():
            if path.name.startswith("."):
                continue
            if path.is_dir():
                waiting.append(path)
            else:
                yield path


def _index(base: Path) -> Index:
    allowed = PICTURE_SUFFIXES.union(MASK_ARRAYS)
    index: Index = {}
    for path in sorted(walk(base)):
        suffix = path.suffix.lower()
        if suffix in allowed:
            index[path.relative_to(base).with_suffix(suffix).as_posix()] = path
    return index


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
    """Return the masks that lie beside their pictures, for one naming."""
    folders: dict[Path, Index] = {}
    found: list[Path | None] = []
    for picture, relative in pictures:
        folder = picture.parent
        if folder not in folders:
            folders[folder] = {f"{p.stem}{p.suffix.lower()}": p for p in sorted(folder.iterdir())}
        found.append(look_up(Rule(folder, 1, naming), folders[folder], picture, relative))
    return found
