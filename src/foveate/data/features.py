"""Computes frozen features of many pictures and writes them in shards.

photos = load_photos("photos")
make_features(photos, Path("features"), FeatureJob(clip="openai/clip-vit-base-patch16"))

Each shard is planned as `ShardWork`, made by a `ShardMaker`, and reported as an `Outcome`. The caller
chooses where makers run (`Run`): in this process, in several, or on a cluster. The values are the same,
because the batches of the tower depend only on the shard.
"""

import hashlib
import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import PIL

from foveate.clip.model import Clip
from foveate.data.feature_maker import (
    FeatureJob,
    Outcome,
    Run,
    ShardMaker,
    ShardTask,
    ShardWork,
    open_tower,
    parts_of,
)
from foveate.data.feature_store import (
    INDEX,
    LABELS,
    Index,
    UnfitFile,
    open_shard,
    read_index,
    shard_path,
    write_index,
)
from foveate.data.loader import eval_pictures
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.files import set_aside
from foveate.foreground.options import OnCount
from foveate.foreground.records import differences


@dataclass(frozen=True)
class MadeFeatures:
    """Result of making features.

    Attributes:
        pictures: Number of pictures in all shards.
        shards: Number of shards.
        reused: Number of shards that existed before.
        left_out: Name of each unreadable picture, and the reason.
    """

    pictures: int
    shards: int
    reused: int
    left_out: tuple[tuple[str, str], ...]


def make_features(
    photos: Photos,
    out: Path,
    job: FeatureJob,
    *,
    names: Sequence[str] | None = None,
    run: Run | None = None,
    on_count: OnCount | None = None,
) -> MadeFeatures:
    """Make the missing shards.

    Args:
        photos: The pictures.
        out: Folder of the shards; created if missing.
        job: Settings.
        names: Names of the pictures in the shards; None uses their paths, or the names of lazy pictures.
        run: Runs the makers; None runs them in this process.
        on_count: Called with the progress.

    Raises:
        InputError: There are no pictures, one is unreadable, or the folder holds other features.
        OSError: No space, or no permission. Finished shards stay.
    """
    if not len(photos):
        raise InputError("there are no pictures to make features of")
    clip = open_tower(job)
    task = ShardTask(
        job, clip.fingerprint(), out, photos.names, photos.mask_values, invert_masks=photos.invert_masks
    )
    picture_names = names or [sample.name for sample in photos.samples]
    index = _begin(out, photos, job, clip, picture_names)
    work = _plan(photos, job, index, picture_names)
    kept = [existing for shard in work if (existing := _finished(task, shard)) is not None]
    kept_numbers = {existing.number for existing in kept}
    if len(kept_numbers) < len(work):
        write_index(out, index)
    outcomes = {existing.number: existing for existing in kept}
    progress = _Progress(work, kept, on_count)
    runner = run or _here(clip)
    with closing(runner([shard for shard in work if shard.number not in kept_numbers], task)) as results:
        for outcome in results:
            if outcome.error is not None:
                raise InputError(f"{outcome.error}{progress.note}")
            outcomes[outcome.number] = outcome
            progress.count(outcome)
    return _end(out, index, [outcomes[number] for number in range(len(work))], len(kept))


def _here(clip: Clip) -> Run:
    def run(work: Sequence[ShardWork], task: ShardTask) -> Generator[Outcome]:
        maker = ShardMaker(task, clip)
        for shard in work:
            yield maker(shard)

    return run


class _Progress:
    """Counts the finished pictures."""

    def __init__(self, work: Sequence[ShardWork], kept: Iterable[Outcome], on_count: OnCount | None) -> None:
        self._sizes = {shard.number: len(shard.names) for shard in work}
        self._total, self._done, self._on_count = sum(self._sizes.values()), 0, on_count
        for outcome in kept:
            self.count(outcome)

    def count(self, outcome: Outcome) -> None:
        self._done += self._sizes[outcome.number]
        if self._on_count:
            self._on_count(self._done, self._total)

    @property
    def note(self) -> str:
        """Progress as text that follows an error message; empty if nothing is done."""
        if not self._done:
            return ""
        return f" ({self._done} of {self._total} pictures are done, and the same command goes on)"


