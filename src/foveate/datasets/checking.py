"""Checks whether a data set is complete, and reports all faults."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from foveate.datasets.catalogue import DataSet, FoundSet, expected, find, locate
from foveate.datasets.listing import Listing, in_another_order, in_its_place, list_set, official_names, uneven
from foveate.datasets.opening import find_own_masks
from foveate.datasets.splits import SPLITS, Split, names_hash, official_split
from foveate.errors import InputError
from foveate.foreground.matching import demand_masks

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
    dataset = find(key)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that the data sets are in")
    if masks is not None:
        demand_masks(masks)
    official = {"classes": dataset.classes, "train": dataset.train, "val": dataset.val, "test": dataset.test}
    location = None
    try:
        location = locate(root, dataset)
        if location is None:
            fault = f"expected {expected(dataset)}"
            return Check(dataset.key, dataset.title, "not there", dataset.where, official, faults=(fault,))
        return _look(dataset, location, list_set(dataset, location), official, masks)
    except InputError as error:
        fault = str(error)
    except OSError as error:  # the other sets are checked anyway
        fault = f"{error.filename or root}: {error.strerror}; look at its permissions, and at the disk"
    layout, folder = (location.layout, str(location.home)) if location else ("", str(root))
    return Check(
        dataset.key, dataset.title, "incomplete", dataset.where, official, layout, folder, faults=(fault,)
    )


def _look(
    dataset: DataSet, location: FoundSet, listing: Listing, official: dict[str, int], masks: Path | None
) -> Check:
    split = listing.split
    counts = {"classes": len(split.names), **split.counts()}
    known_names = official_names(dataset)
    missing = [*_absent_faults(listing), *_missing_parts(dataset, location, counts)]
    faults = _differences(dataset, listing, counts, official)
    name_faults = [] if known_names is None else _name_faults(dataset, location, split.names, known_names)
    covered, rule, mask_faults = _masks(dataset, listing, masks)
    return Check(
        key=dataset.key,
        title=dataset.title,
        state=_state(dataset, missing, faults, name_faults),
        where=dataset.where,
        official=official,
        layout=location.layout,
        folder=str(location.home),
        list=split.source,
        counts=counts,
        absent=len(listing.absent),
        absent_pictures=listing.absent,
        masks=covered,
        mask_rule=rule,
        names_hash=names_hash(split.names),
        official_names_hash=names_hash(known_names) if known_names else "",
        faults=(*missing, *faults, *uneven(location), *_skipped(split), *name_faults, *mask_faults),
    )


_ORDER = "another order"


def _state(
    dataset: DataSet, missing: Sequence[str], faults: Sequence[str], name_faults: Sequence[str]
) -> State:
    refused = dataset.kind != "imagenet" and any(_ORDER in line for line in name_faults)
    if missing or refused:
        return "incomplete"
    return "other split" if faults or name_faults else "whole"


def _missing_parts(dataset: DataSet, location: FoundSet, counts: dict[str, int]) -> list[str]:
    lines: list[str] = []
    halves = [("train", location.pictures, dataset.pictures), ("test", location.tests, dataset.tests)]
    for split, folder, names in halves if dataset.tests else ():
        if folder is None:
            lines.append(f"no {split} pictures: {location.home / names[0]} is not there")
        elif not counts[split]:
            lines.append(
                f"no {split} pictures: in {folder} each class must have a folder, called by its WordNet id"
            )
    return lines if sum(counts[split] for split in SPLITS) else [*lines, f"no pictures in {location.home}"]


def _differences(
    dataset: DataSet, listing: Listing, counts: dict[str, int], official: dict[str, int]
) -> list[str]:
    lines = [
        f"{number:,} {name if name == 'classes' else f'{name} pictures'}"
        for name, number in official.items()
        if counts[name] != number
    ]
    if lines:
        return [f"officially {', '.join(lines)}"]
    published = official_split(dataset)
    if published is not None and published.digest() != listing.split.digest():
        return ["another split than the official one, of the same size"]
    return []


def _absent_faults(listing: Listing) -> list[str]:
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


def _name_faults(
    dataset: DataSet, location: FoundSet, names: Sequence[str], official: Sequence[str]
) -> list[str]:
    if tuple(names) == tuple(official):
        return []
    if in_another_order(names, official):
        first = next(
            (name for name, official_name in zip(names, official, strict=False) if name != official_name),
            names[0],
        )
        return [f"classes in {_ORDER} than the official one, first {first!r}: base and new would be others"]
    unknown = [name for name in names if name not in set(official)]
    if unknown:
        hint = f"; remove {location.names_file} to take CLIP's" if location.names_file else ""
        return [f"{len(unknown)} class names are not the official ones, first {unknown[0]!r}{hint}"]
    return [f"{len(names)} of the {dataset.classes} official classes, in the official order"]


def _masks(dataset: DataSet, listing: Listing, masks: Path | None) -> tuple[dict[str, int], str, list[str]]:
    try:
        masked = find_own_masks(dataset, listing, masks)
    except InputError as error:
        return {}, "", [f"masks: {error}"]
    if masked is None:
        return {}, "", []
    if not masked.rule:
        example = f"{listing.location.masks}/{Path(listing.split.rows[0].path).with_suffix('.png')}"
        return (
            {},
            "",
            [f"masks: {listing.location.masks} has none of any picture; expected, for instance, {example}"],
        )
    masked_splits = [sample.split for sample in masked.samples if sample.mask is not None]
    unmasked = [item.name for item in masked.samples if item.mask is None and item.split == "train"]
    faults = [f"masks: {len(unmasked):,} train pictures have none, first {unmasked[0]}"] if unmasked else []
    return {split: masked_splits.count(split) for split in SPLITS}, masked.rule, faults
