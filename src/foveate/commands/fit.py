"""`foveate fit`: learn a classifier from a few labelled photos."""

from collections.abc import Sequence
from typing import Any, Literal

from rich.console import Console

from foveate.clip.config import EMBEDDED
from foveate.commands.launched import launched
from foveate.commands.learning import GROUPS, Learned, Options, classifier_of, learn
from foveate.commands.parsing import read_words
from foveate.commands.rows import Table, plan, train
from foveate.commands.screen import note, print_table
from foveate.errors import InputError
from foveate.foreground.masks import MaskValues
from foveate.methods.registry import methods
from foveate.select.choosing import Name
from foveate.train.loop import Diverged
from foveate.train.parallel import Team

EXAMPLES = """
    foveate fit photos/ --masks masks/ --method fvgpt+coop --shots 16 --out out/pets
    foveate fit photos/ --masks masks/ --method fvgpt+coop --backbone out/coop --out out/guided
    foveate fit photos/ --masks masks/ --config configs/table3.yaml --out out/table3
    foveate fit photos/ --method coop --select herding --fraction 0.2 --out out/few
    foveate fit photos.csv --method coop --coop.tokens 16 --epochs 50 --out out/coop
    foveate fit split_zhou_Caltech101.json --images 101_ObjectCategories/ --masks mask/ \\
        --clip openai/clip-vit-base-patch16 --classes base --out out/caltech
"""


def fit(  # noqa: PLR0913  (a command's options)
    photos: str,
    out: str,
    method: str = "fvgpt+coop",
    clip: str = "tiny",
    masks: str | None = None,
    images: str | None = None,
    shots: int | None = None,
    select: Name | None = None,
    fraction: float | None = None,
    seed: int = 1,
    classes: Literal["all", "base"] = "all",
    template: str | None = None,
    backbone: str | None = None,
    row: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimiser: Literal["sgd", "adamw"] | None = None,
    weight_decay: float | None = None,
    warmup_epochs: int | None = None,
    augment: Literal["rrc-flip", "squash", "none"] | None = None,
    crop_scale: float | None = None,
    average_mean: float | None = None,
    average_std: float | None = None,
    clip_grad: float | None = None,
    mask_values: MaskValues = "auto",
    invert_masks: bool = False,
    on_bad: Literal["error", "skip"] = "error",
    strict_shots: bool = False,
    bank: Literal["epochs", "fixed", "off"] = "epochs",
    bank_dir: str | None = None,
    bank_dtype: Literal["float32", "float16"] = "float32",
    log_answers: bool = False,
    device: str = "cpu",
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    settings: dict[str, Any] | None = None,
) -> None:
    """Learn a classifier from a few labelled photos; run again, a stopped run goes on.

    Args:
        photos: Folder per class, CSV or JSONL (image,label[,mask,split]), CoOp split JSON, or hf:owner/name.
        out: Folder of the run and of the tuned model.
        method: A backbone (zeroshot, coop, kgcoop, promptsrc, mmrl, ...), or a plug-in over one: fvgpt+coop.
        clip: Hub id, folder or file of CLIP weights; "tiny" is the embedded one, for drawn scenes.
        masks: Foreground masks, white on the object: their folder, packed, a COCO file, or boxes.csv.
        images: Where a split JSON's pictures are, if not beside it.
        shots: Pictures a class, at most (16).
        select: Choose from all training pictures in place of drawing shots.
        fraction: Share of each class that --select chooses.
        seed: Of the draw, the start, the order and the views.
        classes: Train on all classes, or on the first half only, to measure the others as new.
        template: The data set's sentence, such as "a photo of a {}, a type of pet."; not all methods use one.
        backbone: Folder of a tuned inner method (coop, for fvgpt+coop), which is then not trained again.
        row: Of a file with rows, fit this one alone, by its name.
        epochs: Passes over the pictures; the method's recipe says (10 for coop).
        batch_size: Pictures a step; likewise (4).
        lr: Peak learning rate; likewise (0.0035).
        optimiser: sgd or adamw.
        weight_decay: On learned tensors (0.0005).
        warmup_epochs: Epochs at 1e-5 before the cosine (1).
        augment: Random crop and flip, squash to a square, or the centred view.
        crop_scale: Least share of the picture a random crop keeps (0.08).
        average_mean: Epoch around which learned tensors are averaged over epochs; 15 for promptsrc, else off.
        average_std: Deviation of the average's weights, in epochs (1).
        clip_grad: Largest gradient norm; none by default.
        mask_values: What the numbers in mask files mean.
        invert_masks: Whether masks mark the background.
        on_bad: Stop at a bad picture or mask, or leave it out and say so.
        strict_shots: Whether a class with fewer pictures than shots is an error.
        bank: Encode each epoch's views once and keep their features; learn from one fixed view of a picture;
            or encode at each need (off).
        bank_dir: Folder of kept features, for other runs too; else they last as long as the run.
        bank_dtype: Precision in which they are kept.
        log_answers: Log after each epoch which pictures are answered rightly, for --select forgetting.
        device: Where the towers run, e.g. cuda.
        dtype: Precision of the frozen towers; what is learned is float32 always.
        settings: Per part of the method.
    """
    options = dict(locals())
    _refuse_row(row)
    _fit_one(options)


def run(words: Sequence[str]) -> None:
    """Run the command; where torchrun has started several, each does its part."""
    with launched() as team:
        _run(words, team)


def _run(words: Sequence[str], team: Team | None) -> None:
    settings = {name: kind.config_type for name, kind in methods().items()}
    read = read_words(
        "fit",
        fit,
        words,
        positional="photos",
        settings=settings,
        groups=GROUPS,
        examples=EXAMPLES,
        rows=True,
        not_in_rows=("out", "row"),
    )
    if read.config is None or not read.config.rows:
        options = read.arguments(read.config)
        _refuse_row(options["row"])
        _fit_one(options, team)
    elif team:
        raise InputError(
            f"{read.config.title} has rows, which are many runs, and processes that train together share one:"
            " start one process, or take foveate sweep"
        )
    else:
        _fit_rows(plan(read))


def _refuse_row(row: str | None) -> None:
    if row is not None:
        raise InputError("--row chooses a row of a file of options: give one that has rows, with --config")


def _fit_one(options: Options, team: Team | None = None) -> None:
    """Train one run, and print what has come of it."""
    learned = learn(options, classifier_of(options, team=team), team=team)
    _note_the_embedded(options["clip"])
    Console(highlight=False).print(
        f"{learned.method}: learned {learned.numbers:,} numbers from {learned.pictures} pictures"
        f" of {learned.classes} classes; {learned.ended} {learned.folder}",
        soft_wrap=True,
        markup=False,
    )


def _fit_rows(table: Table) -> None:
    """Train a table's runs, and print a line for each row."""
    _note_the_embedded(*(one.options["clip"] for one in table.runs.values()))
    done = train(table)
    lines: list[list[str]] = []
    for name, folder in table.rows.items():
        what = done[folder]
        if isinstance(what, Learned):
            lines.append([name, what.method, f"{what.numbers:,}", f"{what.ended} {folder}"])
        else:
            lines.append([name, table.runs[folder].options["method"], "", "diverged"])
    print_table(["row", "method", "learned numbers", ""], lines)
    wrong = next((one for one in done.values() if isinstance(one, Diverged)), None)
    if wrong:
        raise wrong


def _note_the_embedded(*clips: str) -> None:
    if set(EMBEDDED) & set(clips):
        note("the embedded CLIP has seen drawn shapes only; for photographs give --clip")
