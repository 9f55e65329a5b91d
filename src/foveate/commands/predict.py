"""`foveate predict`: name what photos show."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from foveate.classifier import Classifier, Prediction
from foveate.commands.parsing import parse
from foveate.commands.screen import Bars, note, notes_for_warnings, print_table
from foveate.data.checks import check_pictures
from foveate.data.folders import list_pictures, tell_unread
from foveate.data.naming import split_names
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError

EXAMPLES = """
    foveate predict out/pets new.jpg more_photos/
    foveate predict out/pets new.jpg --classes "barn owl,heron"         # besides the trained ones
    foveate predict out/pets new.jpg --classes "barn owl,heron" --only
    foveate predict out/pets photos/ --json > answers.json
"""


def predict(  # noqa: PLR0913  (a command's options)
    model: str,
    photos: list[str],
    classes: str | None = None,
    only: bool = False,
    json: bool = False,
    on_bad: Literal["error", "skip"] = "error",
    clip: str | None = None,
    device: str = "cpu",
) -> None:
    """Name what photos show, among the trained classes and any other names.

    Args:
        model: Folder that fit wrote, or a hub id.
        photos: Pictures, and folders of pictures.
        classes: More names to choose from, with commas between them, or a file with a name a line.
        only: Choose from these names alone.
        json: Print one JSON list instead of a table.
        on_bad: Stop at a bad picture, or leave it out and say so.
        clip: The CLIP weights, if they are elsewhere than when the model was trained.
        device: Where the towers run, e.g. cuda.
    """
    if only and not split_names(classes):
        raise InputError("--only leaves no names to choose from: give some with --classes")
    with notes_for_warnings(), Bars() as bars:
        paths = find_pictures(photos)
        classifier = Classifier.from_pretrained(model, clip=clip, device=device)
        names = split_names(classes, classifier.config.names if classifier.config else ())
        if on_bad == "skip":
            paths = good_pictures(paths)
        answers = classifier.predict(list(paths), names, only=only, on_count=bars.count)
    if json:
        _print_json(answers)
    else:
        _print_table(answers)


def run(words: Sequence[str]) -> None:
    """Run the command."""
    predict(**parse("predict", predict, words, listed="photos", examples=EXAMPLES))


def find_pictures(photos: Sequence[str]) -> list[Path]:
    """Replace folders by the pictures in them.

    Raises:
        InputError: A folder has none, or it is a web address.
    """
    found: list[Path] = []
    for word in photos:
        if "://" in word:
            raise InputError(f"{word} is a web address: fetch the picture first, and give the file")
        given = Path(word)
        if not given.is_dir():
            if given.is_fifo():
                raise InputError(f"{given} is a pipe, no picture: give a file, or a folder")
            found.append(given)
            continue
        inside = list_pictures(given)
        if not inside:
            raise InputError(f"{given} has no pictures: give pictures, or a folder that has some")
        tell_unread([given])
        found += inside
    return found


def good_pictures(paths: Sequence[Path]) -> list[Path]:
    """Leave out pictures that cannot be read, and say so.

    Raises:
        InputError: None can.
    """
    photos = Photos(("photo",), tuple(Sample(path, 0) for path in paths))
    kept, bad = check_pictures(photos, "skip")
    if not len(kept):
        raise InputError(
            f"none of {len(paths)} pictures can be read, first {bad[0][0]}: {bad[0][1]}; give others"
        )
    for name, reason in bad:
        note(f"{name}: {reason}")
    if bad:
        note(f"left out {len(bad)} of {len(paths)} pictures")
    return [sample.picture for sample in kept.samples if isinstance(sample.picture, Path)]


def _print_json(answers: Sequence[Prediction]) -> None:
    sys.stdout.write(json.dumps([asdict(answer) for answer in answers], indent=2, ensure_ascii=False) + "\n")


def _print_table(answers: Sequence[Prediction]) -> None:
    trusting = any(answer.trust is not None for answer in answers)
    columns = ["photo", "label", "probability", "next", *(["trust in CLIP"] if trusting else [])]
    rows: list[list[str]] = []
    for answer in answers:
        ranked = sorted(answer.scores.items(), key=lambda item: -item[1])
        second = f"{ranked[1][0]} {ranked[1][1]:.2f}" if len(ranked) > 1 else ""
        row = [answer.photo, answer.label, f"{answer.probability:.2f}", second]
        rows.append([*row, f"{answer.trust:.2f}"] if answer.trust is not None else row)
    print_table(columns, rows)
