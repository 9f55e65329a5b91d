"""`foveate predict`: predict the class of photos."""

import json as json_module
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

from foveate.clip.precision import Precision
from foveate.commands.options import parse
from foveate.commands.screen import Bars, note_precision, notes_for_warnings, print_table
from foveate.data.naming import split_names
from foveate.errors import InputError

EXAMPLES = """
    foveate predict out/pets new.jpg more_photos/
    foveate predict out/pets new.jpg --classes "barn owl,heron"         # besides the trained ones
    foveate predict out/pets new.jpg --classes "barn owl,heron" --only
    foveate predict out/pets new.jpg --abstain --risk 0.1               # "none of these"; names it may be
    foveate predict out/pets photos/ --json > answers.json
    foveate predict out/pets-onnx new.jpg                               # an export, without PyTorch
"""


def predict(  # noqa: PLR0913  (a command's options)
    model: str,
    photos: list[str],
    *,
    classes: str | None = None,
    only: bool = False,
    test_masks: str | None = None,
    risk: float | None = None,
    abstain: bool = False,
    json: bool = False,
    on_bad: Literal["error", "skip"] = "error",
    clip: str | None = None,
    device: str = "cpu",
    dtype: Precision | None = None,
) -> None:
    """Predict the class of each photo, among the trained classes and any other names.

    Args:
        model: Folder written by fit or export, or a hub id.
        photos: Pictures, and folders of pictures.
        classes: More names to choose from, with commas between them, or a file with a name a line.
        only: Choose from these names alone.
        test_masks: Masks of the photos, for a method that sees a region of each, such as falip+coop.
        risk: Give all names that a photo may show; in this share of photos the right one is missing.
        abstain: Say "none of these" of photos that are unlike all that the model was fitted to.
        json: Print one JSON list instead of a table.
        on_bad: Stop at an unreadable picture (error), or leave it out with a note (skip).
        clip: CLIP weights, if they are now in another place than during training.
        device: Device of the towers, e.g. cuda.
        dtype: Precision of the towers; by default that of the training. auto: bfloat16 where the processor
            has it, float16 on CUDA.
    """
    if only and not split_names(classes):
        raise InputError("--only leaves no names to choose from: give some with --classes")
    from foveate.commands.finding import find_pictures, good_pictures
    from foveate.run.folder import find_export

    with notes_for_warnings(), Bars() as bars:
        paths = find_pictures(photos)
        if find_export(model, clip, device, dtype):
            if test_masks:
                raise InputError(f"{model} is an export, which looks at no masks: leave out --test-masks")
            from foveate.run import load

            exported = load(model)
            ask, trained = partial(exported.predict, watch=partial(bars.count, "photos")), exported.names
        else:
            from foveate.classifier import Classifier

            classifier = Classifier.from_pretrained(model, clip=clip, device=device, dtype=dtype)
            note_precision(classifier.precision)
            ask = partial(classifier.predict, test_masks=test_masks, reporter=bars)
            trained = classifier.config.names if classifier.config else ()
        names = split_names(classes, trained)
        if on_bad == "skip":
            paths = good_pictures(paths)
        answers = ask(list(paths), names, only=only, risk=risk, abstain=abstain)
    entries = [asdict(answer) for answer in answers]
    if json:
        sys.stdout.write(json_module.dumps(entries, indent=2, ensure_ascii=False) + "\n")
    else:
        _print_table(entries, abstain)


def run(words: Sequence[str]) -> None:
    """Run the command."""
    predict(**parse("predict", predict, words, examples=EXAMPLES))


def _print_table(answers: Sequence[Mapping[str, Any]], abstain: bool) -> None:
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "photo": lambda answer: answer["photo"],
        "label": lambda answer: "none of these" if answer["refused"] else answer["label"],
        "probability": lambda answer: f"{answer['probability']:.2f}",
        "next": _second,
        "trust in CLIP": lambda answer: f"{answer['trust']:.2f}",
        "one of": lambda answer: ", ".join(answer["names"]),
        "novelty": lambda answer: f"{answer['novelty']:.2f}",
    }
    needs = {"trust in CLIP": "trust", "one of": "names", "novelty": "novelty"}
    for column, key in needs.items():
        if not any(answer[key] is not None for answer in answers) or (key == "novelty" and not abstain):
            del columns[column]
    print_table(list(columns), [[cell(answer) for cell in columns.values()] for answer in answers])


def _second(answer: Mapping[str, Any]) -> str:
    ranked = sorted(answer["scores"].items(), key=lambda item: -item[1])
    return f"{ranked[1][0]} {ranked[1][1]:.2f}" if len(ranked) > 1 else ""
