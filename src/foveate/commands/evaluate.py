"""`foveate evaluate`: measure a classifier on photos whose names are known."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from foveate.classifier import Classifier, Split, held_out
from foveate.commands.parsing import parse
from foveate.commands.screen import Bars, notes_for_warnings, print_table
from foveate.data.samples import Photos
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.evaluate.metrics import harmonic_mean
from foveate.train.run import read_run

EXAMPLES = """
    foveate evaluate out/pets                            # on what fit left over, or the test split
    foveate evaluate out/pets --split new --compare      # beside the backbone and zero-shot CLIP
    foveate evaluate out/pets --data other_photos/ --json
"""


def evaluate(  # noqa: PLR0913  (a command's options)
    model: str,
    data: str | None = None,
    masks: str | None = None,
    split: Literal["base", "new", "all", "each"] = "each",
    compare: bool = False,
    shift: bool = False,
    json: bool = False,
    clip: str | None = None,
    device: str = "cpu",
) -> None:
    """Measure accuracy on the test split, or on the pictures that fit did not draw.

    Args:
        model: Folder that fit wrote.
        data: Other pictures than the run's own; all of them are used unless they have a test split.
        masks: Their masks, for the shift index.
        split: Pictures of trained classes (base), of the others (new), of both among all names together
            (all), or each of these that there is.
        compare: Measure the backbone alone and zero-shot CLIP too.
        shift: Measure the foreground shift index too; needs masks.
        json: Print JSON instead of a table.
        clip: The CLIP weights, if they are elsewhere than when the model was trained.
        device: Where the towers run, e.g. cuda.
    """
    with notes_for_warnings(), Bars() as bars:
        classifier = Classifier.from_pretrained(model, clip=clip, device=device)
        photos = _photos(Path(model), data, masks, classifier)
        splits = _splits(split, photos, classifier)
        tested = [classifier, *(classifier.simpler() if compare else [])]
        results: dict[str, dict[str, dict[str, Any]]] = {}
        for one in reversed(tested):
            results[one.method_name] = {name: _measure(one, photos, name, shift, bars) for name in splits}
    if json:
        _print_json(results)
    else:
        _print_table(results, splits)


def run(words: Sequence[str]) -> None:
    """Run the command."""
    evaluate(**parse("evaluate", evaluate, words, examples=EXAMPLES))


def _photos(model: Path, data: str | None, masks: str | None, classifier: Classifier) -> Photos:
    if data is not None:
        photos = load_photos(data, masks=masks)
        test = photos.split("test")
        return test if len(test) else photos
    sources = read_run(model)["sources"]
    if sources["data"] is None:
        raise InputError(
            f"{model} was trained on pictures in memory: say where the test pictures are, --data"
        )
    photos = load_photos(sources["data"], masks=masks or sources["masks"], **sources["reading"])
    assert classifier.config is not None
    return held_out(photos, classifier.config.shots, classifier.config.seed)


def _splits(split: str, photos: Photos, classifier: Classifier) -> list[Split]:
    if split != "each":
        return [split]  # type: ignore[list-item]
    assert classifier.config is not None
    known = set(classifier.config.names)
    present = {photos.names[sample.label] for sample in photos.samples}
    base: list[Split] = ["base"] if present & known else []
    return [*base, "new", "all"] if present - known and base else base or ["new"]


def _measure(classifier: Classifier, photos: Photos, split: Split, shift: bool, bars: Bars) -> dict[str, Any]:
    answers = classifier.evaluate(photos, split, shift=shift, on_count=bars.count)
    measured: dict[str, Any] = {"accuracy": answers.accuracy, "pictures": len(answers.labels)}
    measured["classes"] = answers.logits.shape[1]
    if shift:
        if answers.shift is None:
            raise InputError("the shift index needs masks of the test pictures: give --masks")
        measured["shift"] = answers.shift
    return measured


def _print_json(results: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


def _print_table(results: dict[str, dict[str, dict[str, Any]]], splits: Sequence[Split]) -> None:
    both = "base" in splits and "new" in splits
    columns = ["method", *splits, *(["HM"] if both else [])]
    shifted = any("shift" in cell for row in results.values() for cell in row.values())
    columns += [f"shift {split}" for split in splits] if shifted else []
    rows: list[list[str]] = []
    for method, row in results.items():
        line = [method, *(f"{row[split]['accuracy']:.2f}" for split in splits)]
        if both:
            line.append(f"{harmonic_mean(row['base']['accuracy'], row['new']['accuracy']):.2f}")
        if shifted:
            line += [f"{row[split]['shift']:.3f}" for split in splits]
        rows.append(line)
    print_table(columns, rows)
