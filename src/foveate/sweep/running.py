"""Runs one job, from the data set to its `result.json`; all executors use this module."""

import hashlib
import math
import platform
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from foveate.classifier import Classifier
from foveate.clip.model import Clip
from foveate.data.samples import Photos
from foveate.errors import SKIP, InputError
from foveate.files import set_aside
from foveate.memory import peak_mb, reset_peak
from foveate.methods.registry import REFERENCE, import_methods, parts, sees_regions
from foveate.readers import one_line
from foveate.sweep import sets
from foveate.sweep.answering import TestFeatures, measure
from foveate.sweep.jobs import OWN, Job, Question
from foveate.sweep.results import BANK, RUN, TESTS, Measured, Result, at_job, begin, result_in, write_result
from foveate.sweep.sets import keep_draw
from foveate.train.checkpoint import CONFIG, load_model
from foveate.train.config import TrackerName
from foveate.train.context import Context
from foveate.train.folder import RUN as RUN_FILE
from foveate.train.folder import STAGES, read_run
from foveate.train.journal import Reporter, Step

Report = Callable[[str, int, int], None]
"""Called with the current step in words, its finished units, and its total units."""

_SETS_HELD = 4  # picture lists that a worker keeps, because the next job often needs the same


@dataclass(frozen=True)
class SweepContext:
    """Folders and devices of a sweep's jobs.

    Attributes:
        root: Folder of the data sets.
        out: Folder of the sweep.
        device: Device of the towers.
        threads: Number of CPU threads; results on a CPU depend on it in the last bits.
        imported: Methods that each worker imports first, as "module:Class".
        track: Tracker of the trainings.
    """

    root: Path
    out: Path
    device: str = "cpu"
    threads: int = 1
    imported: tuple[str, ...] = ()
    track: TrackerName | None = None


@dataclass
class WorkerState:
    """Objects that a worker keeps between jobs: towers and picture lists.

    Attributes:
        context: Folders and devices.
        test_features: Features of test pictures.
    """

    context: SweepContext
    _towers: dict[tuple[str, str], Classifier] = field(default_factory=dict[tuple[str, str], Classifier])
    _photos: dict[tuple[str, str | None, bool], Photos] = field(
        default_factory=dict[tuple[str, str | None, bool], Photos]
    )
    test_features: TestFeatures = field(init=False)

    def __post_init__(self) -> None:
        for method in self.context.imported:
            import_methods(method)
        self.test_features = TestFeatures(self.context.out / BANK / TESTS)

    def classifier(self, job: Job) -> Classifier:
        """Return an untrained classifier for a job."""
        clip, dtype = job.config.clip, job.config.dtype
        if (clip, dtype) not in self._towers:
            self.keep(clip, dtype, open_towers(clip, dtype, self.context.device))
        return self._towers[clip, dtype].beside(job.config.method, job.config.settings)

    def has(self, clip: str, dtype: str) -> bool:
        """Return whether these towers are loaded."""
        return (clip, dtype) in self._towers

    def keep(self, clip: str, dtype: str, towers: Classifier) -> None:
        """Keep towers in place of those before: one at a time, because they are large."""
        self._towers.clear()
        self._towers[clip, dtype] = towers

    def photos(self, key: str, masks: str | None = None, *, tests_only: bool = False) -> Photos:
        """Return the pictures of a data set, with its own masks or others."""
        photos = self._photos.get((key, masks, False)) or self._photos.get((key, masks, tests_only))
        if photos is None:
            while len(self._photos) >= _SETS_HELD:
                self._photos.pop(next(iter(self._photos)))
            photos = sets.photos_of(self.context.root, key, masks, tests_only=tests_only)
            self._photos[key, masks, tests_only] = photos
        return photos


@dataclass(frozen=True)
class Done:
    """Report of a worker about a finished job.

    Attributes:
        seconds: Duration.
        before: Whether the result existed already.
        notes: Notes for the user.
    """

    seconds: float
    before: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobFailure:
    """Report of a worker about a failed job.

    Attributes:
        line: The reason, in one line.
        trace: Traceback of a bug in foveate.
    """

    line: str
    trace: str | None = None


def open_towers(clip: str, dtype: str, device: str) -> Classifier:
    """Load towers.

    Raises:
        InputError: The CLIP model does not exist.
    """
    return Classifier(REFERENCE, clip, device=device, dtype=dtype)


def check_towers(jobs: Sequence[Job]) -> None:
    """Load each needed model once, so that a missing one is reported once and the hub is queried once.

    Raises:
        InputError: A CLIP model does not exist.
    """
    for clip, dtype in dict.fromkeys((job.config.clip, job.config.dtype) for job in jobs):
        open_towers(clip, dtype, "cpu")


