"""The run folder: its record, its lock, its clean-up after a stop, and the predictions in its log.

A run folder has `run.json` (the record of the run; written first), `log.jsonl`,
`stages/<method>.safetensors` (the resume state of each stage), `.bank` (features of frozen towers,
during the run), `tracked` (copies of the log for other programs), and in the end the tuned model. If its
method was chosen, it has `choice.json` too, and `.trials` until the choice is made.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock, Timeout
from jaxtyping import Bool
from torch import Tensor

from foveate.configs import as_dataclass
from foveate.data.feature_store import FeatureStore
from foveate.data.loader import eval_pictures
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.files import remove_half_written, write_atomically
from foveate.memory import sent
from foveate.methods.base import Method
from foveate.readers import one_line, parse_table, read_bytes
from foveate.train.banking import chunk_on
from foveate.train.checkpoint import CARD, CONFIG, SCORES, TENSORS, TRUST
from foveate.train.config import RunConfig, digest
from foveate.train.shots import Chosen

RUN, STAGES, BANK, LOCK, TRACKED = "run.json", "stages", ".bank", ".lock", "tracked"
CHOICE, TRIALS = "choice.json", ".trials"
"""File and folder of a run whose method was chosen: the choice, and the runs that were tried for it."""
_TYPED = (
    *(
        "method",
        "backbone",
        "settings",
        "clip",
        "dtype",
        "select",
        "fraction",
        "selection",
        "shots",
        "seed",
        "classes",
        "template",
        "recipe",
    ),
    *("names", "data", "bank_dtype"),
)


def refuse_folder(folder: Path) -> None:
    """Refuse a path that cannot be a run folder, before any work is done.

    Raises:
        InputError: The path is a file, or the folder has files that belong to no run.
    """
    if str(folder).startswith("~"):
        raise InputError(f"{folder}: there is no home folder of that name: write the path out")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder to write to, new or empty")
    if folder.is_symlink() and not folder.exists():
        raise InputError(f"{folder} is a link that leads nowhere: remove it, or choose another output folder")
    nearest = next((parent for parent in folder.parents if parent.exists()), None)
    if nearest is not None and not nearest.is_dir():
        raise InputError(f"{nearest} is a file: choose an output folder somewhere else")
    if not folder.exists() and nearest is not None and not _may_hold(nearest):
        raise InputError(f"{folder} cannot be made in {nearest}: choose an output folder somewhere else")
    if (folder / RUN).exists() or (folder / CHOICE).exists() or not folder.exists():
        return
    foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if foreign:
        raise InputError(
            f"{folder} is not empty and holds no run ({foreign[0]}): choose another output folder"
        )


def _may_hold(folder: Path) -> bool:
    """Return whether files can be created in a folder; /proc and /sys/kernel ignore the permissions."""
    return os.access(folder, os.W_OK) and not str(folder.resolve()).startswith(("/proc", "/sys/kernel"))


@contextmanager
def alone_in(folder: Path) -> Generator[None]:
    """Lock a run folder for one process. The system releases the lock if the process dies.

    Raises:
        InputError: Another run uses the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / CONFIG).exists() and not os.access(folder, os.W_OK):  # a finished run in a read-only folder
        yield
        return
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"another run is at work in {folder}: wait for it, stop it, or choose another output folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
        (folder / LOCK).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def open_run(folder: Path, identity: Mapping[str, Any], config: RunConfig, chosen: Chosen) -> bool:
    """Create or reopen a run folder.

    A run that stopped before its first saved epoch has nothing to lose: another run may replace it.

    Args:
        folder: The run folder; it is created if missing.
        identity: All that determines the result of the run, as JSON; another identity is another run.
        config: The run.
        chosen: The training pictures.

    Returns:
        Whether the run is finished already.

    Raises:
        InputError: The folder holds another run, or files that belong to no run.
        OSError: No space or no permission; a folder that was created here is removed.
    """
    refuse_folder(folder)
    requested = dict(identity)
    finished = (folder / CONFIG).exists()
    if (folder / RUN).exists():
        existing = read_run(folder).identity
        differing = [
            key for key in requested.keys() | existing.keys() if requested.get(key) != existing.get(key)
        ]
        if finished:  # the version that wrote it does not matter any more
            differing = [key for key in differing if key != "version"]
        if differing and (finished or _states(folder)):
            raise InputError(other_run_message(folder, existing, requested, differing))
        if finished:
            return True
        if differing:
            (folder / LOG).unlink(missing_ok=True)
            shutil.rmtree(folder / TRACKED, ignore_errors=True)
    _clear_leftovers(folder)
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        record = {
            "hash": digest(requested),
            "identity": requested,
            "run": config.here().as_dict(),
            # The choice of a selector is stored by name, because no draw repeats it.
            "chosen": [sample.name for sample in chosen.photos.samples] if chosen.selection else None,
            "left_out": list(chosen.left_out),
        }
        text = json.dumps(record, indent=2, ensure_ascii=False)
        write_atomically(folder / RUN, text + "\n")
    except OSError:
        if created:
            folder.rmdir()
        raise
    return False


