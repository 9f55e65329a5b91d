"""One worker thread for all questions; questions that wait at the same time are answered in one batch."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from PIL import Image

from foveate.prediction import Prediction
from foveate.serve.models import Ask

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