def missing_backbones(jobs: Sequence[Job]) -> str | None:
    """Return a message about needed tuned backbones that do not exist; None if all exist."""
    paths = dict.fromkeys(job.config.backbone for job in jobs if job.config.backbone and job.needs is None)
    absent = [path for path in paths if not Path(path).expanduser().exists()]
    if not absent:
        return None
    rest = f", and {len(absent) - 1} more of {len(paths)}" if len(absent) > 1 else ""
    return f"there is no backbone at {absent[0]}{rest}: tune it, or mend the row's path"


def towers_of(clip: Clip, source: str) -> Classifier:
    """Return a classifier from a model that is loaded already.

    Args:
        clip: The model, on its final device.
        source: Its source, for the metadata of tuned models.
    """
    classifier = Classifier(REFERENCE, clip)
    classifier.clip_source = source
    return classifier


def run_job(job: Job, worker: WorkerState, report: Report | None = None) -> Done:
    """Run a job, or the rest of it; a finished job is not changed.

    Raises:
        InputError: The data are invalid, or a training diverged; other jobs are not affected.
    """
    folder = worker.context.out / job.key
    started = time.monotonic()
    notes: list[str] = []
    with at_job(folder), _warnings_to(notes):
        previous, note = result_in(folder)
        notes += [note] if note else []
        if previous is not None and not missing(job, previous):
            return Done(0.0, before=True, notes=tuple(notes))
        begin(folder, job)
        if job.copies is not None:
            result = _copy_result(job, worker)
        else:
            photos = worker.photos(job.dataset, job.config.masks)
            _check_photos(job, photos)
            draw_hash, draw_notes = keep_draw(worker.context.out, job, photos)
            notes += [*draw_notes, *_check_run(folder / RUN), *_without_regions(job)]
            result = _train_and_test(job, worker, photos, previous, report or _ignore_progress)
            result = replace(result, hashes={**result.hashes, **({"shots": draw_hash} if draw_hash else {})})
        write_result(folder, result)
        shutil.rmtree(folder / RUN / STAGES, ignore_errors=True)  # never resumed from here
    return Done(time.monotonic() - started, notes=tuple(notes))


