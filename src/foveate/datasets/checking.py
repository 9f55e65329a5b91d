"""Checks whether a data set is complete, and reports all faults."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from foveate.datasets.catalogue import DataSet, find
from foveate.datasets.listing import Listing, in_another_order, in_its_place, list_set, official_names
from foveate.datasets.opening import find_own_masks
from foveate.datasets.places import FoundSet, expected, locate
from foveate.datasets.splits import SPLITS, Split, names_hash, official_split
from foveate.datasets.wordnet import uneven
from foveate.errors import InputError
from foveate.foreground.masks import demand_masks

State = Literal["whole", "other split", "incomplete", "not there"]
"""As published; complete with another list than the official one; missing pictures or lists; no folder."""

_SHOWN = 5


@dataclass(frozen=True)
class Check:
    """Result of checking a set.

    Attributes:
        key: Key of the set.
        title: Name in papers.
        state: State of the set; "whole" and "other split" are usable.
        layout: Convention of its folder layout.
        folder: Folder of the set.
        list: File that the list of pictures was read from.
        counts: Number of classes, and number of pictures of each split in the list.
        official: The same numbers for the official split.
        absent: Number of listed pictures that do not exist.
        absent_pictures: Their paths, as written in the list.
        masks: Number of pictures with a mask, for each split.
        mask_rule: Layout of the masks, in words.
        names_hash: Fingerprint of the class names, in order.
        official_names_hash: Expected fingerprint, if foveate knows it.
        faults: Faults and notes, one in a line.
        where: Source of the set.
    """

    key: str
    title: str
    state: State
    where: str
    official: dict[str, int]
    layout: str = ""
    folder: str = ""
    list: str = ""
    counts: dict[str, int] = field(default_factory=dict[str, int])
    absent: int = 0
    absent_pictures: tuple[str, ...] = ()
    masks: dict[str, int] = field(default_factory=dict[str, int])
    mask_rule: str = ""
    names_hash: str = ""
    official_names_hash: str = ""
    faults: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the set is usable: all listed pictures exist, and the classes are in the official order."""
        return self.state in ("whole", "other split")


def check_set(root: Path, key: str, *, masks: Path | None = None) -> Check:
    """Check a set: every listed picture must exist; none is opened.

    Args:
        root: The root folder of the data sets.
        key: Key, title or configuration name.
        masks: A folder of masks, as in `open_set`.

    Raises:
        InputError: The root or the folder of masks is not a folder, or no set has this name.
    """
    one = find(key)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that the data sets are in")
    if masks is not None:
        demand_masks(masks)
    official = {"classes": one.classes, "train": one.train, "val": one.val, "test": one.test}
    place = None
    try:
        place = locate(root, one)
        if place is None:
            fault = f"expected {expected(one)}"
            return Check(one.key, one.title, "not there", one.where, official, faults=(fault,))
        return _look(one, place, list_set(one, place), official, masks)
    except InputError as error:
        fault = str(error)
    except OSError as error:  # the other sets are checked anyway
        fault = f"{error.filename or root}: {error.strerror}; look at its permissions, and at the disk"
    at = (place.layout, str(place.home)) if place else ("", str(root))
    return Check(one.key, one.title, "incomplete", one.where, official, *at, faults=(fault,))


def _look(
    one: DataSet, place: FoundSet, listing: Listing, official: dict[str, int], masks: Path | None
) -> Check:
    split = listing.split
    counts = {"classes": len(split.names), **split.counts()}
    known = official_names(one)
    missing = [*_absent_told(listing), *_missing_parts(one, place, counts)]
    faults = _differences(one, listing, counts, official)
    order = [] if known is None else _names_told(one, place, split.names, known)
    covered, rule, told = _masks(one, listing, masks)
    return Check(
        key=one.key,
        title=one.title,
        state=_state(one, missing, faults, order),
        where=one.where,
        official=official,
        layout=place.layout,
        folder=str(place.home),
        list=split.source,
        counts=counts,
        absent=len(listing.absent),
        absent_pictures=listing.absent,
        masks=covered,
        mask_rule=rule,
        names_hash=names_hash(split.names),
        official_names_hash=names_hash(known) if known else "",
        faults=(*missing, *faults, *uneven(place), *_skipped(split), *order, *told),
    )


