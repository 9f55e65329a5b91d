"""Opens a data set of the catalogue as `Photos`."""

from collections.abc import Collection
from pathlib import Path

from foveate.data.samples import Photos
from foveate.data.sources import load_photos
from foveate.datasets.catalogue import DataSet, find
from foveate.datasets.listing import Listing, in_another_order, in_its_place, list_set, official_names
from foveate.datasets.masking import Masked, attach
from foveate.datasets.places import demand
from foveate.datasets.splits import SPLITS
from foveate.errors import InputError


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
