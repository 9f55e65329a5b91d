"""The data sets of a sweep, by their keys; the one module of it that knows where they come from."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from foveate.data.samples import Photos
from foveate.datasets.catalogue import DataSet, find
from foveate.datasets.opening import open_set
from foveate.datasets.places import demand
from foveate.datasets.world_sets import draw_sets
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.registry import methods

OnCount = Callable[[int, int], None]


def key_of(name: str) -> str:
    """Return a set's key, given that, its title, or its name in the field's settings.

    Raises:
        InputError: The catalogue has no such set; the nearest is named.
    """
    return find(name).key


def make_ready(root: Path, keys: Sequence[str], on_count: OnCount | None = None) -> None:
    """Draw those of the sets that foveate draws itself, where they are not there.

    Args:
        root: Folder of the data sets.
        keys: Of those that are needed.
        on_count: Told of progress.

    Raises:
        InputError: Something else is in their place.
    """
    drawn = [key for key in keys if find(key).world is not None]
    if drawn:
        draw_sets(root, drawn, on_count=on_count)


def check_there(
    root: Path,
    keys: Sequence[str],
    masked: Mapping[str, str] | None = None,
    others: Sequence[tuple[str, str]] = (),
) -> None:
    """Refuse a root that lacks some of the sets or their masks, before hours are spent on the others.

    Args:
        root: Folder of the data sets.
        keys: Of those that are needed.
        masked: Of those whose masks are learned from, and by which method.
        others: Sets and names of other masks of theirs that are learned from.

    Raises:
        InputError: All that are missing are named.
    """
    missing = [key for key in keys if not _is_there(root, key)]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(keys)} data sets are not in {root}: {', '.join(missing)};"
            f" `foveate data check {root}` tells where each is looked for"
        )
    for key, name in others:
        masks_of(root, key, name)
    bare = {key: method for key, method in (masked or {}).items() if demand(root, find(key)).masks is None}
    if bare:
        raise InputError(
            f"{len(bare)} of {len(keys)} data sets in {root} have no masks: {', '.join(bare)}; "
            f"{next(iter(bare.values()))} learns from them: make some with `foveate masks`, "
            f"or take rows and sets that need none"
        )


def _is_there(root: Path, key: str) -> bool:
    try:
        demand(root, find(key))
    except InputError:
        return False
    return True


def masks_of(root: Path, key: str, name: str) -> Path:
    """Return the folder of other masks of a set: its `mask-NAME`, or a folder by its path.

    Raises:
        InputError: There is neither.
    """
    own = demand(root, find(key)).home / f"mask-{name}"
    found = next((one for one in (own, root / name, Path(name).expanduser()) if one.exists()), None)
    if found is None:
        raise InputError(f"{find(key).key} has no masks {name!r}: neither {own} nor a folder {name} is there")
    return found


def photos_of(root: Path, key: str, masks: str | None = None, *, tests_only: bool = False) -> Photos:
    """Return a set's pictures with their splits, and masks where it has them.

    Args:
        root: Folder of the data sets.
        key: Of the set.
        masks: Name or folder of other masks than the set's own.
        tests_only: Whether its test split is enough.

    Raises:
        InputError: It is not there, or not whole.
    """
    others = None if masks is None else masks_of(root, key, masks)
    return (
        open_set(root, key, masks=others, splits=("test",))
        if tests_only
        else open_set(root, key, masks=others)
    )


def template_of(key: str, parts: Sequence[str]) -> str:
    """Return a set's sentence for a method.

    Args:
        key: Of the set.
        parts: Of the method: some have sentences of their own.
    """
    found, kinds = find(key), methods()
    own = [template for part in parts if (template := kinds[part].data_template) != Method.data_template]
    return getattr(found, own[0] if own else Method.data_template)


def sizes_of(key: str) -> DataSet:
    """Return how many pictures of how many classes a set has, without looking at it."""
    return find(key)
