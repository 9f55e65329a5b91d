"""One worker for all questions: those that wait together are answered together."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from PIL import Image

from foveate.prediction import Prediction
from foveate.serve.models import Ask

T = TypeVar("T")
_Asked = tuple[tuple[str, ...], bool, float | None, bool]
"""Classes, only, risk and abstain: questions with the same are asked together."""


@dataclass(frozen=True)
class PredictRequest:
    """Some pictures, and the names to choose from.

    Attributes:
        pictures: Upright, as much of each as the model looks at.
        classes: Names besides the trained ones.
        only: Whether to choose from these alone.
        risk: As for `Classifier.predict`.
        abstain: Likewise.
        answers: One a picture, when they are there.
    """

    pictures: Sequence[Image.Image]
    classes: tuple[str, ...] = ()
    only: bool = False
    risk: float | None = None
    abstain: bool = False
    answers: "Future[list[Prediction]]" = field(default_factory=Future)


class BatchWorker:
    """Does one thing at a time with a model, in a thread of its own.

    Args:
        ask: The model's.
        most: Pictures to be asked about together.
        heard: Told how many questions, and how many pictures, were asked together.
    """

    def __init__(self, ask: Ask, most: int = 64, heard: Callable[[int, int], None] | None = None) -> None:
        self.ask, self._most, self._heard = ask, most, heard
        self._waiting: deque[PredictRequest] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="foveate-model")

    @property
    def waiting(self) -> int:
        """Questions that nobody has begun with."""
        return len(self._waiting)

    def put(self, question: PredictRequest) -> "Future[list[Prediction]]":
        """Let a question wait for its turn; return where the answers will be. Cancelled, it is left out."""
        self._waiting.append(question)
        # One turn a question: the first takes all that wait, and the others find nothing left to do.
        self._thread.submit(self._turn)
        return question.answers

    def run(self, job: Callable[[], T]) -> "Future[T]":
        """Do something else with the model when it is free."""
        return self._thread.submit(job)

    def close(self) -> None:
        """Answer what waits, and end."""
        self._thread.shutdown(wait=True)

    def _turn(self) -> None:
        taken: dict[_Asked, list[PredictRequest]] = {}
        pictures = 0
        while self._waiting and pictures < self._most:
            question = self._waiting.popleft()
            if question.answers.set_running_or_notify_cancel():
                asked = question.classes, question.only, question.risk, question.abstain
                taken.setdefault(asked, []).append(question)
                pictures += len(question.pictures)
        for asked, questions in taken.items():
            self._answer(questions, asked)

    def _answer(self, questions: Sequence[PredictRequest], asked: _Asked) -> None:
        pictures = [picture for question in questions for picture in question.pictures]
        classes, only, risk, abstain = asked
        if self._heard:  # before the answers, after which somebody may look at the counts
            self._heard(len(questions), len(pictures))
        try:
            found = iter(list(self.ask(pictures, list(classes), only=only, risk=risk, abstain=abstain)))
            for question in questions:
                question.answers.set_result([next(found) for _ in question.pictures])
        except BaseException as error:  # it is theirs who asked, and the next question is another
            for question in questions:
                if not question.answers.done():
                    question.answers.set_exception(error)