_ORDER = "another order"


def _state(one: DataSet, missing: Sequence[str], faults: Sequence[str], order: Sequence[str]) -> State:
    refused = one.kind != "imagenet" and any(_ORDER in line for line in order)
    if missing or refused:
        return "incomplete"
    return "other split" if faults or order else "whole"


def _missing_parts(one: DataSet, place: FoundSet, counts: dict[str, int]) -> list[str]:
    lines: list[str] = []
    halves = [("train", place.pictures, one.pictures), ("test", place.tests, one.tests)]
    for split, folder, names in halves if one.tests else ():
        if folder is None:
            lines.append(f"no {split} pictures: {place.home / names[0]} is not there")
        elif not counts[split]:
            lines.append(
                f"no {split} pictures: in {folder} each class must have a folder, called by its WordNet id"
            )
    return lines if sum(counts[split] for split in SPLITS) else [*lines, f"no pictures in {place.home}"]


def _differences(
    one: DataSet, listing: Listing, counts: dict[str, int], official: dict[str, int]
) -> list[str]:
    lines = [
        f"{number:,} {what if what == 'classes' else f'{what} pictures'}"
        for what, number in official.items()
        if counts[what] != number
    ]
    if lines:
        return [f"officially {', '.join(lines)}"]
    known = official_split(one)
    if known is not None and known.digest() != listing.split.digest():
        return ["another split than the official one, of the same size"]
    return []


def _absent_told(listing: Listing) -> list[str]:
    if not listing.absent:
        return []
    number, total = len(listing.absent), len(listing.absent) + len(listing.samples)
    first = ", ".join(listing.absent[:_SHOWN]) + (f" and {number - _SHOWN:,} more" if number > _SHOWN else "")
    return [f"{number:,} of {total:,} pictures are not there, {first}{in_its_place(listing)}"]


def _skipped(split: Split) -> list[str]:
    """Return a note if labels skip numbers, which other code treats as classes without a name."""
    if split.numbers == tuple(range(len(split.numbers))):
        return []
    gap = next(row for row, number in enumerate(split.numbers) if row != number)
    return [f"labels skip numbers, {split.names[gap]!r} is {split.numbers[gap]} in the list and {gap} here"]


def _names_told(one: DataSet, place: FoundSet, names: Sequence[str], known: Sequence[str]) -> list[str]:
    if tuple(names) == tuple(known):
        return []
    if in_another_order(names, known):
        first = next((name for name, other in zip(names, known, strict=False) if name != other), names[0])
        return [f"classes in {_ORDER} than the official one, first {first!r}: base and new would be others"]
    unknown = [name for name in names if name not in set(known)]
    if unknown:
        instead = f"; remove {place.names_file} to take CLIP's" if place.names_file else ""
        return [f"{len(unknown)} class names are not the official ones, first {unknown[0]!r}{instead}"]
    return [f"{len(names)} of the {one.classes} official classes, in the official order"]


def _masks(one: DataSet, listing: Listing, masks: Path | None) -> tuple[dict[str, int], str, list[str]]:
    try:
        found = find_own_masks(one, listing, masks)
    except InputError as error:
        return {}, "", [f"masks: {error}"]
    if found is None:
        return {}, "", []
    if not found.rule:
        example = f"{listing.place.masks}/{Path(listing.split.rows[0].path).with_suffix('.png')}"
        return (
            {},
            "",
            [f"masks: {listing.place.masks} has none of any picture; expected, for instance, {example}"],
        )
    masked = [sample.split for sample in found.samples if sample.mask is not None]
    without = [one.name for one in found.samples if one.mask is None and one.split == "train"]
    told = [f"masks: {len(without):,} train pictures have none, first {without[0]}"] if without else []
    return {split: masked.count(split) for split in SPLITS}, found.rule, told
