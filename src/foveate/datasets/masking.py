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
        masks, words = _by_rule(pairs, tree)
    else:
        match = match_masks(pairs, tree)
        masks, words = match.masks, match.rule
    by_path = dict(zip(paths, masks, strict=True))
    found = [replace(one, mask=by_path[one.picture]) for one in samples if isinstance(one.picture, Path)]
    return Masked(tuple(found), words)


def _is_plain(tree: Path) -> bool:
    places = [tree, *(tree / name for name in MASK_FOLDERS)]
    return tree.is_dir() and all(stored_masks(place) is None for place in places)


def _by_rule(pairs: Pictures, tree: Path) -> tuple[list[MaskFile | None], str]:
    maybe = _maybe_masked(pairs, tree)
    best, index, most = None, Index(), 0
    probed = maybe[:: max(1, len(maybe) // _PROBED)]
    for rule, candidates in rules(probed, tree):
        found = sum(look_up(rule, candidates, *pair) is not None for pair in probed)
        if found > most:
            best, index, most = rule, candidates, found
    if best is None:
        return [None] * len(pairs), ""
    masks = _looked_up(best, index, maybe)
    return [masks.get(path) for path, _ in pairs], best.words()


def _looked_up(rule: Rule, index: Index, pairs: Pictures) -> dict[Path, Path]:
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