def throttled(report: Report, seconds: float) -> Report:
    """Return a function that reports at most once in some seconds, and the end of each step."""
    last = -math.inf

    def report_sometimes(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > seconds or done == total:
            last = now
            report(what, done, total)

    return report_sometimes


@contextmanager
def _warnings_to(notes: list[str]) -> Generator[None]:
    """Collect foveate's warnings as notes: printing from a worker would break the progress bars."""
    with warnings.catch_warnings():
        original = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
            if issubclass(category, UserWarning):
                notes.append(" ".join(str(message).split()))
            else:
                original(message, category, *args, **kwargs)

        warnings.showwarning = show
        yield


def missing(job: Job, result: Result) -> tuple[Question, ...]:
    """Return the questions of a job that its result does not answer, or answers without a metric."""

    def answered(question: Question) -> bool:
        measured = result.of(question.dataset, question.split)
        return measured is not None and set(job.of_masks) <= measured.measured_of_masks

    return tuple(q for q in job.questions if not answered(q))


def _ignore_progress(what: str, done: int, total: int) -> None:
    pass


def _copy_result(job: Job, worker: WorkerState) -> Result:
    """Return the result of the job with identical training, with this job's names."""
    assert job.copies is not None
    original, _ = result_in(worker.context.out / job.copies)
    if original is None:
        raise InputError(f"{job.copies}, which it is a copy of, has no result: run the sweep again")
    answers = [original.of(question.dataset, question.split) for question in job.questions]
    return replace(
        original,
        key=job.key,
        protocol=job.protocol,
        row=job.row,
        variant=job.variant,
        measured=tuple(measured for measured in answers if measured is not None),
    )


def _check_run(run: Path) -> list[str]:
    """Set a damaged run aside so that it starts again; return a note about it."""
    if not run.is_dir():
        return []
    try:
        if (run / RUN_FILE).exists():
            read_run(run)
        if (run / CONFIG).exists():
            load_model(run)
    except InputError as error:
        return [set_aside(run, str(error).split(":")[0])]
    return []


def _without_regions(job: Job) -> list[str]:
    """Return a note if the row's method uses regions but the row gives none."""
    if job.test_masks is not None or not sees_regions(job.config.method):
        return []
    return [f"row {job.row!r} has no test_masks: {job.config.method} answers as the method under it"]


def _train_and_test(
    job: Job, worker: WorkerState, photos: Photos, previous: Result | None, report: Report
) -> Result:
    reset_peak(worker.context.device)
    classifier = worker.classifier(job)
    started = time.monotonic()
    _fit(job, worker, classifier, photos, report)
    trained = time.monotonic()
    questions = job.questions if previous is None else missing(job, previous)
    measured = [_measure(job, worker, classifier, question, report) for question in questions]
    seconds = {"train": trained - started, "test": time.monotonic() - trained}
    if previous is not None:
        seconds = {"train": previous.seconds["train"], "test": previous.seconds["test"] + seconds["test"]}
        repeated = {(m.dataset, m.split) for m in measured}
        unchanged = [m for m in previous.measured if (m.dataset, m.split) not in repeated]
        return replace(previous, seconds=seconds, measured=(*unchanged, *measured))
    return _result(job, worker, classifier, photos, seconds, measured)


def _check_photos(job: Job, photos: Photos) -> None:
    """Refuse faults that would otherwise appear only after hours."""
    if job.config.needs_masks and not any(
        sample.mask for sample in photos.samples if sample.split == "train"
    ):
        raise InputError(f"{job.dataset} has no masks, and {job.config.method} learns from them")


def _fit(job: Job, worker: WorkerState, classifier: Classifier, photos: Photos, report: Report) -> None:
    out = worker.context.out
    config = replace(
        job.config,
        masks=None,  # the pictures have their masks
        backbone=job.config.backbone if job.needs is None else str(out / job.needs / RUN),
        bank_dir=str(out / BANK / _bank_part(job, classifier)),
        track=worker.context.track,
    )
    classifier.train(config, photos, out / job.key / RUN, Context(_JobReporter(report)))


@dataclass(frozen=True)
class _JobReporter(Reporter):
    """Sends the progress of a job to the main process."""

    report: Report

    def step(self, stage: str, total: int, step: Step) -> None:
        self.report(f"training {stage}", step.step + 1, total)

    def count(self, what: str, done: int, total: int) -> None:
        self.report(what, done, total)


def _bank_part(job: Job, classifier: Classifier) -> str:
    """Return the part of the bank that a job uses.

    Features that are encoded batch by batch during training differ in the last bits from features
    encoded ahead in larger batches. The two are stored separately, so results do not depend on the order
    of jobs.
    """
    if job.needs is None and classifier.method.tunes_vision:
        return f"batches-of-{job.config.schedule.batch_size}"
    return "ahead"


def _measure(
    job: Job, worker: WorkerState, classifier: Classifier, question: Question, report: Report
) -> Measured:
    other_set = question.dataset != job.dataset
    transferred = question.dataset.partition("@")[0] != job.dataset
    template = sets.template_of(question.dataset, parts(job.config.method)) if transferred else None
    masks = None if job.test_masks == OWN else job.test_masks
    return measure(
        classifier,
        question,
        worker.photos(question.dataset, masks, tests_only=other_set),
        worker.test_features,
        new_template=template,
        of_masks=job.of_masks,
        watch=partial(report, f"asking about {question.dataset}, {question.split}"),
    )


def _result(
    job: Job,
    worker: WorkerState,
    classifier: Classifier,
    photos: Photos,
    seconds: dict[str, float],
    measured: Sequence[Measured],
) -> Result:
    config = classifier.config
    assert config is not None
    return Result(
        key=job.key,
        protocol=job.protocol,
        row=job.row,
        dataset=job.dataset,
        variant=job.variant,
        seed=job.seed,
        method=config.method,
        recipe=job.recipe,
        shots=config.shots,
        fraction=job.config.fraction,
        select=job.config.select,
        clip=config.clip,
        config={
            "settings": config.settings,
            "training": config.recipe,
            "classes": job.config.classes,
            "template": config.template,
            "masks": job.config.masks,
            "test_masks": job.test_masks,
            "precision": config.precision,
            "bank": "epochs",
            "threads": worker.context.threads,
        },
        hashes={
            "weights": config.fingerprint,
            "split": photos.digest()[:16],
            "draw": config.data,
            "names": hashlib.sha256(repr(photos.names).encode()).hexdigest()[:16],
            "masks": photos.digest(masks=True)[:16],
        },
        versions=versions(),
        device=device_words(worker.context.device),
        seconds=seconds,
        peak_memory_mb=peak_mb(worker.context.device),
        learned_numbers=sum(tensor.numel() for tensor in classifier.method.learned().values()),
        pictures=config.pictures,
        measured=tuple(measured),
    )


def versions() -> dict[str, str]:
    """Return the versions that numbers may depend on."""
    return {
        "foveate": version("foveate"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "pillow": version("pillow"),
    }


def device_words(device: str) -> str:
    """Return a description of a device."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}, {sys.platform}"


def failure_of(error: BaseException) -> JobFailure:
    """Return the report of a failed job."""
    line = one_line(error, None)
    if isinstance(error, InputError):
        return JobFailure(line.replace(SKIP, ""))
    if isinstance(error, OSError) and error.filename:
        return JobFailure(f"{error.filename}: {error.strerror}")
    return JobFailure(f"{type(error).__name__}: {line}", "".join(traceback.format_exception(error)))
