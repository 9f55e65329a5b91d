"""Stores the few-shot draws of a sweep, each as a file that can be cited and shared.

OUT/draws/dtd/shot_16-seed_1.json   the drawn pictures of all classes, with a hash

Runs on base classes use a part of a draw. The pictures of a selector are listed in the run's own `run.json`.
"""

from pathlib import Path

from foveate.data.samples import Photos
from foveate.datasets.draws import StoredDraw, make_draw, read_draw, write_draw
from foveate.errors import InputError
from foveate.files import set_aside
from foveate.methods.registry import REFERENCE
from foveate.sweep.jobs import Job
from foveate.train.selecting import SHOTS

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
