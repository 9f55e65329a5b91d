"""Quality of proposers' masks, side by side: mean IoU with exact masks, and a gate's trust in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from foveate.classifier import Classifier
from foveate.clip.weights import load_clip
from foveate.commands.screen import Bars
from foveate.errors import InputError
from foveate.evaluate.mask_scores import MaskSet, Overlap, Watch, mean_target, mean_trust, overlap
from foveate.evaluate.metrics import mean
from foveate.foreground.cutting import MaskJob
from foveate.methods.capabilities import ForegroundTrust
from foveate.methods.registry import REFERENCE, build, plugins

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
