"""Opens a data set of the catalogue as `Photos`, with its masks."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foveate.data.samples import Photos, Sample
from foveate.data.sources import load_photos
from foveate.datasets.catalogue import DataSet, demand, find
from foveate.datasets.listing import Listing, in_another_order, in_its_place, list_set, official_names
from foveate.datasets.splits import SPLITS
from foveate.errors import InputError
from foveate.foreground.matching import (
    MASK_FOLDERS,
    Index,
    MaskFile,
    Pictures,
    Rule,
    look_up,
    match_masks,
    rules,
    walk,
)
from foveate.foreground.store import stored_masks

# Matches masks to very large sets: infers the rule from some pictures, then applies it to all.
#
# `foveate.foreground.matching` tries every rule on every picture. Here, pictures whose name no mask has are
# first left out (masks cover only a part of ImageNet). Some of the other pictures then determine the rule.


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


# Opens a set.


def open_set(root: Path, key: str, *, masks: Path | None = None, splits: Collection[str] = SPLITS) -> Photos:
    """Read a data set below a root folder, in any of the conventions.

    Args:
        root: The root folder of the data sets.
        key: Key, title or configuration name, such as "dtd", "DTD" or "DescribableTextures".
        masks: A folder of masks; or one with a subfolder of masks for each set. None searches the usual
            places of the conventions; masks are then optional.
        splits: Splits to read; "test" alone avoids reading a list of 1.28 million pictures.

    Returns:
        The pictures of these splits, in the order of their lists, and all class names.

    Raises:
        InputError: The set is unknown or not below the root; there is no split file; pictures are
            missing; the class order differs from the official one; masks match no picture.
    """
    dataset = find(key)
    listing = list_set(dataset, demand(root, dataset), splits)
    _demand_whole(dataset, listing, root)
    _demand_order(dataset, listing)
    photos = Photos(listing.split.names, listing.samples)
    masked = find_own_masks(dataset, listing, masks)
    return photos if masked is None else load_photos(photos.with_samples(masked.samples))


def find_own_masks(dataset: DataSet, listing: Listing, masks: Path | None = None) -> Masked | None:
    """Find the masks of a set's pictures; return None if there is no folder of masks.

    Raises:
        InputError: A folder of masks is given, and none of them matches a picture.
    """
    tree = listing.location.masks if masks is None else _own_folder(dataset, listing, masks)
    if tree is None or not listing.samples:
        return None
    masked = attach(listing.samples, listing.base, tree)
    if masks is not None and not masked.rule:
        example = Path(listing.split.rows[0].path).with_suffix(".png")
        raise InputError(f"{tree}: no mask in it matches a picture; expected, for instance, {tree / example}")
    return masked


def _own_folder(dataset: DataSet, listing: Listing, masks: Path) -> Path:
    """Return the set's own subfolder in a folder of masks for many sets, or the folder itself."""
    if not masks.exists():
        raise InputError(f"{masks}: no such folder of masks; give the folder the mask files are in")
    archive_folder = next(
        (below.split("/")[0] for layout, below in dataset.homes if layout == "FVG-PT"), dataset.key
    )
    names = [dataset.key, dataset.title, dataset.config, listing.location.home.name, archive_folder]
    return next((masks / name for name in names if name and (masks / name).is_dir()), masks)


def _demand_whole(dataset: DataSet, listing: Listing, root: Path) -> None:
    if listing.absent:
        total = len(listing.absent) + len(listing.samples)
        raise InputError(
            f"{dataset.title}: {len(listing.absent)} of {total} pictures of {listing.split.source} are not"
            f" in {listing.base}, first {listing.absent[0]}{in_its_place(listing)}; "
            f"`foveate data check {root} {dataset.key}` lists more"
        )
    if not listing.samples:
        raise InputError(f"{dataset.title}: no pictures in {listing.location.home}; {dataset.where}")


def _demand_order(dataset: DataSet, listing: Listing) -> None:
    official = official_names(dataset)
    if dataset.kind != "imagenet" and official and in_another_order(listing.split.names, official):
        advice = (
            f"take the official {dataset.split_file}, or remove this one"
            if dataset.split_file
            else "get it again"
        )
        raise InputError(
            f"{listing.split.source}: its classes are in another order than the official one, so base and "
            f"new classes would be others; {advice}"
        )
