"""Matches masks to pictures for a whole set at once.

foveate's own masks and COCO files name their pictures. For any other tree of files, every rule
(`foveate.foreground.layouts`) is tried on every picture. The rule that finds most masks is used for all
pictures, because different rules for different pictures would hide a wrong guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar, overload

from foveate.errors import InputError
from foveate.foreground.boxes import BoxMask, read_boxes
from foveate.foreground.coco import CocoMask, coco_masks
from foveate.foreground.layouts import (
    MASK_FOLDERS,
    Index,
    Naming,
    Pictures,
    Rule,
    beside,
    depths,
    look_up,
    rules,
)
from foveate.foreground.opening import LazyPicture, source_name
from foveate.foreground.records import StoredMask
from foveate.foreground.shards import is_packed
from foveate.foreground.stored import stored_masks

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
