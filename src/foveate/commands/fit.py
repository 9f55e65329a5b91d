"""`foveate fit`: learn a classifier from a few labelled photos."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from foveate.classifier import Classifier
from foveate.commands.parsing import parse
from foveate.commands.screen import Bars, note, notes_for_warnings
from foveate.foreground.masks import MaskValues
from foveate.methods.registry import PARTS
from foveate.train.checkpoint import CONFIG

EXAMPLES = """
    foveate fit photos/ --masks masks/ --method fvgpt+coop --shots 16 --out out/pets
    foveate fit photos.csv --method coop --coop.tokens 16 --epochs 50 --out out/coop
    foveate fit split_zhou_Caltech101.json --images 101_ObjectCategories/ --masks mask/ \\
        --clip openai/clip-vit-base-patch16 --classes base --out out/caltech
"""

GROUPS = {
    "reading pictures and masks": (
        "masks",
        "images",
        "mask_values",
        "invert_masks",
        "on_bad",
        "strict_shots",
    ),
    "training": (
        "epochs",
        "batch_size",
        "lr",
        "optimiser",
        "weight_decay",
        "warmup_epochs",
        "augment",
        "crop_scale",
        "average_mean",
        "average_std",
        "clip_grad",
    ),
}


def fit(  # noqa: PLR0913  (a command's options)
    photos: str,
    out: str,
    method: str = "fvgpt+coop",
    clip: str = "tiny",
    masks: str | None = None,
    images: str | None = None,
    shots: int = 16,
    seed: int = 1,
    classes: Literal["all", "base"] = "all",
    template: str | None = None,
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
    device: str = "cpu",
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    settings: dict[str, Any] | None = None,
) -> None:
    """Learn a classifier from a few labelled photos; run again, a stopped run goes on.

    Args:
        photos: Folder per class, CSV or JSONL (image,label[,mask,split]), CoOp split JSON, or hf:owner/name.
        out: Folder of the run and of the tuned model.
        method: zeroshot, coop, or a plug-in over a backbone: fvgpt+coop.
        clip: Hub id, folder or file of CLIP weights; "tiny" is the embedded one, for drawn scenes.
        masks: Folder of foreground masks, white on the object.
        images: Where a split JSON's pictures are, if not beside it.
        shots: Pictures a class, at most.
        seed: Of the draw, the start, the order and the views.
        classes: Train on all classes, or on the first half only, to measure the others as new.
        template: The data set's sentence, such as "a photo of a {}, a type of pet."; for zeroshot.
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
        device: Where the towers run, e.g. cuda.
        dtype: Precision of the frozen towers; what is learned is float32 always.
        settings: Per part of the method.
    """
    recipe = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "optimiser": optimiser,
        "weight_decay": weight_decay,
        "warmup_epochs": warmup_epochs,
        "augment": augment,
        "crop_scale": crop_scale,
        "average_mean": average_mean,
        "average_std": average_std,
        "clip_grad": clip_grad,
    }
    reading = {"mask_values": mask_values, "invert_masks": invert_masks}
    if images is not None:
        reading["images"] = images
    finished = (Path(out) / CONFIG).is_file()
    with notes_for_warnings(), Bars() as bars:
        classifier = Classifier(method, clip, settings=settings, device=device, dtype=getattr(torch, dtype))
        classifier.fit(
            photos,
            masks=masks,
            shots=shots,
            seed=seed,
            classes=classes,
            template=template,
            recipe=recipe,
            out=out,
            on_bad=on_bad,
            strict_shots=strict_shots,
            reading=reading,
            on_step=bars.step,
            on_count=bars.count,
        )
    if clip == "tiny":
        note("the embedded CLIP has seen drawn shapes only; for photographs give --clip")
    assert classifier.config is not None
    ended = "had finished before, in" if finished else "saved in"
    numbers = sum(tensor.numel() for tensor in classifier.method.learned().values())
    Console(highlight=False).print(
        f"{classifier.method_name}: learned {numbers:,} numbers from {classifier.config.pictures} pictures"
        f" of {len(classifier.config.names)} classes; {ended} {Path(out)}",
        soft_wrap=True,
        markup=False,
    )


def run(words: Sequence[str]) -> None:
    """Run the command."""
    settings = {name: part.config for name, part in PARTS.items()}
    fit(**parse("fit", fit, words, positional="photos", settings=settings, groups=GROUPS, examples=EXAMPLES))
