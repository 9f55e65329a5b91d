"""`foveate import`: convert a checkpoint of a method's authors into a tuned model."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from foveate.clip.precision import Precision
from foveate.commands.options import parse, settings_of
from foveate.commands.screen import note_precision, notes_for_warnings
from foveate.data.naming import read_names
from foveate.errors import InputError, printable
from foveate.files import home_of
from foveate.methods.configs import CONFIGS
from foveate.official import METHODS

EXAMPLES = """
    foveate import model.pth.tar-20 --clip ViT-B-16.pt --out out/promptsrc
    foveate import seed1/prompt_learner/ --method coop --clip openai/clip-vit-base-patch16 --out out/coop
    foveate import model.pth.tar-5 --clip ViT-B-16.pt --classes names.txt --out out/vpt
"""


def import_(  # noqa: PLR0913  (a command's options)
    checkpoint: str,
    *,
    clip: str,
    out: str,
    method: str | None = None,
    classes: str | None = None,
    template: str | None = None,
    dtype: Precision = "float32",
    settings: dict[str, Any] | None = None,
) -> None:
    """Convert a checkpoint of the authors' code of a method into a tuned model; no code in it is run.

    Args:
        checkpoint: Dassl's model.pth.tar-N, or its folder. Of a folder, the checkpoint that the folder
            names, or the last one.
        clip: CLIP weights that it was tuned on: hub id, folder or file.
        out: Folder of the tuned model, new or empty.
        method: Method of the checkpoint, e.g. promptsrc; needed only if the tensors do not identify it.
        classes: File with class names, one per line, in label order; by default names come from the
            checkpoint, in lower case.
        template: The data set's sentence, such as "a photo of a {}, a type of pet."; mmrl and vpt
            predict with it, kgcoop and prograd were trained towards it.
        dtype: Precision of the frozen towers; auto is bfloat16 where the processor has it.
        settings: Settings of each part of the method.
    """
    from foveate.classifier import Classifier
    from foveate.official.files import find_checkpoint
    from foveate.train.folder import refuse_folder

    folder = home_of(out)
    refuse_folder(folder)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: choose another output folder")
    path = find_checkpoint(home_of(checkpoint))
    names = None if classes is None else _names(classes)
    with notes_for_warnings():
        classifier = Classifier.from_official(
            path,
            clip,
            method=method,
            names=names,
            template=template,
            settings=settings,
            dtype=dtype,
        )
    note_precision(classifier.precision)
    classifier.save_pretrained(folder)
    config = classifier.config
    assert config is not None
    numbers = sum(tensor.numel() for tensor in classifier.method.learned().values())
    used_settings = ", ".join(f"{name} {value}" for name, value in config.settings[config.method].items())
    lines = [  # lets the user check the result
        f"{config.method} of {path} ({config.imported}): {numbers:,} learned numbers",
        f"settings: {used_settings}",
        *([f"template: {config.template}"] if config.template else []),
        f"{len(config.names)} classes: {', '.join(config.names)}",
        f"saved in {folder}",
    ]
    Console(highlight=False).print("\n".join(map(printable, lines)), soft_wrap=True, markup=False)


def run(words: Sequence[str]) -> None:
    """Run the command."""
    settings = [option for name in METHODS for option in settings_of(name, CONFIGS[name])]
    import_(**parse("import", import_, words, settings=settings, examples=EXAMPLES))


def _names(classes: str) -> list[str]:
    try:
        return read_names(home_of(classes))
    except InputError as error:
        raise InputError(f"--classes {error}") from error
