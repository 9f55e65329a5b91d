"""What is there of a data set and what is missing, told without stopping at the first fault."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from foveate.datasets.catalogue import DataSet, find
from foveate.datasets.listing import Listing, in_another_order, list_set, official_names
from foveate.datasets.opening import find_own_masks
from foveate.datasets.places import Place, expected, locate
from foveate.datasets.splits import SPLITS, names_hash, official_split
from foveate.errors import InputError

State = Literal["whole", "other split", "incomplete", "not there"]
"""As published; whole by another list than the official one; pictures or lists missing; no folder of it."""

_SHOWN = 5


@dataclass(frozen=True)
class Check:
    """What was found of a set.

    Attributes:
        key: The set's.
        title: What papers call it.
        state: How it stands; "whole" and "other split" can be used.
        layout: Whose convention it is laid out in.
        folder: Where it is.
        list: Where the list of its pictures was read.
        counts: Classes, and pictures of each split that the list names.
        official: The same of the official split.
        absent: How many pictures of the list are not there.
        first_absent: The first few of them.
        masks: Pictures with a mask, of each split.
        mask_rule: How masks are laid out, in words.
        names_hash: Fingerprint of the class names in their order.
        official_names_hash: What it should be, where foveate knows.
        faults: What is wrong or worth knowing, a line each.
        where: Where the set can be had.
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
    first_absent: tuple[str, ...] = ()
    masks: dict[str, int] = field(default_factory=dict[str, int])
    mask_rule: str = ""
    names_hash: str = ""
    official_names_hash: str = ""
    faults: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether `open_set` opens it."""
        return self.state in ("whole", "other split")


def check_set(root: Path, key: str, *, masks: Path | None = None) -> Check:
    """Look at a set: every picture of its list is looked for, none is opened.

    Args:
        root: The folder that the data sets are in.
        key: Key, title or configuration name.
        masks: A folder of masks, as `open_set` takes it.

    Raises:
        InputError: The root is no folder, or there is no set of that name.
    """
    one = find(key)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that the data sets are in")
    official = {"classes": one.classes, "train": one.train, "val": one.val, "test": one.test}
    place = locate(root, one)
    if place is None:
        fault = f"expected {expected(one)}"
        return Check(one.key, one.title, "not there", one.where, official, faults=(fault,))
    try:
        listing = list_set(one, place)
    except InputError as error:
        at = (place.layout, str(place.home))
        return Check(one.key, one.title, "incomplete", one.where, official, *at, faults=(str(error),))
    return _look(one, place, listing, official, masks)


def _look(
    one: DataSet, place: Place, listing: Listing, official: dict[str, int], masks: Path | None
) -> Check:
    split = listing.split
    counts = {"classes": len(split.names), **split.counts()}
    known = official_names(one)
    faults = [*_missing_parts(one, place, counts), *_differences(one, listing, counts, official)]
    order = [] if known is None else _names_told(one, split.names, known)
    covered, rule, told = _masks(one, listing, masks)
    return Check(
        key=one.key,
        title=one.title,
        state=_state(one, listing, bool(faults), order),
        where=one.where,
        official=official,
        layout=place.layout,
        folder=str(place.home),
        list=split.source,
        counts=counts,
        absent=len(listing.absent),
        first_absent=listing.absent[:_SHOWN],
        masks=covered,
        mask_rule=rule,
        names_hash=names_hash(split.names),
        official_names_hash=names_hash(known) if known else "",
        faults=(*_absent_told(listing), *faults, *order, *told),
    )


def _state(one: DataSet, listing: Listing, differs: bool, order: Sequence[str]) -> State:
    place = listing.place
    halved = bool(one.tests) and (place.pictures is None or place.tests is None)
    refused = one.kind != "imagenet" and any(_ORDER in line for line in order)
    if listing.absent or halved or refused or not listing.samples:
        return "incomplete"
    return "other split" if differs or order else "whole"


_ORDER = "another order"


def _missing_parts(one: DataSet, place: Place, counts: dict[str, int]) -> list[str]:
    lines: list[str] = []
    if one.tests and place.pictures is None:
        lines.append(f"no training pictures: {place.home / one.pictures[0]} is not there")
    if one.tests and place.tests is None:
        lines.append(f"no test pictures: {place.home / one.tests[0]} is not there")
    return lines if counts["classes"] else [*lines, "no classes"]


def _differences(
    one: DataSet, listing: Listing, counts: dict[str, int], official: dict[str, int]
) -> list[str]:
    lines = [
        f"{counts[what]:,} {what if what == 'classes' else f'{what} pictures'}, officially {number:,}"
        for what, number in official.items()
        if counts[what] != number
    ]
    known = official_split(one)
    if not lines and known is not None and known.digest() != listing.split.digest():
        lines.append("another split than the official one, of the same size")
    return lines


def _absent_told(listing: Listing) -> list[str]:
    if not listing.absent:
        return []
    total = len(listing.absent) + len(listing.samples)
    return [f"{len(listing.absent):,} of {total:,} pictures are not there, first {listing.absent[0]}"]


def _names_told(one: DataSet, names: Sequence[str], known: Sequence[str]) -> list[str]:
    if tuple(names) == tuple(known):
        return []
    if in_another_order(names, known):
        first = next((name for name, other in zip(names, known, strict=False) if name != other), names[0])
        return [f"classes in {_ORDER} than the official one, first {first!r}: base and new would be others"]
    unknown = [name for name in names if name not in set(known)]
    if unknown:
        return [f"{len(unknown)} class names are not the official ones, first {unknown[0]!r}"]
    return [f"{len(names)} of the {one.classes} official classes, in the official order"]


def _masks(one: DataSet, listing: Listing, masks: Path | None) -> tuple[dict[str, int], str, list[str]]:
    try:
        found = find_own_masks(one, listing, masks)
    except InputError as error:
        return {}, "", [f"masks: {error}"]
    if found is None or not found.rule:
        empty = found is not None and f"{listing.place.masks} has no mask of any picture"
        return {}, "", [empty] if empty else []
    masked = [sample.split for sample in found.samples if sample.mask is not None]
    return {split: masked.count(split) for split in SPLITS}, found.rule, []
