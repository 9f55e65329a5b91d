"""`foveate masks`: make, report, pack and compare masks from options."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from foveate.classifier import Classifier
from foveate.clip.weights import load_clip
from foveate.commands.proposer_options import constructor_arguments, part_of
from foveate.commands.screen import Bars, note
from foveate.errors import InputError
from foveate.evaluate.mask_scores import MaskSet, Overlap, Watch, mean_target, mean_trust, overlap
from foveate.evaluate.metrics import mean
from foveate.files import write_atomically
from foveate.foreground.checks import OnBad
from foveate.foreground.cleanup import TidyConfig
from foveate.foreground.cutting import MaskJob, Missed
from foveate.foreground.making import Made, check_jobs, make_masks, mask_key, opening_of
from foveate.foreground.pictures import png_bytes
from foveate.foreground.proposers.registry import PROPOSERS, demand, proposer_class
from foveate.foreground.records import HEAD, MaskRecord
from foveate.foreground.shards import INDEX
from foveate.foreground.store import MaskStore, pack
from foveate.foreground.survey import import_masks
from foveate.foreground.values import MaskValues
from foveate.methods.capabilities import ForegroundTrust
from foveate.methods.registry import REFERENCE, build, plugins

FILES = "files"
"""Proposer name for existing masks."""

REPORT = "_report"  # no picture has this folder name, so no contact sheet is mistaken for a mask
_LISTED = 5


@dataclass(frozen=True)
class MaskOrder:
    """Masks to make, and the settings.

    Attributes:
        jobs: The pictures.
        names: Names of the proposers.
        out: Output folder; several proposers get one subfolder each.
        common: Settings shared by all proposers.
        settings: Settings by prefix of the proposers.
        tidy: Settings of the clean-up of masks.
        key: Text prompts in use; stored with the masks of a proposer that reads texts.
        on_bad: Stop at unreadable pictures, or leave them out.
        workers: Number of processes or actors; None: this process, or as many actors as fit.
        ray: Whether to use a Ray cluster.
        ray_address: Address of the cluster; None: RAY_ADDRESS, or this computer.
        pack: Folder for packed masks; None packs none.
        tree: Existing masks, for the proposer "files".
        values: Meaning of their pixel values.
        invert: Whether they mark the background.
    """

    jobs: Sequence[MaskJob]
    names: Sequence[str]
    out: Path
    common: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    tidy: TidyConfig
    key: Mapping[str, object]
    on_bad: OnBad = "error"
    workers: int | None = None
    ray: bool = False
    ray_address: str | None = None
    pack: Path | None = None
    tree: Path | None = None
    values: MaskValues = "auto"
    invert: bool = False

    def folder(self, name: str) -> Path:
        """Return the folder of one proposer's masks."""
        return self.out / name if len(self.names) > 1 else self.out

    def shards(self, name: str) -> Path | None:
        """Return the folder of one proposer's packed masks."""
        return self.pack / name if self.pack and len(self.names) > 1 else self.pack

    def check(self) -> None:
        """Check the order before any mask is made.

        Raises:
            InputError: A proposer does not exist or is given twice, a setting belongs to no proposer, a
                proposer lacks text prompts, or Ray is needed but not installed or not requested.
        """
        if not self.names:
            raise InputError(f"--proposer names none: give some of {', '.join((FILES, *PROPOSERS))}")
        self._check_tree()
        for name in self.names:
            self._check_proposer(name)
        unknown = sorted(self.settings.keys() - {part_of(name) for name in self.names})
        if unknown:
            raise InputError(f"settings for {unknown[0]!r}, but --proposer is {','.join(self.names)}")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers is {self.workers}: give 1 or more")
        if self.ray_address and not self.ray:
            raise InputError("--ray-address is for Ray: give --ray too")
        if self.ray:
            demand("ray", "--ray", "ray")
        if len(self.names) > 1 and (self.out / HEAD).is_file():
            raise InputError(
                f"{self.out} holds one proposer's masks, and those of several go into folders of their own:"
                " choose another --out"
            )

    def _check_tree(self) -> None:
        if self.pack and self.pack.is_file():
            raise InputError(f"--pack {self.pack} is a file: give a folder to write to, new or empty")
        if (FILES in self.names) != (self.tree is not None):
            raise InputError("--proposer files and --tree, the masks that are there already, go together")
        if self.tree and not self.tree.exists():
            raise InputError(f"--tree {self.tree}: no such folder of masks, packed masks or COCO file")

    def _check_proposer(self, name: str) -> None:
        reads_text = name != FILES and getattr(proposer_class(name), "reads_text", False)
        check_jobs(self.jobs, name, reads_text)
        shards = self.shards(name)
        if shards and (shards / INDEX).is_file():
            raise InputError(f"--pack {shards} holds packed masks already: choose another, or delete it")
        if self.names.count(name) > 1:
            raise InputError(f"--proposer has {name!r} twice: give each once")


