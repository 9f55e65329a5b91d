"""`foveate evaluate`: measure a classifier on photos whose names are known."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from foveate.classifier import Classifier, Split
from foveate.commands.parsing import parse
from foveate.commands.screen import Bars, note, notes_for_warnings, print_table
from foveate.data.checks import check_masks, check_pictures
from foveate.data.samples import Photos
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.evaluate.metrics import harmonic_mean
from foveate.foreground.masks import OnBad
from foveate.train.run import read_run
from foveate.train.shots import held_out

Row = dict[str, dict[str, Any]]
"""What was measured of a method, by split."""

Table = dict[str, Row]
"""The same of several methods, by name."""

EXAMPLES = """
    foveate evaluate out/pets                            # on what fit left over, or the test split
    foveate evaluate out/pets --split new --compare      # beside the backbone and zero-shot CLIP
    foveate evaluate out/table3/*                        # one table of several models
    foveate evaluate out/pets --data other_photos/ --json
"""


def evaluate(  # noqa: PLR0913  (a command's options)
    models: list[str],
    data: str | None = None,
    masks: str | None = None,
    split: Literal["base", "new", "all", "each"] = "each",
    compare: bool = False,
    shift: bool = False,
    json: bool = False,
    on_bad: Literal["error", "skip"] = "error",
    clip: str | None = None,
    device: str = "cpu",
) -> None:
    """Measure accuracy on the test split, or on the pictures that fit did not draw.

    Args:
        models: Folders that fit wrote.
        data: Other pictures than the run's own; all of them are used unless they have a test split.
        masks: Their masks, for the shift index.
        split: Pictures of trained classes (base), of the others (new), of both among all names together
            (all), or each of these that there is.
        compare: Measure the backbone alone and zero-shot CLIP too.
        shift: Measure the foreground shift index too; needs masks.
        json: Print JSON instead of a table.
        on_bad: Stop at a bad picture or mask, or leave it out and say so.
        clip: The CLIP weights, if they are elsewhere than when the model was trained.
        device: Where the towers run, e.g. cuda.
    """
    tables: dict[str, Table] = {}
    with notes_for_warnings(), Bars() as bars:
        for model in models:
            classifier = Classifier.from_pretrained(model, clip=clip, device=device)
            photos = readable(tested_photos(Path(model), data, masks, classifier), on_bad, shift)
            splits: list[Split] = classifier.splits(photos) if split == "each" else [split]
            tested = [classifier, *(classifier.simpler() if compare else [])]
            tables[model] = {
                one.method_name: {name: _measure(one, photos, name, shift, bars) for name in splits}
                for one in reversed(tested)
            }
            _note_missing_masks(tables[model][classifier.method_name])
    if json:
        _print_json(tables if len(models) > 1 else tables[models[0]])
    else:
        _print_table(tables)


def run(words: Sequence[str]) -> None:
    """Run the command."""
    evaluate(**parse("evaluate", evaluate, words, positional="", listed="models", examples=EXAMPLES))


def _note_missing_masks(row: Row) -> None:
    for name, cell in row.items():
        if cell.get("masks", cell["pictures"]) < cell["pictures"]:
            note(f"shift {name}: over the {cell['masks']} of {cell['pictures']} pictures that have masks")


def tested_photos(model: Path, data: str | None, masks: str | None, classifier: Classifier) -> Photos:
    """Return the pictures to measure a model on: those given, or what its run left over.

    Raises:
        InputError: They are not there any more, or were in memory.
    """
    if data is not None:
        photos = load_photos(data, masks=masks)
        test = photos.split("test")
        return test if len(test) else photos
    sources = read_run(model)["sources"]
    if sources["data"] is None:
        raise InputError(
            f"{model} was trained on pictures in memory: say where the test pictures are, --data"
        )
    try:
        photos = load_photos(sources["data"], masks=masks or sources["masks"], **sources["reading"])
    except InputError as error:
        raise InputError(
            f"{error} (it is where {model} was trained; give another place with --data)"
        ) from error
    assert classifier.config is not None
    return held_out(photos, classifier.config.shots, classifier.config.seed, sources.get("chosen"))


def readable(photos: Photos, on_bad: OnBad, shift: bool) -> Photos:
    """Leave out what cannot be read, if that is wanted; otherwise the first such stops the measuring."""
    if on_bad == "error":
        return photos
    good, bad = check_pictures(photos, on_bad)
    if not len(good):
        raise InputError(f"none of {len(photos)} test pictures can be read, first {bad[0][0]}: {bad[0][1]}")
    for name, reason in bad:
        note(f"{name}: {reason}")
    if bad:
        note(f"left out {len(bad)} of {len(photos)} pictures")
    return check_masks(good, on_bad)[0] if shift and any(sample.mask for sample in good.samples) else good


def _measure(classifier: Classifier, photos: Photos, split: Split, shift: bool, bars: Bars) -> dict[str, Any]:
    def count(what: str, done: int, total: int) -> None:
        bars.count(f"{classifier.method_name}, {what}", done, total)

    answers = classifier.evaluate(photos, split, shift=shift, on_count=count)
    measured: dict[str, Any] = {"accuracy": answers.accuracy, "pictures": len(answers.labels)}
    measured["classes"] = answers.logits.shape[1]
    if shift:
        measured["shift"] = answers.shift
        measured["masks"] = len(answers.labels) if answers.masked is None else int(answers.masked.sum())
    return measured


def _print_json(results: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


def _print_table(tables: dict[str, Table]) -> None:
    """Print a line for each model, or method in it; a split that one was not asked about stays empty."""
    several = len(tables) > 1
    rows = [(model, method, row) for model, table in tables.items() for method, row in table.items()]
    splits = [split for split in get_args(Split) if any(split in row for *_, row in rows)]
    both = "base" in splits and "new" in splits
    shifted = splits if any("shift" in cell for *_, row in rows for cell in row.values()) else []
    columns = [*(["model"] if several else []), "method", *splits, *(["HM"] if both else [])]
    lines = [
        [
            *([model] if several else []),
            method,
            *(_cell(row, split, "accuracy", 2) for split in splits),
            *([_mean_cell(row)] if both else []),
            *(_cell(row, split, "shift", 3) for split in shifted),
        ]
        for model, method, row in rows
    ]
    print_table([*columns, *(f"shift {split}" for split in shifted)], lines)


def _cell(row: Row, split: str, what: str, digits: int) -> str:
    return f"{row[split][what]:.{digits}f}" if split in row else ""


def _mean_cell(row: Row) -> str:
    if not {"base", "new"} <= row.keys():
        return ""
    return f"{harmonic_mean(row['base']['accuracy'], row['new']['accuracy']):.2f}"
