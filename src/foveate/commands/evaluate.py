"""`foveate evaluate`: measure the accuracy of a classifier on labelled photos."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from foveate.commands.options import parse
from foveate.commands.screen import Bars, note, notes_for_warnings, print_table

Row = dict[str, dict[str, Any]]
"""The metrics of one method, by split."""

Table = dict[str, Row]
"""The rows of several methods, by name."""

EXAMPLES = """
    foveate evaluate out/pets                            # on what fit left over, or the test split
    foveate evaluate out/pets --split new --compare      # beside the backbone and zero-shot CLIP
    foveate evaluate out/table3/*                        # one table of several models
    foveate evaluate out/pets --data other_photos/ --json
"""


def evaluate(  # noqa: PLR0913  (a command's options)
    models: list[str],
    *,
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
        models: Folders written by fit.
        data: Other pictures than those of the run; the test split if there is one, else all pictures.
        masks: Masks of --data, for the foreground shift index.
        split: Pictures of trained classes (base), of other classes (new), of both among all names (all),
            or each of these splits in the data (each).
        compare: Measure the backbone and zero-shot CLIP too.
        shift: Measure the foreground shift index too; needs masks.
        json: Print JSON instead of a table.
        on_bad: Stop at an unreadable picture or mask (error), or leave it out with a note (skip).
        clip: CLIP weights, if they are now in another place than during training.
        device: Device of the towers, e.g. cuda.
    """
    from foveate.classifier import Classifier, Split
    from foveate.commands.asking import measured, readable, tested_photos

    tables: dict[str, Table] = {}
    with notes_for_warnings(), Bars() as bars:
        for model in models:
            classifier = Classifier.from_pretrained(model, clip=clip, device=device)
            photos = readable(tested_photos(Path(model), data, masks, classifier), on_bad, shift)
            splits: list[Split] = classifier.splits(photos) if split == "each" else [split]
            tested = [classifier, *(classifier.simpler() if compare else [])]
            tables[model] = {
                one.method_name: {name: measured(one, photos, name, shift, bars) for name in splits}
                for one in reversed(tested)
            }
            _note_missing_masks(tables[model][classifier.method_name])
    if json:
        _print_json(tables if len(models) > 1 else tables[models[0]])
    else:
        _print_table(tables)


def run(words: Sequence[str]) -> None:
    """Run the command."""
    evaluate(**parse("evaluate", evaluate, words, examples=EXAMPLES))


def _note_missing_masks(row: Row) -> None:
    for name, cell in row.items():
        if cell.get("masks", cell["pictures"]) < cell["pictures"]:
            note(f"shift {name}: over the {cell['masks']} of {cell['pictures']} pictures that have masks")


def _print_json(results: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


def _print_table(tables: dict[str, Table]) -> None:
    """Print one line for each model or method in it; the cell of a split without a result is empty."""
    several = len(tables) > 1
    rows = [(model, method, row) for model, table in tables.items() for method, row in table.items()]
    splits = [split for split in ("base", "new", "all") if any(split in row for *_, row in rows)]
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
    from foveate.evaluate.metrics import harmonic_mean

    if not {"base", "new"} <= row.keys():
        return ""
    return f"{harmonic_mean(row['base']['accuracy'], row['new']['accuracy']):.2f}"
