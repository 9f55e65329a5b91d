"""The page of `foveate evaluate`: the confusion table, and behind each number its pictures and their gaze."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foveate.classifier import Classifier, Split
from foveate.data.loader import PictureSet
from foveate.data.pictures import open_picture
from foveate.data.samples import Photos
from foveate.evaluate.answers import Answers
from foveate.evaluate.judgement import Judgement
from foveate.explain.measure import LookConfig, look
from foveate.explain.pictures import overlay
from foveate.pages.rendering import SIDE, folder_of, inline, render, square
from foveate.train.shots import without_masks
from foveate.types import Branch

CLASSES = 30
"""Rows of the confusion table: those with the most mistakes."""

RIGHT, WRONG = 4, 24
"""Pictures behind a number on the diagonal, and beside it."""

MOST = 240
"""Pictures of a page; each is some 15 kB."""

Cell = tuple[int, int]


@dataclass(frozen=True)
class Evaluated:
    """A split that was judged.

    Attributes:
        title: Of the page.
        photos: All pictures.
        split: Which of them were asked about.
        answers: What was said of them.
        judged: The same, judged.
    """

    title: str
    photos: Photos
    split: Split
    answers: Answers
    judged: Judgement


def write_page(classifier: Classifier, found: Evaluated, file: Path) -> None:
    """Write the page.

    Args:
        classifier: Looks again at the pictures that are shown.
        found: What it said of them.
        file: The page.

    Raises:
        InputError: jinja2 is not installed, or the folder is not there.
    """
    answers = found.answers
    given = answers.logits.argmax(dim=1)
    places: dict[Cell, list[int]] = {}
    p = answers.probabilities.max(dim=1).values
    for place in p.argsort(descending=True).tolist():
        places.setdefault((int(answers.labels[place]), int(given[place])), []).append(place)
    shown = _classes(places, len(answers.names))
    wanted = _wanted(places, shown)
    wrong = (row for cell, rows in places.items() if cell[0] != cell[1] for row in rows[:WRONG])
    surest = sorted(wrong, key=lambda row: (-float(p[row]), row))[:12]
    drawn = sorted({*surest, *(row for rows in wanted.values() for row in rows)})
    cards = dict(zip(drawn, _cards(classifier, found, drawn), strict=True))
    render(
        "evaluated.html.j2",
        file,
        title=found.title,
        judged=found.judged,
        pictures=len(answers.labels),
        shown=[answers.names[row] for row in shown],
        left_out=len({cell[0] for cell in places} - set(shown)),
        table=[_row(answers.names, row, shown, places) for row in shown],
        cells=[_cell(answers.names, cell, places[cell], rows, cards) for cell, rows in wanted.items()],
        worst=[cards[row] for row in surest],
    )


def _classes(places: Mapping[Cell, Sequence[int]], number: int) -> list[int]:
    """Return the classes that the table has: those with pictures or wrong answers, at most `CLASSES`."""
    mistakes = torch.zeros(number)
    for cell, rows in places.items():
        for row in cell:
            mistakes[row] += len(rows) if cell[0] != cell[1] else 1e-3
    there = [row for row in mistakes.argsort(descending=True, stable=True).tolist() if mistakes[row] > 0]
    return sorted(there[:CLASSES])


def _wanted(places: Mapping[Cell, Sequence[int]], shown: Sequence[int]) -> dict[Cell, list[int]]:
    """Return the pictures behind each number, mistakes first, as long as there is room."""
    wanted: dict[Cell, list[int]] = {}
    room = MOST
    for cell in sorted(places, key=lambda cell: (cell[0] == cell[1], -len(places[cell]))):
        if set(cell) <= set(shown):
            most = RIGHT if cell[0] == cell[1] else WRONG
            wanted[cell] = list(places[cell][: min(most, room)])
            room -= len(wanted[cell])
    return wanted


def _row(
    names: Sequence[str], row: int, shown: Sequence[int], places: Mapping[Cell, Sequence[int]]
) -> dict[str, Any]:
    whole = sum(len(rows) for cell, rows in places.items() if cell[0] == row)
    numbers = [(column, len(places.get((row, column), ()))) for column in shown]
    cells = [
        {"key": f"c{row}-{column}", "number": number, "share": number / max(1, whole), "right": row == column}
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


def _cards(classifier: Classifier, found: Evaluated, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Return what the page shows of some pictures."""
    whole, branch = classifier.ask_split(without_masks(found.photos), found.split)
    few = whole.photos.with_samples([whole.photos.samples[row] for row in rows])
    heat, folder = _gazes(classifier, few, branch), folder_of(whole.photos)
    p, answers, cards = found.answers.probabilities, found.answers, list[dict[str, Any]]()
    for row, sample, own in zip(rows, few.samples, heat, strict=True):
        seen = square(open_picture(sample.picture))
        answer, truth = int(p[row].argmax()), int(answers.labels[row])
        cards.append(
            {
                "picture": inline(seen),
                "gaze": inline(overlay(seen, own, SIDE)),
                "name": sample.name.removeprefix(folder),
                "answer": answers.names[answer],
                "truth": answers.names[truth],
                "right": answer == truth,
                "probability": float(p[row, answer]),
                "of_truth": float(p[row, truth]),
            }
        )
    return cards


def _gazes(classifier: Classifier, photos: Photos, branch: Branch) -> torch.Tensor:
    config = classifier.clip.config
    pictures = PictureSet(photos, config.image_size, config.mean, config.std)
    return look(classifier.method, pictures, branch, LookConfig(steps=0)).heat
