"""Groups of pictures that belong together, and how much accuracy they fake where they are torn apart."""

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
"""Two pictures of one camera that are no further apart in time are of one burst, and so along a chain."""

_MAKE, _MODEL, _SERIAL = 0x010F, 0x0110, 0xA431
_TAKEN, _FRACTION = 0x9003, 0x9291  # DateTimeOriginal, SubSecTimeOriginal


@dataclass(frozen=True)
class Leak:
    """What is right when others of a picture's group may be learned from, and when not.

    Attributes:
        groups: How many there are.
        among_own: Percent right when a picture alone is held back.
        without_own: Percent right when its whole group is.
    """

    groups: int
    among_own: float
    without_own: float

    @property
    def faked(self) -> float:
        """Points of accuracy that a test on pictures of the same groups pretends."""
        return self.among_own - self.without_own


def group_leaks(features: Tensor, labels: Labels, groups: Sequence[str], alone: Logits) -> Leak:
    """Measure what groups fake.

    Args:
        features: `[N, D]` raw features of a frozen tower.
        labels: `[N]`.
        groups: Of each picture.
        alone: `[N, C]` logits of `foveate.check.labels.held_out` without groups.

    Raises:
        InputError: There is one group, or each class is a group of its own.
    """
    number = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    if len(number) < 2:
        raise InputError(f"all pictures are of one group, {groups[0]!r}: give a column that tells them apart")
    of = torch.tensor([number[group] for group in groups])
    for label in labels.unique().tolist():
        if len(of[labels == label].unique()) == 1 and len(labels[labels == label]) > 1:
            raise InputError(
                "all pictures of a class are of one group, so a group cannot be held back without its class:"
                " give another --group"
            )
    without = held_out(features, labels, of)
    right = [100 * (one.argmax(dim=1) == labels).double().mean().item() for one in (alone, without)]
    return Leak(len(number), *right)


def read_groups(photos: Photos, source: str, how: str) -> list[str]:
    """Return the group of each picture.

    Args:
        photos: As they were read from the source.
        source: A folder or a list.
        how: "folder", the one a picture is in; "camera" or "burst", as EXIF tells; or a column of the list.

    Raises:
        InputError: The source has no such column, or no groups for each picture; or there is no burst.
    """
    paths = [sample.picture for sample in photos.samples if isinstance(sample.picture, Path)]
    if len(paths) < len(photos):
        raise InputError(f"--group {how} needs pictures that are files")
    if how == FOLDER:
        return [str(path.parent) for path in paths]
    if how == CAMERA:
        return [_camera(_exif(path)) or "unknown" for path in paths]
    if how == BURST:
        found = find_bursts(photos)
        if found is None:
            raise InputError(
                f"no two pictures are of one burst: their EXIF tells of no camera and time within {SECONDS:g}"
                " seconds; give folder, or a column of a list (.csv)"
            )
        return found
    table = Path(source).expanduser()
    if table.suffix.lower() not in (".csv", ".tsv"):
        raise InputError(f"--group is {how!r}: give folder, camera or burst, or a column of a list (.csv)")
    return _column(paths, table, how)


def find_bursts(photos: Photos) -> list[str] | None:
    """Return the group of each picture: its burst, or itself; None where no two are of one burst.

    A burst is of one camera (maker, model and serial number), each picture at most `SECONDS` after another.
    """
    groups = [sample.name for sample in photos.samples]
    taken: dict[str, list[tuple[datetime, int]]] = {}
    for place, sample in enumerate(photos.samples):
        texts = _exif(sample.picture) if isinstance(sample.picture, Path) else {}
        camera, time = _camera(texts), _time(texts)
        if camera and time:
            taken.setdefault(f"{camera} {texts.get(_SERIAL, '')}".strip(), []).append((time, place))
    several = False
    for camera, own in taken.items():
        own.sort()
        for (before, earlier), (time, place) in pairwise(own):
            if time - before <= timedelta(seconds=SECONDS):
                if groups[earlier] == photos.samples[earlier].name:
                    groups[earlier] = f"{camera}, {before:%Y-%m-%d %H:%M:%S}"
                groups[place], several = groups[earlier], True
    return groups if several else None


def _exif(path: Path) -> dict[int, str]:
    try:
        with opened(path) as picture:
            return exif_texts(picture)
    except BadPicture:  # it is told of as such
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
    own, image = find_column(columns, [how]), find_column(columns, IMAGE_COLUMNS)
    if own is None or image is None:
        raise InputError(f"{table} has no column {how!r}; its columns are {', '.join(columns)}")
    lines = [row for _, row in rows]
    files = locate([row[image].strip() for row in lines], Path(os.path.normpath(table.absolute())).parent)
    of = {file: row[own].strip() for file, row in zip(files, lines, strict=True)}
    without = next((path for path in paths if not of.get(path)), None)
    if without is not None:
        raise InputError(f"{table} has no {how} of {without}: fill the column")
    return [of[path] for path in paths]
