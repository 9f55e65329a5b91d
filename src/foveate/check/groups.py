"""Groups of pictures that belong together, and the accuracy that they fake if splits divide them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from foveate.check.labels import held_out
from foveate.data.samples import Photos
from foveate.data.tables import locate
from foveate.errors import InputError
from foveate.foreground.opening import BadPicture, exif_texts, opened
from foveate.readers import IMAGE_COLUMNS, find_column, read_csv
from foveate.types import Labels, Logits

FOLDER, CAMERA, BURST = "folder", "camera", "burst"
SECONDS = 3.0
"""Maximum time between two consecutive pictures of one camera in a burst."""

_MAKE, _MODEL, _SERIAL = 0x010F, 0x0110, 0xA431
_TAKEN, _FRACTION = 0x9003, 0x9291  # DateTimeOriginal, SubSecTimeOriginal


@dataclass(frozen=True)
class Leak:
    """Accuracy with and without the other pictures of a picture's group.

    Attributes:
        groups: Number of groups.
        among_own: Accuracy in percent if each picture alone is held out.
        without_own: Accuracy in percent if its whole group is held out.
    """

    groups: int
    among_own: float
    without_own: float

    @property
    def faked(self) -> float:
        """Percentage points by which a test on pictures of the same groups overestimates the accuracy."""
        return self.among_own - self.without_own


def group_leaks(features: Tensor, labels: Labels, groups: Sequence[str], alone: Logits) -> Leak:
    """Measure the accuracy that groups fake.

    Args:
        features: `[N, D]` raw features of a frozen tower.
        labels: `[N]` labels.
        groups: Group of each picture.
        alone: `[N, C]` logits of `foveate.check.labels.held_out` without groups.

    Raises:
        InputError: There is only one group, or all pictures of a class are of one group.
    """
    numbers = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    if len(numbers) < 2:
        raise InputError(f"all pictures are of one group, {groups[0]!r}: give a column that tells them apart")
    group_numbers = torch.tensor([numbers[group] for group in groups])
    for label in labels.unique().tolist():
        if len(group_numbers[labels == label].unique()) == 1 and len(labels[labels == label]) > 1:
            raise InputError(
                "all pictures of a class are of one group, so a group cannot be held back without its class:"
                " give another --group"
            )
    group_held_out = held_out(features, labels, group_numbers)
    accuracies = [
        100 * (logits.argmax(dim=1) == labels).double().mean().item() for logits in (alone, group_held_out)
    ]
    return Leak(len(numbers), *accuracies)


def read_groups(photos: Photos, source: str, how: str) -> list[str]:
    """Return the group of each picture.

    Args:
        photos: Photos that were read from the source.
        source: A folder or a list.
        how: "folder", that of the picture; "camera" or "burst", from EXIF; or a column of the list.

    Raises:
        InputError: The source has no such column, or no group for a picture; or there is no burst.
    """
    paths = [sample.picture for sample in photos.samples if isinstance(sample.picture, Path)]
    if len(paths) < len(photos):
        raise InputError(f"--group {how} needs pictures that are files")
    if how == FOLDER:
        return [str(path.parent) for path in paths]
    if how == CAMERA:
        return [_camera(_exif(path)) or "unknown" for path in paths]
    if how == BURST:
        bursts = find_bursts(photos)
        if bursts is None:
            raise InputError(
                f"no two pictures are of one burst: their EXIF tells of no camera and time within {SECONDS:g}"
                " seconds; give folder, or a column of a list (.csv)"
            )
        return bursts
    table = Path(source).expanduser()
    if table.suffix.lower() not in (".csv", ".tsv"):
        raise InputError(f"--group is {how!r}: give folder, camera or burst, or a column of a list (.csv)")
    return _column(paths, table, how)


def find_bursts(photos: Photos) -> list[str] | None:
    """Return the group of each picture: its burst, or the picture's name; None if there is no burst.

    A burst is a sequence of pictures of one camera (maker, model and serial number), each at most `SECONDS`
    after the previous one.
    """
    groups = [sample.name for sample in photos.samples]
    by_camera: dict[str, list[tuple[datetime, int]]] = {}
    for index, sample in enumerate(photos.samples):
        texts = _exif(sample.picture) if isinstance(sample.picture, Path) else {}
        camera, time = _camera(texts), _time(texts)
        if camera and time:
            by_camera.setdefault(f"{camera} {texts.get(_SERIAL, '')}".strip(), []).append((time, index))
    has_burst = False
    for camera, shots in by_camera.items():
        shots.sort()
        for (previous_time, previous), (time, index) in pairwise(shots):
            if time - previous_time <= timedelta(seconds=SECONDS):
                if groups[previous] == photos.samples[previous].name:
                    groups[previous] = f"{camera}, {previous_time:%Y-%m-%d %H:%M:%S}"
                groups[index], has_burst = groups[previous], True
    return groups if has_burst else None


def _exif(path: Path) -> dict[int, str]:
    try:
        with opened(path) as picture:
            return exif_texts(picture)
    except BadPicture:  # reported as unreadable
        return {}


def _camera(texts: dict[int, str]) -> str:
    return " ".join(texts[tag] for tag in (_MAKE, _MODEL) if texts.get(tag))


def _time(texts: dict[int, str]) -> datetime | None:
    fraction = texts.get(_FRACTION, "")
    try:
        return datetime.strptime(
            f"{texts.get(_TAKEN, '')}.{fraction[:6] if fraction.isdecimal() else 0}", "%Y:%m:%d %H:%M:%S.%f"
        )
    except ValueError:
        return None


def _column(paths: Sequence[Path], table: Path, how: str) -> list[str]:
    columns, rows = read_csv(table)
    group_column, image_column = find_column(columns, [how]), find_column(columns, IMAGE_COLUMNS)
    if group_column is None or image_column is None:
        raise InputError(f"{table} has no column {how!r}; its columns are {', '.join(columns)}")
    records = [row for _, row in rows]
    files = locate(
        [row[image_column].strip() for row in records], Path(os.path.normpath(table.absolute())).parent
    )
    group_of = {file: row[group_column].strip() for file, row in zip(files, records, strict=True)}
    missing = next((path for path in paths if not group_of.get(path)), None)
    if missing is not None:
        raise InputError(f"{table} has no {how} of {missing}: fill the column")
    return [group_of[path] for path in paths]
