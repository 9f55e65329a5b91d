"""A figure for each photo: the photo and the heat map of each method."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from foveate.classifier import Classifier
from foveate.commands.explaining import ExplainPlan, Table, cell, watched
from foveate.commands.screen import Bars
from foveate.data.loader import PictureSet
from foveate.data.samples import Photos, Sample
from foveate.data.sources import load_photos
from foveate.explain.cases import shown
from foveate.explain.measure import Looks, look
from foveate.explain.pictures import contact_sheet, outlined, overlay
from foveate.files import write_atomically
from foveate.methods.base import Method
from foveate.types import Branch

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
        write_atomically(written[-1], _png(sheet(pictures, all_looks, index)))
        bars.count("drawing", index + 1, len(paths))
    return _table(paths, all_looks, written)


def label_space(method: Method) -> Branch:
    """Return the label space of the method's class names."""
    if all(method.trained):
        return "base"
    return "mixed" if any(method.trained) else "new"


def sheet(pictures: PictureSet, seen: Sequence[Looks], place: int) -> Image.Image:
    """Return a photo and the heat map of each method, side by side."""
    case = shown(pictures, place, SIDE)
    photo = case.picture if case.mask is None else outlined(case.picture, case.mask)
    row = [photo, *(overlay(case.picture, looks.heat[place], SIDE) for looks in seen)]
    captions = ["", *(_caption(looks, place) for looks in seen)]
    return contact_sheet([row], [captions], [Path(case.name).name, *(looks.method for looks in seen)])


def _caption(looks: Looks, index: int) -> str:
    answer, asked = int(looks.answers[index]), int(looks.asked[index])
    p = looks.probabilities[index]
    predicted = f"{looks.names[answer]} {p[answer]:.2f}"
    return predicted if asked == answer else f"{looks.names[asked]} {p[asked]:.2f} (said {predicted})"


def _table(paths: Sequence[Path], all_looks: Sequence[Looks], written: Sequence[Path]) -> Table:
    has_question = any((looks.asked != looks.answers).any() for looks in all_looks)
    figures = [name for name in _FIGURES if name in all_looks[0].figures]
    columns = ["photo", *(["method"] if len(all_looks) > 1 else []), "label", "probability"]
    columns += [*(["asked about", "its probability"] if has_question else []), *figures, "picture"]
    rows: list[list[str]] = []
    for index, path in enumerate(paths):
        for looks in all_looks:
            p, answer, asked = looks.probabilities[index], looks.answers[index], looks.asked[index]
            row = [str(path), *([looks.method] if len(all_looks) > 1 else [])]
            row += [looks.names[int(answer)], f"{p[answer]:.2f}"]
            row += [looks.names[int(asked)], f"{p[asked]:.2f}"] if has_question else []
            row += [cell(float(looks.figures[name][index]), _FIGURES[name]) for name in figures]
            rows.append([*row, str(written[index])])
    return columns, rows


def _pictures(classifier: Classifier, paths: Sequence[Path], masks: str | None) -> PictureSet:
    samples = tuple(Sample(path, 0) for path in paths)
    photos = load_photos(Photos(classifier.method.names, samples), masks=masks)
    config = classifier.clip.config
    return PictureSet(photos, config.image_size, config.mean, config.std)


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


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