def make(order: MaskOrder, name: str, bars: Bars) -> tuple[Made, list[MaskRecord]]:
    """Make one proposer's masks; return counts and the records of the requested pictures.

    Raises:
        InputError: The proposer cannot run, or a picture cannot be read.
    """
    if name == FILES:
        return _import_files(order, bars)
    settings = constructor_arguments(name, order.settings.get(part_of(name), {}), order.common)
    opening = opening_of(name, settings)
    proposer = opening()
    texts = order.key if proposer.reads_text else {}
    try:
        with MaskStore.open(order.folder(name), mask_key(proposer, order.tidy, **texts)) as store:
            made = _maker(order)(
                order.jobs,
                proposer,
                store,
                tidy=order.tidy,
                on_bad=order.on_bad,
                opening=opening,
                on_count=partial(bars.count, f"{name}: masks"),
            )
            records = [store.finished.get(job.name) for job in order.jobs]
    finally:
        proposer.close()
    _note_missed(f"{name}: without", made.skipped, len(order.jobs))
    _note_missed(f"{name} failed on, and takes the whole of,", made.failed, len(order.jobs))
    skipped = {missed.job.name for missed in made.skipped}
    return made, [record for record in records if record is not None and record.name not in skipped]


def _import_files(order: MaskOrder, bars: Bars) -> tuple[Made, list[MaskRecord]]:
    """Copy existing masks from any layout; print a note on what was found."""
    assert order.tree is not None
    key = {"proposer": FILES, "values": order.values, "invert": order.invert}
    pictures = [(job.name, job.path, job.label) for job in order.jobs]
    with MaskStore.open(order.folder(FILES), key) as store:
        count_before = len(store.finished)
        imported = import_masks(
            pictures,
            order.tree,
            store,
            values=order.values,
            invert=order.invert,
            on_bad=order.on_bad,
            on_count=partial(bars.count, f"{FILES}: masks"),
        )
        records = [store.finished[name] for name, _, _ in pictures if name in store.finished]
        made = len(store.finished) - count_before
    for line in imported.lines():
        note(line)
    return Made(made, len(records) - made), records


def write_reports(order: MaskOrder, name: str, records: Sequence[MaskRecord], seed: int) -> list[list[str]]:
    """Write contact sheets and a quality report below the masks; return the rows of the report."""
    from foveate.foreground.contact import contact_sheet_html, contact_sheet_png
    from foveate.foreground.quality import quality

    folder, photos = order.folder(name), _top(order.jobs)
    report_folder = folder / REPORT
    report_folder.mkdir(exist_ok=True)
    report = quality(records, folder, seed=seed)
    write_atomically(report_folder / "quality.json", json.dumps(report.as_json(), indent=2) + "\n")
    write_atomically(
        report_folder / "contact.html", contact_sheet_html(records, folder, photos, statistics=report)
    )
    sheet = contact_sheet_png(records, folder, photos, choose="spread")
    write_atomically(report_folder / "contact.png", png_bytes(sheet))
    note(f"{name}: look at {report_folder / 'contact.html'}")
    return report.rows()


def pack_all(order: MaskOrder) -> None:
    """Pack the masks of each proposer, if requested."""
    for name in order.names:
        shards = order.shards(name)
        if shards:
            shards.parent.mkdir(parents=True, exist_ok=True)
            note(f"{name}: packed {pack(order.folder(name), shards)} masks into {shards}")


def _top(jobs: Sequence[MaskJob]) -> Path:
    """Return the folder that job names are relative to."""
    return jobs[0].path.parents[len(PurePosixPath(jobs[0].name).parts) - 1]


def _maker(order: MaskOrder) -> Callable[..., Made]:
    if not order.ray:
        return partial(make_masks, workers=order.workers or 1)
    from foveate.scale.ray_masks import make_masks_on_ray

    return partial(make_masks_on_ray, workers=order.workers, address=order.ray_address)


def _note_missed(what: str, missed: Sequence[Missed], total: int) -> None:
    for miss in missed[:_LISTED]:
        note(f"{miss.job.path}: {miss.reason}")
    if missed:
        note(f"{what} {len(missed)} of {total} pictures")


# Quality of proposers' masks, side by side: mean IoU with exact masks, and a gate's trust in them.


TRUTH = "(exact masks)"


@dataclass(frozen=True)
class Judge:
    """The model that rates how far masks can be trusted.

    Attributes:
        title: Description of the measured value; header of a column.
        method: The method, with its classes set.
        trained: Whether its gate is trained; otherwise the target of gates is measured.
    """

    title: str
    method: ForegroundTrust
    trained: bool

    def trust(self, masks: MaskSet, watch: Watch | None = None) -> float:
        """Return the mean trust in these masks.

        Raises:
            InputError: No mask belongs to a class of the method.
        """
        return (mean_trust if self.trained else mean_target)(self.method, masks, watch)


