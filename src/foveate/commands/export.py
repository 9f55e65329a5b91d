"""`foveate export`: write a tuned model so that it runs without PyTorch."""

from collections.abc import Sequence

from rich.console import Console

from foveate.commands.options import parse
from foveate.commands.screen import note, notes_for_warnings
from foveate.errors import InputError
from foveate.files import home_of

EXAMPLES = """
    foveate export out/birds --out out/birds-onnx
    foveate export out/birds --out out/birds-onnx --photos more/ new.jpg
    foveate export out/birds --out out/birds-int8 --int8
"""
_TRIED = 64
"""Maximum number of pictures of the run that an export is verified on."""

_INT8_PICTURES = 1000
"""The same number for int8 weights."""


def export(
    model: str,
    *,
    out: str,
    photos: list[str] | None = None,
    int8: bool = False,
    licence: str = "",
    clip: str | None = None,
) -> None:
    """Write a tuned model as a folder that `foveate.run` answers from, without PyTorch.

    It is written only if it answers as the model does, about your pictures and about awkward ones.

    Args:
        model: Folder that fit wrote, or a hub id.
        out: Folder to write, new or empty.
        photos: Pictures to prove it on, and folders of pictures; by default those of the run that were not
            learned from.
        int8: Give the towers weights of 8 bits, if 99 % of the answers stay what they are.
        licence: Of CLIP's weights and the pictures, for the card; e.g. mit.
        clip: The CLIP weights, if they are elsewhere than when the model was trained.
    """
    import torch

    from foveate.classifier import Classifier
    from foveate.commands.asking import tested_photos
    from foveate.commands.finding import find_pictures, good_pictures
    from foveate.export.writing import Pictures, export
    from foveate.train.folder import refuse_folder

    refuse_folder(home_of(out))
    with notes_for_warnings():
        classifier = Classifier.from_pretrained(model, clip=clip, dtype=torch.float32)
        pictures: Pictures = []
        if photos:
            pictures = good_pictures(find_pictures(photos))
        else:
            try:
                samples = tested_photos(home_of(model), None, None, classifier).samples
                selected = samples[:: max(1, -(-len(samples) // (_INT8_PICTURES if int8 else _TRIED)))]
                pictures = [sample.picture for sample in selected]
            except InputError as error:
                note(f"{error}; so it is proved on drawn pictures alone: give your own with --photos")
        exported = export(classifier, out, photos=pictures, int8=int8, licence=licence)
    proof, int8_proof = exported.proved, exported.int8
    lines = [
        f"{proof.answers} answers about {len(pictures)} of your pictures and awkward ones are the model's:"
        f" all labels, and probabilities within {proof.largest:.1g}"
    ]
    if int8_proof is not None:
        lines.append(
            f"with int8 weights {100 * int8_proof.agreement:.1f} % of {int8_proof.answers} answers are the"
            " same"
        )
    lines.append(f"saved in {exported.folder}, {exported.megabytes:.1f} MB")
    Console(highlight=False).print("\n".join(lines), soft_wrap=True, markup=False)


def run(words: Sequence[str]) -> None:
    """Run the command."""
    export(**parse("export", export, words, examples=EXAMPLES))
