"""`foveate evaluate`: measure the accuracy of a classifier on labelled photos."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from foveate.clip.precision import Precision
from foveate.commands.options import parse
from foveate.commands.screen import Bars, note, note_precision, notes_for_warnings, print_table
from foveate.errors import InputError
from foveate.files import home_of

if TYPE_CHECKING:
    from foveate.classifier import Classifier, Split
    from foveate.commands.asking import MeasuredExport
    from foveate.data.samples import Photos
    from foveate.evaluate.answers import Answers
    from foveate.evaluate.judgement import Judgement

Row = dict[str, dict[str, Any]]
"""The metrics of one method, by split."""

Table = dict[str, Row]
"""The rows of several methods, by name."""

EXAMPLES = """
    foveate evaluate out/pets                            # on what fit left over, or the test split
    foveate evaluate out/pets --split new --compare      # beside the backbone and zero-shot CLIP
    foveate evaluate out/table3/*                        # one table of several models
    foveate evaluate out/pets --data other_photos/ --json
    foveate evaluate out/pets --report page.html         # what is taken for what, with the pictures
"""


def evaluate(  # noqa: PLR0913  (a command's options)
    models: list[str],
    *,
    data: str | None = None,
    masks: str | None = None,
    test_masks: str | None = None,
    split: Literal["base", "new", "all", "each"] = "each",
    compare: bool = False,
    shift: bool = False,
    report: str | None = None,
    json: bool = False,
    on_bad: Literal["error", "skip"] = "error",
    clip: str | None = None,
    bank_dir: str | None = None,
    device: str = "cpu",
    dtype: Precision | None = None,
) -> None:
    """Measure accuracy on the test split, or on the pictures that fit did not draw.

    Args:
        models: Folders written by fit or export.
        data: Other pictures than those of the run; the test split if there is one, else all pictures.
        masks: Masks of --data, for the foreground shift index.
        test_masks: Masks for a method that sees a region of each picture, such as falip+coop; also for the
            shift index.
        split: Pictures of trained classes (base), of other classes (new), of both among all names (all),
            or each of these splits in the data (each).
        compare: Measure the backbone and zero-shot CLIP too.
        shift: Measure the foreground shift index too; needs masks.
        report: File for a page (.html): what is taken for what, on the last split, with the pictures.
        json: Print JSON instead of a table, with figures for each class and every picture that was misjudged.
        on_bad: Stop at a bad picture or mask, or leave it out and say so.
        clip: The CLIP weights, if they are elsewhere than when the model was trained.
        bank_dir: Folder of kept features: methods, models and later calls do not encode the pictures again.
        device: Where the towers run, e.g. cuda.
        dtype: Precision of the towers; by default that of the training. auto: bfloat16 where the processor
            has it, float16 on CUDA.
    """
    _check(models, report, masks, test_masks)
    from foveate.commands.asking import metrics_of, predict_split, readable, tested_photos

    model_options = {"--compare": compare, "--shift": shift, "--masks": masks, "--bank-dir": bank_dir}
    model_options |= {"--test-masks": test_masks}
    tables: dict[str, Table] = {}
    judged: dict[str, Judgement] = {}  # of the last model
    with notes_for_warnings(), Bars() as bars:
        for model in models:
            loaded = _opened(model, clip, device, dtype, {**model_options, "--report": report})
            photos = tested_photos(home_of(model), data, test_masks or masks, loaded)
            photos = readable(photos, on_bad, shift or bool(test_masks))
            splits: Sequence[Split] = loaded.splits(photos) if split == "each" else (split,)
            ask = partial(predict_split, shift=shift, region=bool(test_masks), bank=bank_dir, bars=bars)
            answers: dict[str, dict[str, Answers]] = {}
            for candidate in [*(reversed(loaded.simpler()) if compare else ()), loaded]:
                by_split = {name: ask(candidate, photos, name) for name in splits}
                answers[candidate.method_name] = by_split
            tables[model] = {
                method: {name: metrics_of(split_answers, shift) for name, split_answers in by_split.items()}
                for method, by_split in answers.items()
            }
            own_answers = answers[loaded.method_name]
            judged = _judge_splits(own_answers, tables[model][loaded.method_name])
            _note_missing_masks(tables[model][loaded.method_name])
            _keep_scores(model, data, loaded, judged, masked=bool(test_masks))
            if report:
                last = splits[-1]
                _write_page(cast("Classifier", loaded), photos, last, own_answers[last], judged[last], report)
    if json:
        _print_json(tables if len(models) > 1 else tables[models[0]])
    else:
        _print_table(tables)
        if len(models) == 1:
            _print_judged(judged)


def _check(models: Sequence[str], report: str | None, masks: str | None, test_masks: str | None) -> None:
    if report and len(models) > 1:
        raise InputError(f"--report is a page of one model, and there are {len(models)}: give one")
    if masks and test_masks:
        raise InputError("--test-masks are for the shift index too: leave out --masks")


def _opened(
    model: str, clip: str | None, device: str, dtype: Precision | None, options: Mapping[str, object]
) -> "Classifier | MeasuredExport":
    """Load a model or an export; refuse options that it does not support."""
    from foveate.classifier import Classifier
    from foveate.commands.asking import MeasuredExport
    from foveate.run.folder import find_export

    folder = find_export(model, clip, device, dtype)
    if folder is None:
        classifier = Classifier.from_pretrained(model, clip=clip, device=device, dtype=dtype)
        note_precision(classifier.precision)
        if options["--test-masks"]:
            classifier.demand_regions()
        return classifier
    unsupported = [flag for flag, value in options.items() if value]
    if unsupported:
        raise InputError(
            f"{model} is an export, which answers and no more: leave out {unsupported[0]}, or give the model"
            " itself"
        )
    return MeasuredExport(folder)


def run(words: Sequence[str]) -> None:
    """Run the command."""
    evaluate(**parse("evaluate", evaluate, words, examples=EXAMPLES))


def _keep_scores(
    model: str,
    data: str | None,
    loaded: "Classifier | MeasuredExport",
    judged: "Mapping[str, Judgement]",
    *,
    masked: bool,
) -> None:
    """Write the figures into the folder of the model, if it is local and writable; its card shows them."""
    from foveate.commands.asking import MeasuredExport
    from foveate.train.card import SplitScore
    from foveate.train.checkpoint import CONFIG
    from foveate.train.folder import read_run

    folder = home_of(model)
    if (
        isinstance(loaded, MeasuredExport)
        or not (folder / CONFIG).is_file()
        or not os.access(folder, os.W_OK)
    ):
        return
    source = data or read_run(folder).config.photos or ""
    name = source.removeprefix("hf:") if source.startswith("hf:") else Path(source).name
    name += " with masks" if masked else ""
    scores = [
        SplitScore(
            name,
            split,
            sum(row.pictures for row in judgement.classes),
            len(judgement.names),
            astuple(judgement.accuracy),
            astuple(judgement.ece),
        )
        for split, judgement in judged.items()
    ]
    loaded.keep_scores(scores, folder)


def _judge_splits(own_answers: "Mapping[str, Answers]", row: Row) -> "dict[str, Judgement]":
    """Judge the model's own answers, split by split, and add the judgements to its metrics."""
    import torch

    from foveate.evaluate.judgement import judge

    judgements = {
        name: judge(answers, torch.Generator().manual_seed(0)) for name, answers in own_answers.items()
    }
    for name, judgement in judgements.items():
        row[name] |= {"judged": judgement.as_dict()}
    return judgements


def _write_page(
    classifier: "Classifier",
    photos: "Photos",
    split: "Split",
    answers: "Answers",
    judged: "Judgement",
    report: str,
) -> None:
    from foveate.pages.evaluated import Evaluated, write_page

    title = f"{classifier.method_name}, {split}"
    write_page(classifier, Evaluated(title, photos, split, answers, judged), home_of(report))


def _print_judged(judged: "Mapping[str, Judgement]") -> None:
    """Print the intervals, the calibration error and the most frequent mistakes."""
    for split, judgement in judged.items():
        accuracy, pictures = judgement.accuracy, sum(row.pictures for row in judgement.classes)
        worst = judgement.classes[0]
        lines = [
            f"{split}: {accuracy.value:.1f} % right of {pictures} pictures; with others {accuracy.low:.1f} to"
            f" {accuracy.high:.1f} % (95 % interval)",
            f"{split}: {judgement.confidence:.1f} % sure on average, calibration error"
            f" {judgement.ece.value:.1f} points",
        ]
        if judgement.misjudged:
            pairs = ", ".join(
                f"{confusion.truth} as {confusion.answer} ({confusion.pictures})"
                for confusion in judgement.confusions[:3]
            )
            lines += [
                f"{split}: least right is {worst.name}, {worst.right} of {worst.pictures}",
                f"{split}: taken most often is {pairs}",
            ]
        sys.stdout.write("".join(f"{line}\n" for line in ["", *lines]))


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
