"""Measurements, figures and output files of `foveate explain` on labelled pictures."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from foveate.classifier import Classifier, Split
from foveate.commands.screen import Bars, note
from foveate.data.loader import PictureSet, eval_pictures
from foveate.data.samples import Photos, Sample
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.evaluate.answers import Watch, label_space
from foveate.evaluate.metrics import wilson
from foveate.explain.gallery import (
    SIDE,
    CaseGroup,
    changed,
    contact_sheet,
    gallery,
    mistakes,
    outlined,
    overlay,
    shown,
)
from foveate.explain.measure import ANSWER, OF_MASKS, LookConfig, Looks, look
from foveate.files import write_atomically
from foveate.foreground.pictures import png_bytes
from foveate.foreground.proposers.registry import demand
from foveate.readers import csv_text
from foveate.types import Branch, PerImage

# Accuracy against the foreground shift index, as in FVG-PT's Fig. 5.


@dataclass(frozen=True)
class CurvePoint:
    """A bin of pictures with similar shift index.

    Attributes:
        shift: Mean shift index of the bin, in nats.
        accuracy: Accuracy in percent.
        low: Lower end of the accuracy's 95 % interval.
        high: Upper end of the interval.
        pictures: Number of pictures.
    """

    shift: float
    accuracy: float
    low: float
    high: float
    pictures: int


def shift_curve(shift: PerImage, right: Bool[Tensor, " batch"], bins: int = 8) -> list[CurvePoint]:
    """Sort pictures by their shift index into bins of equal size.

    Args:
        shift: `[N]` D_fg of each picture; pictures with NaN are left out.
        right: `[N]` whether the prediction is right.
        bins: Number of bins; fewer if there are fewer pictures.
    """
    known = ~shift.isnan()
    shift, right = shift[known].double(), right[known]
    parts = shift.argsort(stable=True).tensor_split(max(1, min(bins, len(shift))))
    return [_point(shift[part], right[part]) for part in parts if len(part)]


def _point(shift: PerImage, right: Bool[Tensor, " batch"]) -> CurvePoint:
    accuracy = wilson(int(right.sum()), len(right))
    return CurvePoint(shift.mean().item(), accuracy.value, accuracy.low, accuracy.high, len(right))


def draw_curves(curves: Mapping[str, Sequence[CurvePoint]], title: str = "") -> bytes:
    """Return a PNG with a curve for each method; needs the extra `plots`.

    Raises:
        InputError: matplotlib is not installed.
    """
    demand("plots", "the curve", "matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (name, points), marker in zip(curves.items(), "os^Dv" * len(curves), strict=False):
        x, y = [p.shift for p in points], [p.accuracy for p in points]
        below = [max(0.0, p.accuracy - p.low) for p in points]
        above = [max(0.0, p.high - p.accuracy) for p in points]
        axes.errorbar(x, y, [below, above], label=name, marker=marker, capsize=2, linewidth=1.5)
    axes.set_xscale("symlog", linthresh=0.01)  # most values are small
    axes.set_xlim(left=0)
    axes.set_xlabel("foreground shift index D_fg in nats (bins of equally many pictures)")
    axes.set_ylabel("accuracy in percent")
    axes.set_ylim(-2, 102)
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


# Measurements of a labelled set, and their files.


Table = tuple[list[str], list[list[str]]]
"""Columns and rows."""

DIGITS = {
    "accuracy": 2,
    "shift": 3,
    "energy": 3,
    "lift": 2,
    "pointing": 3,
    "overlap": 3,
    "deletion": 3,
    "insertion": 3,
}


@dataclass(frozen=True)
class ExplainPlan:
    """Settings of one `foveate explain`.

    Attributes:
        config: Settings of the heat maps and the metrics.
        folder: Output folder.
        branch: Label space of the explained answer; None derives it from the class names.
        bins: Number of points per curve.
        cases: Number of repaired and of broken pictures to show.
        curve: Whether to draw curves.
    """

    config: LookConfig
    folder: Path
    branch: Branch | None = None
    bins: int = 8
    cases: int = 12
    curve: bool = False

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise InputError(f"--bins is {self.bins}: give at least one")
        if self.cases < 0:
            raise InputError(f"--cases is {self.cases}: give 0 or more")


def explain_set(
    chain: Sequence[Classifier], photos: Photos, split: Split, plan: ExplainPlan, bars: Bars
) -> Table:
    """Measure methods on labelled pictures; write table.csv, table.json, pictures.csv and gallery.html.

    Args:
        chain: Zero-shot CLIP, the backbone, the method; each is compared with the one before it.
        photos: The labelled pictures.
        split: Split of the pictures and class names.
        plan: Settings.
        bars: Called with progress.

    Returns:
        A row for each method.

    Raises:
        InputError: The split has no pictures, the class or the block does not exist, or curves lack
            masks.
    """
    pictures, branch = chain[-1].ask_split(photos, split)
    if plan.curve and not pictures.has_masks:
        raise InputError("--curve needs masks of the pictures: give their folder with --masks")
    all_looks: list[Looks] = []
    for member in chain:
        pictures, branch = member.ask_split(photos, split)
        name, watch = member.method_name, watched(bars, member.method_name)
        all_looks.append(
            look(member.method, pictures, plan.branch or branch, plan.config, name=name, watch=watch)
        )
    _tell(all_looks)
    groups = [mistakes(all_looks[-1], plan.cases), *changed(all_looks, plan.cases)]
    curves = _curves(all_looks, plan.bins)
    table = _table(all_looks)
    plan.folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "split": split,
        "branch": plan.branch or branch,
        "pictures": len(pictures),
        **asdict(plan.config),
    }
    _write(plan.folder, facts, all_looks, groups, curves, pictures)
    page = _page(facts, table, all_looks, groups, pictures, bars)
    write_atomically(plan.folder / "gallery.html", page)
    if plan.curve:
        write_atomically(plan.folder / "curve.png", draw_curves(curves))
    return table


def watched(bars: Bars, name: str) -> Watch:
    """Return a callback that updates the bar of a method."""
    return partial(bars.count, f"looking, {name}")


def cell(value: float | None, digits: int) -> str:
    """Return a number as text; an empty string for None and NaN."""
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _tell(all_looks: Sequence[Looks]) -> None:
    """Print which pictures the figures cover."""
    number = len(all_looks[0].labels)
    if "energy" not in all_looks[0].figures:
        note(f"no masks: shift, {', '.join(OF_MASKS)} are left out (give their folder with --masks)")
    else:
        with_object = int((~all_looks[0].figures["energy"].isnan()).sum())
        if with_object < number:
            note(
                f"shift, {', '.join(OF_MASKS)}: over the {with_object} of {number} pictures with an object in"
                " view"
            )
    for looks in all_looks:
        blank = int((looks.heat.sum(dim=(1, 2)) == 0).sum())
        if blank:
            note(f"{looks.method}: in {blank} of {number} pictures nothing speaks for the class asked about")


def _columns(all_looks: Sequence[Looks]) -> list[str]:
    return [name for name in DIGITS if name == "accuracy" or name in all_looks[0].figures]


def _table(all_looks: Sequence[Looks]) -> Table:
    columns = _columns(all_looks)
    means = [looks.means() for looks in all_looks]
    rows = [
        [looks.method, *(cell(mean[name], DIGITS[name]) for name in columns)]
        for looks, mean in zip(all_looks, means, strict=True)
    ]
    return ["method", *columns], rows


def _curves(all_looks: Sequence[Looks], bins: int) -> dict[str, list[CurvePoint]]:
    return {
        looks.method: shift_curve(looks.figures["shift"], looks.right, bins)
        for looks in all_looks
        if "shift" in looks.figures
    }


def _write(
    folder: Path,
    facts: dict[str, Any],
    all_looks: Sequence[Looks],
    groups: Sequence[CaseGroup],
    curves: dict[str, list[CurvePoint]],
    pictures: PictureSet,
) -> None:
    """Write the figures: a line per method in table.csv, a line per picture and method in pictures.csv."""
    by_method = {
        looks.method: {
            "all": looks.means(),
            "right": looks.means(looks.right),
            "wrong": looks.means(~looks.right),
        }
        for looks in all_looks
    }
    columns = _columns(all_looks)
    lines = [
        [method, subset, *(mean[name] for name in columns)]
        for method, means in by_method.items()
        for subset, mean in means.items()
    ]
    write_atomically(folder / "table.csv", csv_text([["method", "over", *columns], *lines]))
    summary = {
        **facts,
        "passes": all_looks[-1].passes,
        "methods": by_method,
        "changed": {group.title: group.number for group in groups},
        "curves": {name: [asdict(point) for point in points] for name, points in curves.items()},
    }
    write_atomically(folder / "table.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    columns, per_picture = _picture_lines(all_looks, pictures)
    write_atomically(folder / "pictures.csv", csv_text([columns, *per_picture]))


def _picture_lines(all_looks: Sequence[Looks], pictures: PictureSet) -> tuple[list[str], list[list[object]]]:
    names, figures = all_looks[0].names, list(all_looks[0].figures)
    columns = ["photo", "label", "method", "answer", "probability", "of the label", "asked about", *figures]
    lines: list[list[object]] = []
    for looks in all_looks:
        p, of_label = looks.of(looks.answers), looks.of(looks.labels)
        for index, sample in enumerate(pictures.photos.samples):
            label, answer, about = (
                names[int(indices[index])] for indices in (looks.labels, looks.answers, looks.explained)
            )
            line = [sample.name, label, looks.method, answer, float(p[index]), float(of_label[index]), about]
            values = [float(looks.figures[name][index]) for name in figures]
            lines.append([*line, *("" if math.isnan(value) else value for value in values)])
    return columns, lines


def _page(
    facts: dict[str, Any],
    table: Table,
    all_looks: Sequence[Looks],
    groups: Sequence[CaseGroup],
    pictures: PictureSet,
    bars: Bars,
) -> str:
    drawn, total = 0, sum(len(group.indices) for group in groups)

    def show(index: int):
        nonlocal drawn
        drawn += 1
        bars.count("drawing", drawn, total)
        return shown(pictures, index, SIDE)

    columns, rows = table
    about = {ANSWER: "each method's own answer", "label": "the label"}.get(facts["about"], facts["about"])
    how = facts["how"] if facts["how"] == "rollout" else f"{facts['how']} of the {facts['target']}"
    wrong = ", ".join(
        f"{looks.method} is wrong on {int((~looks.right).sum())}" for looks in reversed(all_looks)
    )
    answer = (
        f"Of {facts['pictures']} pictures {wrong}. Mistakes come first below, the surest ones at the top."
    )
    measured = (
        f"How this was measured: split {facts['split']}, branch {facts['branch']}. Heat maps: {how}, "
        f"layer {facts['layer']}, about {about}. Shift index: temperature {facts['tau']:g}. "
        f"For deletion and insertion, removed parts of a picture become: {facts['fill']}."
    )
    title = f"What {all_looks[-1].method} gets wrong, repairs and breaks"
    return gallery(title, [answer], [columns, *rows], all_looks, groups, show, measured)


# A figure for each photo: the photo and the heat map of each method.


_SHEET_SIDE = 256
_FIGURES = {"energy": 2, "lift": 2, "pointing": 0, "overlap": 2}


def explain_photos(
    chain: Sequence[Classifier], paths: Sequence[Path], masks: str | None, plan: ExplainPlan, bars: Bars
) -> Table:
    """Write a PNG for each photo; return a row for each photo and method.

    Args:
        chain: Methods to draw, with class names set.
        paths: The photos.
        masks: Folder of the photos' masks, if any.
        plan: Settings.
        bars: Called with progress.

    Raises:
        InputError: A photo cannot be read, or the class or block does not exist.
    """
    pictures = _pictures(chain[-1], paths, masks)
    config = replace(plan.config, steps=0)
    all_looks: list[Looks] = []
    for member in chain:
        branch = plan.branch or label_space(member.method)
        watch = watched(bars, member.method_name)
        looks = look(member.method, pictures, branch, config, name=member.method_name, watch=watch)
        trust = member.trust
        all_looks.append(
            looks if trust is None else replace(looks, calibration=trust.calibration_for(branch))
        )
    plan.folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for index, name in enumerate(_names(paths)):
        written.append(plan.folder / name)
        write_atomically(written[-1], png_bytes(sheet(pictures, all_looks, index)))
        bars.count("drawing", index + 1, len(paths))
    return _sheet_table(paths, all_looks, written)


def sheet(pictures: PictureSet, all_looks: Sequence[Looks], index: int) -> Image.Image:
    """Return a photo and the heat map of each method, side by side."""
    case = shown(pictures, index, _SHEET_SIDE)
    photo = case.picture if case.mask is None else outlined(case.picture, case.mask)
    row = [photo, *(overlay(case.picture, looks.heat[index], _SHEET_SIDE) for looks in all_looks)]
    captions = ["", *(_caption(looks, index) for looks in all_looks)]
    return contact_sheet([row], [captions], [Path(case.name).name, *(looks.method for looks in all_looks)])


def _caption(looks: Looks, index: int) -> str:
    answer, explained = int(looks.answers[index]), int(looks.explained[index])
    p = looks.probabilities[index]
    predicted = f"{looks.names[answer]} {p[answer]:.2f}"
    return (
        predicted
        if explained == answer
        else f"{looks.names[explained]} {p[explained]:.2f} (said {predicted})"
    )


def _sheet_table(paths: Sequence[Path], all_looks: Sequence[Looks], written: Sequence[Path]) -> Table:
    has_question = any((looks.explained != looks.answers).any() for looks in all_looks)
    figures = [name for name in _FIGURES if name in all_looks[0].figures]
    columns = ["photo", *(["method"] if len(all_looks) > 1 else []), "label", "probability"]
    columns += [*(["asked about", "its probability"] if has_question else []), *figures, "picture"]
    rows: list[list[str]] = []
    for index, path in enumerate(paths):
        for looks in all_looks:
            p, answer, explained = looks.probabilities[index], looks.answers[index], looks.explained[index]
            row = [str(path), *([looks.method] if len(all_looks) > 1 else [])]
            row += [looks.names[int(answer)], f"{p[answer]:.2f}"]
            row += [looks.names[int(explained)], f"{p[explained]:.2f}"] if has_question else []
            row += [cell(float(looks.figures[name][index]), _FIGURES[name]) for name in figures]
            rows.append([*row, str(written[index])])
    return columns, rows


def _pictures(classifier: Classifier, paths: Sequence[Path], masks: str | None) -> PictureSet:
    samples = tuple(Sample(path, 0) for path in paths)
    photos = load_photos(Photos(classifier.method.names, samples), masks=masks)
    return eval_pictures(photos, classifier.clip.config)


def _names(paths: Sequence[Path]) -> list[str]:
    """Return a file name for each photo: its own name, unless another photo has the same."""
    used: set[str] = set()
    names: list[str] = []
    for path in paths:
        name, number = f"{path.stem}.png", 1
        while name.casefold() in used:
            number += 1
            name = f"{path.stem}-{number}.png"
        used.add(name.casefold())
        names.append(name)
    return names