@dataclass(frozen=True)
class Worth:
    """Quality of one set of masks.

    Attributes:
        overlap: Overlap with exact masks; None without exact masks.
        trust: Mean trust over its pictures; None without a judge.
    """

    overlap: Overlap | None
    trust: float | None


def judge_by_model(model: str, clip: str | None, device: str) -> Judge:
    """Return a judge with a trained gate.

    Raises:
        InputError: The model does not exist, or it has no foreground gate.
    """
    classifier = Classifier.from_pretrained(model, clip=clip, device=device)
    method = classifier.method
    if not isinstance(method, ForegroundTrust) or not method.has_gate():
        raise InputError(
            f"{model} is {classifier.method_name!r} and has no foreground gate: give a model of"
            f" {_rating_plugins()[0]}"
        )
    return Judge(f"mean r, gate of {model}", method, trained=True)


def judge_by_clip(jobs: Sequence[MaskJob], clip: str, template: str | None, device: str) -> Judge | None:
    """Return a judge with the target of gates, over zero-shot CLIP; None if there are fewer than two classes.

    Raises:
        InputError: The CLIP does not exist.
    """
    names = list(dict.fromkeys(job.label for job in jobs))
    if len(names) < 2 or not all(names):
        return None
    method = build(f"{_rating_plugins()[0]}+{REFERENCE}", load_clip(clip, device=device))
    assert isinstance(method, ForegroundTrust)
    method.set_classes(names, template)
    return Judge(f"mean r*, zero-shot CLIP {clip}", method, trained=False)


def _rating_plugins() -> list[str]:
    """Return the plug-ins that can rate masks."""
    return [name for name, kind in plugins().items() if issubclass(kind, ForegroundTrust)]


def worths_of(
    masks: Mapping[str, MaskSet], truth: MaskSet | None, judge: Judge | None, bars: Bars
) -> dict[str, Worth]:
    """Measure each proposer's masks; the judge rates the exact masks too."""
    worths: dict[str, Worth] = {}
    for name, mask_set in masks.items():
        iou = overlap(mask_set, truth, partial(bars.count, f"{name}: comparing")) if truth else None
        trust = judge.trust(mask_set, partial(bars.count, f"{name}: trust")) if judge else None
        worths[name] = Worth(iou, trust)
    if truth and judge:
        names = {job.name for mask_set in masks.values() for job in mask_set.jobs}
        worths[TRUTH] = Worth(None, judge.trust(truth.only(names), partial(bars.count, f"{TRUTH}: trust")))
    return worths


def class_rows(worths: Mapping[str, Worth]) -> list[list[str]]:
    """Return a row for each class: its name, and each compared proposer's mean IoU over its pictures."""
    overlaps = [worth.overlap for worth in worths.values() if worth.overlap]
    labels = dict.fromkeys(label for measured in overlaps for label in measured.by_class)
    rows = [
        [label or "no class", *(_mean(measured.by_class.get(label)) for measured in overlaps)]
        for label in labels
    ]
    return [*rows, ["all pictures", *(f"{measured.mean:.3f}" for measured in overlaps)]]


def worth_rows(worths: Mapping[str, Worth], judge: Judge | None) -> tuple[list[str], list[list[str]]]:
    """Return the column headers, and a row for each proposer.

    The columns are mean IoU over pictures, the share of pictures above 0.5, and the mean trust, if
    measured.
    """
    compared = any(worth.overlap for worth in worths.values())
    heads = ["proposer", *(["mean IoU", "IoU > 0.5"] if compared else []), *([judge.title] if judge else [])]
    rows: list[list[str]] = []
    for name, worth in worths.items():
        measured = worth.overlap
        cells = [f"{measured.mean:.3f}", f"{measured.share_above():.3f}"] if measured else [""] * 2 * compared
        rows.append([name, *cells, *([] if worth.trust is None else [f"{worth.trust:.3f}"])])
    return heads, rows


def as_json(worths: Mapping[str, Worth], judge: Judge | None) -> dict[str, object]:
    """Return the same numbers for JSON."""
    by_proposer = {
        name: {"trust": worth.trust, **_overlap_json(worth.overlap)} for name, worth in worths.items()
    }
    return {"trust": judge and judge.title, "proposers": by_proposer}


def _overlap_json(measured: Overlap | None) -> dict[str, object]:
    if measured is None:
        return {}
    classes = {label: mean(ious) for label, ious in measured.by_class.items()}
    return {
        "mean_iou": measured.mean,
        "above_half": measured.share_above(),
        "pictures": len(measured.all),
        "classes": classes,
    }


def _mean(ious: Sequence[float] | None) -> str:
    return f"{mean(ious):.3f}" if ious else ""
