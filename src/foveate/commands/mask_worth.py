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
            f" {_judges()[0]}"
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
    method = build(f"{_judges()[0]}+{REFERENCE}", load_clip(clip, device=device))
    assert isinstance(method, ForegroundTrust)
    method.set_classes(names, template)
    return Judge(f"mean r*, zero-shot CLIP {clip}", method, trained=False)


def _judges() -> list[str]:
    """Return the plug-ins that can rate masks."""
    return [name for name, kind in plugins().items() if issubclass(kind, ForegroundTrust)]


def worths_of(
    masks: Mapping[str, MaskSet], truth: MaskSet | None, judge: Judge | None, bars: Bars
) -> dict[str, Worth]:
    """Measure each proposer's masks; the judge rates the exact masks too."""
    worths: dict[str, Worth] = {}
    for name, own in masks.items():
        same = overlap(own, truth, partial(bars.count, f"{name}: comparing")) if truth else None
        trust = judge.trust(own, partial(bars.count, f"{name}: trust")) if judge else None
        worths[name] = Worth(same, trust)
    if truth and judge:
        read = {job.name for own in masks.values() for job in own.jobs}
        worths[TRUTH] = Worth(None, judge.trust(truth.only(read), partial(bars.count, f"{TRUTH}: trust")))
    return worths


def class_rows(worths: Mapping[str, Worth]) -> list[list[str]]:
    """Return a row for each class: its name, and each compared proposer's mean IoU over its pictures."""
    compared = [worth.overlap for worth in worths.values() if worth.overlap]
    labels = dict.fromkeys(label for one in compared for label in one.by_class)
    rows = [[label or "no class", *(_mean(one.by_class.get(label)) for one in compared)] for label in labels]
    return [*rows, ["all pictures", *(f"{one.mean:.3f}" for one in compared)]]


def worth_rows(worths: Mapping[str, Worth], judge: Judge | None) -> tuple[list[str], list[list[str]]]:
    """Return the column headers, and a row for each proposer.

    The columns are mean IoU over pictures, the share of pictures above 0.5, and the mean trust, if
    measured.
    """
    compared = any(worth.overlap for worth in worths.values())
    heads = ["proposer", *(["mean IoU", "IoU > 0.5"] if compared else []), *([judge.title] if judge else [])]
    rows: list[list[str]] = []
    for name, worth in worths.items():
        one = worth.overlap
        same = [f"{one.mean:.3f}", f"{one.share_above():.3f}"] if one else [""] * 2 * compared
        rows.append([name, *same, *([] if worth.trust is None else [f"{worth.trust:.3f}"])])
    return heads, rows


def as_json(worths: Mapping[str, Worth], judge: Judge | None) -> dict[str, object]:
    """Return the same numbers for JSON."""
    said = {name: {"trust": worth.trust, **_overlap_json(worth.overlap)} for name, worth in worths.items()}
    return {"trust": judge and judge.title, "proposers": said}


def _overlap_json(one: Overlap | None) -> dict[str, object]:
    if one is None:
        return {}
    classes = {label: mean(ious) for label, ious in one.by_class.items()}
    return {
        "mean_iou": one.mean,
        "above_half": one.share_above(),
        "pictures": len(one.all),
        "classes": classes,
    }


def _mean(ious: Sequence[float] | None) -> str:
    return f"{mean(ious):.3f}" if ious else ""
