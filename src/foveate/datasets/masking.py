"""Matches masks to very large sets: infers the rule from some pictures, then applies it to all.

`foveate.foreground.matching` tries every rule on every picture. This module first leaves out pictures
whose name no mask has (masks cover only a part of ImageNet). Some of the other pictures then determine
the rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foveate.data.samples import Sample
from foveate.errors import InputError
from foveate.foreground.layouts import MASK_FOLDERS, Index, Pictures, Rule, look_up, rules, walk
from foveate.foreground.matching import MaskFile, match_masks
from foveate.foreground.stored import stored_masks

_PROBED = 64


@dataclass(frozen=True)
class Masked:
    """Pictures and their masks.

    Attributes:
        samples: Pictures, with masks if there are any.
        rule: Layout of the masks, in words; empty if no mask matches a picture.
    """

    samples: tuple[Sample, ...]
    rule: str


def attach(samples: Sequence[Sample], base: Path, tree: Path) -> Masked:
    """Attach masks from a tree, from packed masks, or from a COCO file.

    Args:
        samples: Pictures that are files.
        base: The base folder of the pictures.
        tree: Location of the masks.

    Raises:
        InputError: Two pictures would share a mask, or `tree` cannot hold masks.
    """
    paths = [sample.picture for sample in samples if isinstance(sample.picture, Path)]
    pairs = [(path.absolute(), path.relative_to(base)) for path in paths]
    if _is_plain(tree):
        masks, layout = _by_rule(pairs, tree)
    else:
        match = match_masks(pairs, tree)
        masks, layout = match.masks, match.rule
    by_path = dict(zip(paths, masks, strict=True))
    masked = [replace(s, mask=by_path[s.picture]) for s in samples if isinstance(s.picture, Path)]
    return Masked(tuple(masked), layout)


def _is_plain(tree: Path) -> bool:
    folders = [tree, *(tree / name for name in MASK_FOLDERS)]
    return tree.is_dir() and all(stored_masks(folder) is None for folder in folders)


def _by_rule(pairs: Pictures, tree: Path) -> tuple[list[MaskFile | None], str]:
    possible = _maybe_masked(pairs, tree)
    best, best_index, best_hits = None, Index(), 0
    probed = possible[:: max(1, len(possible) // _PROBED)]
    for rule, index in rules(probed, tree):
        hits = sum(look_up(rule, index, *pair) is not None for pair in probed)
        if hits > best_hits:
            best, best_index, best_hits = rule, index, hits
    if best is None:
        return [None] * len(pairs), ""
    masks = _match_all(best, best_index, possible)
    return [masks.get(path) for path, _ in pairs], best.words()


def _match_all(rule: Rule, index: Index, pairs: Pictures) -> dict[Path, Path]:
    masks: dict[Path, Path] = {}
    owner: dict[Path, Path] = {}
    for path, relative in pairs:
        mask = look_up(rule, index, path, relative)
        if mask is None:
            continue
        if owner.setdefault(mask, path) != path:
            raise InputError(
                f"{mask} would be the mask of both {owner[mask]} and {path}; lay the masks out in the same "
                f"folders as the pictures"
            )
        masks[path] = mask
    return masks


def _maybe_masked(pairs: Pictures, tree: Path) -> Pictures:
    """Keep the pictures whose name, in one of the mask namings, is the name of a file in the tree."""
    names: set[str] = set()
    for file in walk(tree):
        names |= {file.stem, file.stem.removesuffix("_mask").removesuffix(".mask")}
    return [pair for pair in pairs if pair[0].stem in names or pair[0].name in names]
