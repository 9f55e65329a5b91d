"""The model of a server: a tuned classifier, CLIP alone, or an export, behind one narrow interface.

One worker thread runs it, and answers waiting questions in batches.
"""

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
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import field
from typing import TypeVar

Ask = Callable[..., "Sequence[Prediction]"]
"""Takes pictures, and `classes`, `only`, `risk` and `abstain` by name; returns one prediction per picture, as
`Classifier.predict` does.
"""


@dataclass(frozen=True)
class Model:
    """A model that classifies pictures.

    Attributes:
        title: Title for people.
        names: Class names that it was trained on.
        ask: Returns predictions; only one call at a time is allowed.
        side: Side of the square view that it makes of a picture, in pixels; None if unknown.
        classifier: The PyTorch classifier; None for an export.
        check: Refuses class names that the model cannot use; None accepts all.
        refuses: Whether it can answer "none of these".
    """

    title: str
    names: tuple[str, ...]
    ask: Ask
    side: int | None = None
    classifier: "Classifier | None" = None
    check: Callable[[list[str]], object] | None = None
    refuses: bool = False

    def view(self, picture: Image.Image) -> Image.Image:
        """Return the view that the model makes of an upright picture; the view of a view is itself.

        So a waiting picture takes little memory, and its prediction is bit for bit that of the whole picture.
        """
        return picture if self.side is None else eval_view(picture.size, self.side).apply(picture)[0]


def model_of(classifier: "Classifier", *, batch_size: int = 1) -> Model:
    """Return a classifier as a model.

    Args:
        classifier: Tuned, or zero-shot.
        batch_size: Pictures per pass of the towers. Matrix products of other numbers of rows round
            differently, so only 1 gives a picture the same bits as `Classifier.predict` for it alone.
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
    """Load the model of a server.

    Args:
        source: Folder or hub id of a tuned model, or folder of an export; None is CLIP without training.
        clip: The CLIP, if it is not where it was at training; without a source, the CLIP to serve.
        device: Device of the towers.
        dtype: Precision of the towers; None is that of the training.
        batch_size: As for `model_of`.

    Raises:
        InputError: The model cannot be loaded.
    """
    folder = None if source is None else find_export(source, clip, device, dtype)
    if folder is not None:
        return _open_export(folder, batch_size)
    from foveate.classifier import Classifier

    if source is None:
        classifier = Classifier("zeroshot", clip or "tiny", device=device, dtype=dtype)
    else:
        classifier = Classifier.from_pretrained(source, clip=clip, device=device, dtype=dtype)
    return model_of(classifier, batch_size=batch_size)


def _open_export(folder: Path, batch_size: int) -> Model:
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
    """Return whether a model with this trust can answer "none of these".

    Args:
        trust: A `Trust`, an `ExportedTrust`, or None.
    """
    try:
        if trust is not None:
            trust.demand(None, refusals=True)
    except InputError:
        return False
    return trust is not None


# One worker thread for all questions; questions that wait at the same time are answered in one batch.


T = TypeVar("T")
_Options = tuple[tuple[str, ...], bool, float | None, bool]
"""Classes, only, risk and abstain; questions with the same values go into one batch."""


@dataclass(frozen=True)
class PredictRequest:
    """Some pictures, and the names to choose from.

    Attributes:
        pictures: Upright pictures, each cut to what the model looks at (see `Model.view`).
        classes: Class names besides the trained ones.
        only: Whether to choose from `classes` alone.
        risk: As for `Classifier.predict`.
        abstain: As for `Classifier.predict`.
        answers: Future of the predictions, one per picture.
    """

    pictures: Sequence[Image.Image]
    classes: tuple[str, ...] = ()
    only: bool = False
    risk: float | None = None
    abstain: bool = False
    answers: "Future[list[Prediction]]" = field(default_factory=Future)


class BatchWorker:
    """Runs the jobs of one model one after another, in its own thread.

    Args:
        ask: The model's `ask`.
        most: Number of pictures at which a batch is full.
        watch: Called with the number of pictures of each batch, before it is answered.
    """

    def __init__(self, ask: Ask, most: int = 64, watch: Callable[[int], None] | None = None) -> None:
        self.ask, self._most, self._watch = ask, most, watch
        self._waiting: deque[PredictRequest] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="foveate-model")

    @property
    def waiting(self) -> int:
        """Number of questions that no batch has taken yet."""
        return len(self._waiting)

    def put(self, question: PredictRequest) -> "Future[list[Prediction]]":
        """Queue a question and return the future of its answers; a cancelled future is skipped."""
        self._waiting.append(question)
        # One turn per question: the first takes all that wait, and the others find an empty queue.
        self._thread.submit(self._turn)
        return question.answers

    def run(self, job: Callable[[], T]) -> "Future[T]":
        """Run another job in the model's thread when it is free."""
        return self._thread.submit(job)

    def close(self) -> None:
        """Answer all waiting questions, then end the thread."""
        self._thread.shutdown(wait=True)

    def _turn(self) -> None:
        groups: dict[_Options, list[PredictRequest]] = {}
        pictures = 0
        while self._waiting and pictures < self._most:
            question = self._waiting.popleft()
            if question.answers.set_running_or_notify_cancel():
                options = question.classes, question.only, question.risk, question.abstain
                groups.setdefault(options, []).append(question)
                pictures += len(question.pictures)
        for options, questions in groups.items():
            self._answer(questions, options)

    def _answer(self, questions: Sequence[PredictRequest], options: _Options) -> None:
        pictures = [picture for question in questions for picture in question.pictures]
        classes, only, risk, abstain = options
        if self._watch:  # before the answers: a client that has its answer may read the counts
            self._watch(len(pictures))
        try:
            predictions = iter(list(self.ask(pictures, list(classes), only=only, risk=risk, abstain=abstain)))
            for question in questions:
                question.answers.set_result([next(predictions) for _ in question.pictures])
        except BaseException as error:  # passed on to the callers; the worker goes on
            for question in questions:
                if not question.answers.done():
                    question.answers.set_exception(error)
