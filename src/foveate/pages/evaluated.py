"""The page of `foveate evaluate`: the confusion table, and for each number its pictures and heat maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foveate.classifier import Classifier, Split
from foveate.data.loader import eval_pictures
from foveate.data.samples import Photos
from foveate.evaluate.answers import Answers
from foveate.evaluate.judgement import Judgement
from foveate.explain.gallery import overlay
from foveate.explain.measure import LookConfig, look
from foveate.foreground.pictures import open_picture
from foveate.pages.rendering import SIDE, folder_of, inline, render, square
from foveate.train.shots import without_masks
from foveate.types import Branch

CLASSES = 30
"""Maximum number of rows of the confusion table: the classes with the most mistakes."""

RIGHT, WRONG = 4, 24
"""Maximum number of pictures for a number on the diagonal, and off it."""

MOST = 240
"""Maximum number of pictures of a page; each has about 15 kB."""

Cell = tuple[int, int]


@dataclass(frozen=True)
class Evaluated:
    """An evaluated split.

    Attributes:
        title: Title of the page.
        photos: All pictures.
        split: The split of them that was evaluated.
        answers: Predictions for the split.
        judged: Metrics of the predictions.
    """

    title: str
    photos: Photos
    split: Split
    answers: Answers
    judged: Judgement


def write_page(classifier: Classifier, evaluated: Evaluated, file: Path) -> None:
    """Write the page.

    Args:
        classifier: The classifier; it computes heat maps of the pictures on the page.
        evaluated: Its predictions.
        file: The page.

    Raises:
        InputError: jinja2 is not installed, or the folder is not there.
    """
    answers = evaluated.answers
    predicted = answers.logits.argmax(dim=1)
    rows_of: dict[Cell, list[int]] = {}
    p = answers.probabilities.max(dim=1).values
    for index in p.argsort(descending=True).tolist():
        rows_of.setdefault((int(answers.labels[index]), int(predicted[index])), []).append(index)
    classes = _classes(rows_of, len(answers.names))
    selected = _selected(rows_of, classes)
    mistakes = (row for cell, rows in rows_of.items() if cell[0] != cell[1] for row in rows[:WRONG])
    surest = sorted(mistakes, key=lambda row: (-float(p[row]), row))[:12]
    card_rows = sorted({*surest, *(row for rows in selected.values() for row in rows)})
    cards = dict(zip(card_rows, _cards(classifier, evaluated, card_rows), strict=True))
    render(
        "evaluated.html.j2",
        file,
        title=evaluated.title,
        judged=evaluated.judged,
        pictures=len(answers.labels),
        shown=[answers.names[row] for row in classes],
        left_out=len({cell[0] for cell in rows_of} - set(classes)),
        table=[_row(answers.names, row, classes, rows_of) for row in classes],
        cells=[_cell(answers.names, cell, rows_of[cell], rows, cards) for cell, rows in selected.items()],
        worst=[cards[row] for row in surest],
    )


def _classes(rows_of: Mapping[Cell, Sequence[int]], number: int) -> list[int]:
    """Return the classes of the table: those with pictures or wrong answers, at most `CLASSES`."""
    mistakes = torch.zeros(number)
    for cell, rows in rows_of.items():
        for label in cell:
            mistakes[label] += len(rows) if cell[0] != cell[1] else 1e-3
    present = [
        label for label in mistakes.argsort(descending=True, stable=True).tolist() if mistakes[label] > 0
    ]
    return sorted(present[:CLASSES])


def _selected(rows_of: Mapping[Cell, Sequence[int]], classes: Sequence[int]) -> dict[Cell, list[int]]:
    """Return the pictures to show for each number, mistakes first, at most `MOST` in all."""
    selected: dict[Cell, list[int]] = {}
    room = MOST
    for cell in sorted(rows_of, key=lambda cell: (cell[0] == cell[1], -len(rows_of[cell]))):
        if set(cell) <= set(classes):
            limit = RIGHT if cell[0] == cell[1] else WRONG
            selected[cell] = list(rows_of[cell][: min(limit, room)])
            room -= len(selected[cell])
    return selected


def _row(
    names: Sequence[str], row: int, classes: Sequence[int], rows_of: Mapping[Cell, Sequence[int]]
) -> dict[str, Any]:
    total = sum(len(rows) for cell, rows in rows_of.items() if cell[0] == row)
    numbers = [(column, len(rows_of.get((row, column), ()))) for column in classes]
    cells = [
        {"key": f"c{row}-{column}", "number": number, "share": number / max(1, total), "right": row == column}
        for column, number in numbers
    ]
    return {"name": names[row], "cells": cells}


def _cell(
    names: Sequence[str], cell: Cell, all_rows: Sequence[int], rows: Sequence[int], cards: Mapping[int, Any]
) -> dict[str, Any]:
    truth, answer = cell
    return {
        "key": f"c{truth}-{answer}",
        "truth": names[truth],
        "answer": names[answer],
        "number": len(all_rows),
        "cards": [cards[row] for row in rows],
    }


def _cards(classifier: Classifier, evaluated: Evaluated, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Return the values that the template shows for each picture."""
    pictures, branch = classifier.ask_split(without_masks(evaluated.photos), evaluated.split)
    subset = pictures.photos.with_samples([pictures.photos.samples[row] for row in rows])
    heatmaps, folder = _heatmaps(classifier, subset, branch), folder_of(pictures.photos)
    p, answers, cards = evaluated.answers.probabilities, evaluated.answers, list[dict[str, Any]]()
    for row, sample, heatmap in zip(rows, subset.samples, heatmaps, strict=True):
        picture = square(open_picture(sample.picture))
        answer, truth = int(p[row].argmax()), int(answers.labels[row])
        cards.append(
            {
                "picture": inline(picture),
                "gaze": inline(overlay(picture, heatmap, SIDE)),
                "name": sample.name.removeprefix(folder),
                "answer": answers.names[answer],
                "truth": answers.names[truth],
                "right": answer == truth,
                "probability": float(p[row, answer]),
                "of_truth": float(p[row, truth]),
            }
        )
    return cards


def _heatmaps(classifier: Classifier, photos: Photos, branch: Branch) -> torch.Tensor:
    pictures = eval_pictures(photos, classifier.clip.config)
    return look(classifier.method, pictures, branch, LookConfig(steps=0)).heat
