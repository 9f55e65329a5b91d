"""The data sets of a sweep, by key, and its stored few-shot draws."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from foveate.data.samples import Photos
from foveate.datasets.catalogue import DataSet, demand, find
from foveate.datasets.draws import StoredDraw, make_draw, read_draw, write_draw
from foveate.datasets.opening import open_set
from foveate.datasets.splits import SPLITS
from foveate.datasets.world_sets import draw_sets
from foveate.errors import InputError
from foveate.files import set_aside
from foveate.foreground.options import OnCount
from foveate.methods.base import Method
from foveate.methods.registry import REFERENCE, methods
from foveate.sweep.jobs import Job
from foveate.train.selecting import SHOTS


def key_of(name: str) -> str:
    """Return the key of a data set from its key, its title, or its configuration name.

    Raises:
        InputError: The catalogue has no such set; the message names the nearest one.
    """
    return find(name).key


def make_ready(root: Path, keys: Sequence[str], on_count: OnCount | None = None) -> None:
    """Draw the missing data sets among those that foveate draws itself.

    Args:
        root: Folder of the data sets.
        keys: Keys of the needed sets.
        on_count: Called with the progress.

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
    """Refuse a root folder that lacks some of the data sets or their masks, before the first job.

    Args:
        root: Folder of the data sets.
        keys: Keys of the needed sets.
        masked: Keys of the sets whose own masks are used, with the method.
        others: Keys of sets, and names of their other masks that are used.

    Raises:
        InputError: The message names all missing ones.
    """
    absent = [key for key in keys if not _is_there(root, key)]
    if absent:
        pasted = next((find(key).where for key in absent if "@" in key and find(key).world is None), None)
        hint = pasted or f"`foveate data check {root}` tells where each is looked for"
        raise InputError(
            f"{len(absent)} of {len(keys)} data sets are not in {root}: {', '.join(absent)}; {hint}"
        )
    for key, name in others:
        masks_of(root, key, name)
    unmasked = {
        key: method for key, method in (masked or {}).items() if demand(root, find(key)).masks is None
    }
    if unmasked:
        raise InputError(
            f"{len(unmasked)} of {len(keys)} data sets in {root} have no masks: {', '.join(unmasked)}; "
            f"{next(iter(unmasked.values()))} needs them: make some with `foveate masks`, "
            f"or take rows and sets that need none"
        )


def missing(root: Path, keys: Sequence[str]) -> list[str]:
    """Return a line for each needed data set that is not there, and one on those that foveate will draw."""
    lines: list[str] = []
    drawn: list[str] = []
    for key in keys:
        try:
            demand(root, find(key))
        except InputError as error:
            if find(key).world is None:
                lines.append(f"missing: {error}")
            else:
                drawn.append(key)
    lines = list(dict.fromkeys(lines))  # test splits of one set have one folder
    return lines + ([f"will be drawn in {root}: {', '.join(drawn)}"] if drawn else [])


def _is_there(root: Path, key: str) -> bool:
    try:
        demand(root, find(key))
    except InputError:
        return False
    return True


def masks_of(root: Path, key: str, name: str) -> Path:
    """Return the folder of other masks of a data set: its `mask-NAME`, or a folder given by path.

    Raises:
        InputError: Neither exists.
    """
    own_folder = demand(root, find(key)).home / f"mask-{name}"
    existing = next(
        (folder for folder in (own_folder, root / name, Path(name).expanduser()) if folder.exists()), None
    )
    if existing is None:
        raise InputError(
            f"{find(key).key} has no masks {name!r}: neither {own_folder} nor a folder {name} is there"
        )
    return existing


def photos_of(root: Path, key: str, masks: str | None = None, *, tests_only: bool = False) -> Photos:
    """Return the pictures of a data set with their splits, and with masks if there are any.

    Args:
        root: Folder of the data sets.
        key: Key of the set.
        masks: Name or folder of masks other than the set's own.
        tests_only: Whether to read only the test split.

    Raises:
        InputError: The set does not exist, or is incomplete.
    """
    mask_folder = None if masks is None else masks_of(root, key, masks)
    return open_set(root, key, masks=mask_folder, splits=("test",) if tests_only else SPLITS)


def template_of(key: str, parts: Sequence[str]) -> str:
    """Return the template of a data set for a method.

    Args:
        key: Key of the set.
        parts: Parts of the method; some have their own templates.
    """
    dataset, kinds = find(key), methods()
    attributes = [
        attribute for part in parts if (attribute := kinds[part].data_template) != Method.data_template
    ]
    return getattr(dataset, attributes[0] if attributes else Method.data_template)


def sizes_of(key: str) -> DataSet:
    """Return the catalogue entry of a set, which gives its number of pictures and classes."""
    return find(key)


# Stores the few-shot draws of a sweep, each as a file that can be cited and shared.
#
# OUT/draws/dtd/shot_16-seed_1.json   the drawn pictures of all classes, with a hash
#
# Runs on base classes use a part of a draw. The pictures of a selector are listed in the run's own
# `run.json`.


DRAWS = "draws"


def keep_draw(out: Path, job: Job, photos: Photos) -> tuple[str | None, list[str]]:
    """Write the draw of a job, unless it exists.

    Args:
        out: Folder of the sweep.
        job: The job; it gives shots and seed.
        photos: The data set, with all classes.

    Returns:
        The hash of the draw, or None if nothing is drawn; and a note if a damaged file was set aside.

    Raises:
        InputError: Another draw with this name exists: the data set's split or pictures have changed.
    """
    if job.config.select or job.config.method == REFERENCE:
        return None, []
    draw = make_draw(photos, job.dataset, job.config.shots or SHOTS, job.seed)
    path = out / DRAWS / job.dataset / f"shot_{draw.shots}-seed_{draw.seed}.json"
    existing, notes = _existing_draw(path) if path.exists() else (None, [])
    if existing is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_draw(path, draw)
    elif existing.hash != draw.hash:
        raise InputError(
            f"{path}: now other pictures of {job.dataset} would be drawn: its split or its files have "
            f"changed since; put them back, or give another --out"
        )
    return draw.hash[:16], notes


def _existing_draw(path: Path) -> tuple[StoredDraw | None, list[str]]:
    """Return an existing draw; set an unreadable one aside."""
    try:
        return read_draw(path), []
    except InputError as error:
        return None, [set_aside(path, str(error).split(";")[0])]
