"""A figure for each photo: the photo and the heat map of each method."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from foveate.classifier import Classifier
from foveate.commands.explaining import ExplainPlan, Table, cell, watched
from foveate.commands.screen import Bars
from foveate.data.loader import PictureSet, eval_pictures
from foveate.data.samples import Photos, Sample
from foveate.data.sources import load_photos
from foveate.evaluate.splits import label_space
from foveate.explain.cases import shown
from foveate.explain.measure import Looks, look
from foveate.explain.pictures import contact_sheet, outlined, overlay
from foveate.files import write_atomically
from foveate.foreground.pictures import png_bytes

SIDE = 256
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
    return _table(paths, all_looks, written)


def sheet(pictures: PictureSet, all_looks: Sequence[Looks], index: int) -> Image.Image:
    """Return a photo and the heat map of each method, side by side."""
    case = shown(pictures, index, SIDE)
    photo = case.picture if case.mask is None else outlined(case.picture, case.mask)
    row = [photo, *(overlay(case.picture, looks.heat[index], SIDE) for looks in all_looks)]
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


def _table(paths: Sequence[Path], all_looks: Sequence[Looks], written: Sequence[Path]) -> Table:
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