def abandon_run(folder: Path, *, keep_states: bool) -> None:
    """Free the folder of a failed run for another try.

    Args:
        folder: The run folder; only files that a run writes are removed.
        keep_states: Whether to keep all files if an epoch was saved, to resume from it. A diverged run
            cannot resume: its states are removed and its log is kept.
    """
    if keep_states and _states(folder):
        return
    for path in (*_states(folder), *((folder / LOG, folder / RUN) if keep_states else ())):
        path.unlink(missing_ok=True)
    drop_bank(folder)
    for emptied in (folder / STAGES, folder):
        if emptied.is_dir() and not any(emptied.iterdir()):
            emptied.rmdir()


def drop_bank(folder: Path) -> None:
    """Remove the bank that a run keeps in its own folder."""
    FeatureStore(folder / BANK).clear()


@dataclass(frozen=True)
class Record:
    """Content of `run.json`.

    Attributes:
        identity: All that determines the result of the run; another identity is another run.
        config: The run; its pictures may have another path now.
        chosen: Names of the pictures, if a selector chose them.
    """

    identity: dict[str, Any]
    config: RunConfig
    chosen: list[str] | None


def read_run(folder: Path) -> Record:
    """Read the `run.json` of a run folder.

    Raises:
        InputError: The file does not exist or is damaged.
    """
    path = folder / RUN
    try:
        if not path.exists():
            raise InputError(f"{folder} has no {RUN}: say where the pictures are with --data")
        text = read_bytes(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    try:
        values = as_dataclass(_RunFile, parse_table(text, RUN), RUN)
        return Record(values.identity, RunConfig.of(values.run), values.chosen)
    except InputError as error:
        raise InputError(
            f"{path} is damaged ({one_line(error)}): delete {folder}, or choose another output folder"
        ) from error


@dataclass(frozen=True)
class _RunFile:
    """All fields of `run.json`; the hash and `left_out` are for people and other programs."""

    identity: dict[str, Any]
    run: dict[str, Any]
    chosen: list[str] | None
    hash: str = ""
    left_out: list[list[str]] = field(default_factory=list[list[str]])


def _states(folder: Path) -> list[Path]:
    return sorted((folder / STAGES).glob("*.safetensors"))


def _clear_leftovers(folder: Path) -> None:
    """Remove what a kill has left; refuse a folder in the place of a file."""
    for name in (RUN, CHOICE, LOG, CONFIG, TENSORS, TRUST, SCORES, CARD):
        if (folder / name).is_dir():
            raise InputError(f"{folder / name} is a folder, in the place of a file of the run: remove it")
    remove_half_written([folder, folder / STAGES])


def other_run_message(
    folder: Path, existing: Mapping[str, Any], requested: Mapping[str, Any], differing: Sequence[str]
) -> str:
    """Return a message that names the setting that differs; a given setting comes before a derived one.

    Args:
        folder: The run folder.
        existing: Identity of the run in the folder.
        requested: Identity of the requested run.
        differing: Names of the entries that differ, at least one.
    """
    key = min(differing, key=lambda entry: (_TYPED.index(entry) if entry in _TYPED else len(_TYPED), entry))
    texts = {"data": "other pictures or masks", "names": "other classes", "backbone": "another backbone"}
    difference = texts.get(key) or first_change(existing.get(key), requested.get(key), key)
    return f"{folder} holds another run ({difference}): choose another output folder, or delete it"


def first_change(old: Any, new: Any, name: str = "") -> str:
    """Describe the first difference of two JSON values, at the deepest level.

    Args:
        old: The stored value.
        new: The requested value.
        name: Name of the value; those of its entries are joined with dots.
    """
    while isinstance(old, dict) and isinstance(new, dict):
        stored, requested = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        key = next(key for key in (*requested, *stored) if stored.get(key) != requested.get(key))
        name, old, new = f"{name}.{key}" if name else key, stored.get(key), requested.get(key)
    return f"{name} was {_short(old)}, now {_short(new)}"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "…"


# Correct predictions of training pictures, epoch by epoch: logged by a run, read by a selector.


ANSWERED = "right"
"""Key in a log line for whether each picture was classified correctly."""

LOG = "log.jsonl"


@torch.no_grad()
def answered(method: Method, photos: Photos) -> dict[str, bool]:
    """Classify each picture among the trained classes; return by name whether the prediction is right.

    Pictures are in the test view, not in training views.
    """
    device = method.clip.logit_scale.device
    pictures = eval_pictures(photos, method.clip.config, masks=False)
    training, right = method.training, list[bool]()
    method.eval()
    for batch in pictures.batches(None, chunk_on(method.clip)):
        features = method.features(sent(batch.images, device), "base")
        right += (method.logits(features, "base").argmax(dim=-1).cpu() == batch.labels).tolist()
    method.train(training)
    return dict(zip((sample.name for sample in photos.samples), right, strict=True))


def read_answered(log: Path, names: Sequence[str]) -> Bool[Tensor, "epochs pictures"]:
    """Read the logged predictions of these pictures, from the run's last stage.

    Args:
        log: Run folder, or its log file.
        names: Names of the pictures, as in `Sample.name`.

    Raises:
        InputError: The log does not exist, has no predictions, or lacks an epoch or a picture.
    """
    path = log / LOG if log.is_dir() else log
    lines = list(_lines(path))
    if not lines:
        raise InputError(f"{path} does not say which answers were right: fit with --log-answers")
    stage_lines = [line for line in lines if line.get("stage") == lines[-1].get("stage")]
    if [line.get("epoch") for line in stage_lines] != list(range(len(stage_lines))):
        raise InputError(f"{path} lacks the answers of some epochs: fit anew with --log-answers")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(
            f"{repeated[0]} is in the pool twice, and {path} knows pictures by name: list it once"
        )
    unknown = [name for name in names if any(name not in line[ANSWERED] for line in stage_lines)]
    if unknown:
        raise InputError(
            f"{path} has no answers about {len(unknown)} of {len(names)} pictures, first {unknown[0]}:"
            " fit the whole pool, --select uniform --fraction 1 --log-answers"
        )
    return torch.tensor([[line[ANSWERED][name] is True for name in names] for line in stage_lines])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the log lines with predictions."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                line = _parsed(path, number, text)
                if isinstance(line.get(ANSWERED), dict):
                    yield line
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the folder of a run as --log") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no log of a run: give the folder of a run as --log") from error


def _parsed(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        return parse_table(text, "it")
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}, line {number} is damaged: delete that line, or fit again") from error
