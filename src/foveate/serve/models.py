"""What a server asks: a tuned classifier, CLIP alone, or an export, behind one narrow interface."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from foveate.data.views import eval_view
from foveate.errors import InputError
from foveate.prediction import Prediction
from foveate.run.folder import find_export

if TYPE_CHECKING:
    from foveate.classifier import Classifier  # it imports PyTorch, which an export does without

Ask = Callable[..., "Sequence[Prediction]"]
"""Pictures, then `classes`, `only`, `risk` and `abstain` by name, to an answer a picture; as
`Classifier.predict`.
"""


@dataclass(frozen=True)
class Model:
    """What is asked.

    Attributes:
        title: Of it, for people.
        names: That it was trained on.
        ask: Answers; one call at a time.
        side: Of the square view that it makes of a picture; None where that is not known.
        classifier: The same in PyTorch; None of an export.
        check: Refuses names that it cannot take; None takes all.
        refuses: Whether it can say "none of these".
    """

    title: str
    names: tuple[str, ...]
    ask: Ask
    side: int | None = None
    classifier: "Classifier | None" = None
    check: Callable[[list[str]], object] | None = None
    refuses: bool = False

    def view(self, picture: Image.Image) -> Image.Image:
        """Return as much of an upright picture as the model looks at; of that it makes the same view again.

        So a picture that waits takes little room, and its answer has the bits of the whole picture's.
        """
        return picture if self.side is None else eval_view(picture.size, self.side).apply(picture)[0]


def model_of(classifier: "Classifier", *, batch_size: int = 1) -> Model:
    """Return a classifier as a model.

    Args:
        classifier: Tuned, or zero-shot.
        batch_size: Pictures a pass of the towers. Matrix products round otherwise for other numbers of
            rows, so 1 alone gives a picture the bits that `Classifier.predict` gives it by itself.
    """
    config = classifier.config
    title = f"{classifier.method_name} on {Path(classifier.clip_source).name}"
    names = tuple(config.names) if config else ()
    ask = partial(classifier.predict, batch_size=batch_size)
    side = classifier.clip.config.image_size
    return Model(
        title, names, ask, side, classifier, classifier.ask_about, refuses=can_refuse(classifier.trust)
    )


def open_model(
    source: str | None,
    *,
    clip: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    batch_size: int = 1,
) -> Model:
    """Read what is to be served.

    Args:
        source: Folder or hub id of a tuned model, or folder of an export; None is CLIP without training.
        clip: The towers, if they are elsewhere than when it was trained; without a source, which.
        device: Where the towers run.
        dtype: Precision of the towers; None is that of the training.
        batch_size: As for `model_of`.

    Raises:
        InputError: It cannot be read.
    """
    folder = None if source is None else find_export(source, clip, device, dtype)
    if folder is not None:
        return _exported(folder, batch_size)
    from foveate.classifier import Classifier

    if source is None:
        classifier = Classifier("zeroshot", clip or "tiny", device=device, dtype=dtype)
    else:
        classifier = Classifier.from_pretrained(source, clip=clip, device=device, dtype=dtype)
    return model_of(classifier, batch_size=batch_size)


def _exported(folder: Path, batch_size: int) -> Model:
    export = import_module("foveate.run").load(folder)
    ask = partial(export.predict, batch_size=batch_size)
    return Model(
        f"the export {folder.name}",
        tuple(export.names),
        ask,
        export.manifest.image_size,
        check=export.ask_about,
        refuses=can_refuse(export.trust),
    )


def can_refuse(trust: Any) -> bool:
    """Return whether a model that knows so much of its shots can say "none of these".

    Args:
        trust: A `Trust`, an `ExportedTrust`, or None.
    """
    try:
        if trust is not None:
            trust.demand(None, refusals=True)
    except InputError:
        return False
    return trust is not None
