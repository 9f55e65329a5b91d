"""Which mask file belongs to which picture, found out for a whole set at once.

A rule says where masks lie (`root`, `root/mask`, `root/masks`), how much of the picture's path they repeat,
and how their names differ. Every rule is tried on every picture and the one that finds most masks is used for
all: mixing rules picture by picture would hide a wrong guess.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from foveate.errors import InputError
from foveate.foreground.opening import PICTURE_SUFFIXES
from foveate.foreground.values import MASK_ARRAYS

# Lossless first: where one stem has several files, the first of these is taken.
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
_INNER_FOLDERS = 3  # how many folders above the pictures a mask tree may repeat

Naming = Literal["same", "appended", "_mask", ".mask"]
Pictures = Sequence[tuple[Path, Path]]
Index = dict[str, Path]  # "cat/01.png", suffix in lower case -> the file


@dataclass(frozen=True)
class Rule:
    """How to get from a picture to its mask.

    Attributes:
        base: Folder the masks are under.
        depth: How many trailing parts of the picture's absolute path are repeated below it.
        naming: `same` is 01.jpg -> 01.jpg or 01.png; `appended` 01.jpg.png; the others 01_mask.png and
        01.mask.png.
    """

    base: Path
    depth: int
    naming: Naming


def find_masks(pictures: Pictures, root: Path | None) -> list[Path | None]:
    """Return each picture's mask file, or None.

    Args:
        pictures: Each picture's absolute path, and its path relative to the folder of all pictures.
        root: The folder of masks, or the folder that has them in `mask/` or `masks/`. None looks for
            `x_mask.png` and `x.mask.png` beside each picture.

    Raises:
        InputError: Two pictures would share one mask, or `root` is no folder.
    """
    if root is None:
        found = _best([_beside(pictures, naming) for naming in ("_mask", ".mask")], len(pictures))
    else:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder of masks; give the folder the mask files are in")
        found = _best(
            [_apply(rule, index, pictures) for rule, index in _rules(pictures, root)], len(pictures)
        )
    _demand_one_each(pictures, found)
    return found


def _best(tried: Sequence[list[Path | None]], number: int) -> list[Path | None]:
    return max(tried, key=lambda masks: sum(mask is not None for mask in masks), default=[None] * number)


def _rules(pictures: Pictures, root: Path) -> Iterator[tuple[Rule, Index]]:
    """Yield every rule worth trying, the likeliest first: among equals the first wins."""
    relative = max((len(rel.parts) for _, rel in pictures), default=1)
    depths = [relative, *range(relative + _INNER_FOLDERS, relative, -1), *range(relative - 1, 0, -1)]
    namings: tuple[Naming, ...] = ("same", "appended", "_mask", ".mask")
    for base in (root, *(root / name for name in MASK_FOLDERS)):
        index = _index(base) if base.is_dir() else {}
        if index:
            yield from ((Rule(base, depth, naming), index) for depth in depths for naming in namings)


def walk(folder: Path) -> Iterator[Path]:
    """Every file in a folder and below that is not hidden; links are followed, each folder once."""
    seen: set[Path] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if here.resolve() in seen:  # a link back up would have no end
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


def _apply(rule: Rule, index: Index, pictures: Pictures) -> list[Path | None]:
    return [_look_up(rule, index, picture) for picture, _ in pictures]


def _look_up(rule: Rule, index: Index, picture: Path) -> Path | None:
    local = PurePosixPath(*picture.parts[-rule.depth :])
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


def _beside(pictures: Pictures, naming: Naming) -> list[Path | None]:
    folders: dict[Path, Index] = {}
    found: list[Path | None] = []
    for picture, _ in pictures:
        folder = picture.parent
        if folder not in folders:
            folders[folder] = {f"{p.stem}{p.suffix.lower()}": p for p in sorted(folder.iterdir())}
        found.append(_look_up(Rule(folder, 1, naming), folders[folder], picture))
    return found


def _demand_one_each(pictures: Pictures, masks: Sequence[Path | None]) -> None:
    owner: dict[Path, Path] = {}
    for (picture, _), mask in zip(pictures, masks, strict=True):
        if mask is None:
            continue
        if mask in owner:
            raise InputError(
                f"{mask} would be the mask of both {owner[mask]} and {picture}; "
                f"lay the masks out in the same folders as the pictures"
            )
        owner[mask] = picture