def _begin(out: Path, photos: Photos, job: FeatureJob, clip: Clip, names: Sequence[str]) -> Index:
    """Create the folder, or check that it belongs to this work; return its index without rows."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give a folder to write to, new or empty")
    expected = Index(_key(photos, job, clip, names), photos.names, -(-len(photos) // job.shard))
    if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        if not (out / INDEX).is_file():
            raise InputError(f"{out} is not empty and holds no features: choose another --out")
        changes = list(differences(read_index(out).key, expected.key))
        if changes:
            raise InputError(
                f"{out} holds features made otherwise ({changes[0]}): choose another --out, or delete it"
            )
    out.mkdir(parents=True, exist_ok=True)
    return expected


def _key(photos: Photos, job: FeatureJob, clip: Clip, names: Sequence[str]) -> dict[str, Any]:
    pictures = eval_pictures(photos, clip.config, job.masks)
    names_digest = hashlib.sha256(repr(tuple(names)).encode("utf-8", "surrogatepass")).hexdigest()
    return {
        "weights": clip.fingerprint(),
        "precision": job.precision,
        "view": pictures.view_key(),
        "dtype": job.dtype,
        "dim": clip.config.embed,
        "parts": list(parts_of(job)),
        "masks": pictures.mask_key() if job.masks else None,
        "pictures": f"{len(photos)} {photos.digest(masks=job.masks)[:16]} {names_digest[:16]}",
        "shard": job.shard,
        # Another version may crop, decode or encode differently.
        "made_by": {"foveate": version("foveate"), "pillow": PIL.__version__},
    }


def _plan(photos: Photos, job: FeatureJob, index: Index, names: Sequence[str]) -> list[ShardWork]:
    """Split the set into shards; a shard's key combines the folder's key and its own picture files."""
    common = hashlib.sha256(repr(sorted(asdict(index).items())).encode("utf-8", "surrogatepass")).digest()
    work: list[ShardWork] = []
    for start in range(0, len(photos), job.shard):
        rows = slice(start, start + job.shard)
        samples = photos.samples[rows]
        state = hashlib.sha256(common)
        for sample in samples:
            state.update(repr((_file_size(sample.picture), job.masks and _file_size(sample.mask))).encode())
        work.append(ShardWork(len(work), state.hexdigest()[:32], tuple(names[rows]), samples))
    return work


def _file_size(source: object) -> object:
    """Return the file size, which shows a replaced file without reading it; names are in the folder's key."""
    if not isinstance(source, Path):
        return None
    try:
        return source.stat().st_size
    except OSError:
        return -1


def _finished(task: ShardTask, work: ShardWork) -> Outcome | None:
    """Return the outcome of an existing shard; None if the shard must be made."""
    path = shard_path(task.out, work.number)
    if not path.is_file():
        return None
    try:
        note, tensors = open_shard(path)
    except UnfitFile as fault:
        warnings.warn(set_aside(path, f"{path} {fault}"), stacklevel=4)
        return None
    if note.work != work.key or (note.left_out and task.job.on_bad == "error"):
        return None
    return Outcome(work.number, len(tensors[LABELS]), note.left_out)


def _end(out: Path, index: Index, outcomes: Sequence[Outcome], kept: int) -> MadeFeatures:
    """Write the index with all rows, and remove files that killed processes left."""
    rows = tuple(outcome.rows for outcome in outcomes)
    left_out = tuple(entry for outcome in outcomes for entry in outcome.left_out)
    if not sum(rows):
        name, reason = left_out[0]
        raise InputError(f"none of {len(left_out)} pictures can be read, first {name}: {reason}; give others")
    write_index(out, replace(index, rows=rows))
    for path in out.glob(".shard-*.safetensors.*"):
        path.unlink(missing_ok=True)
    return MadeFeatures(sum(rows), len(rows), kept, left_out)
