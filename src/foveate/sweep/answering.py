"""Evaluates a tuned model on the questions of a sweep.

The image tower's features of a test picture do not depend on the class names. So each picture is encoded
once for all questions. CLIP's own features are encoded once for all rows and seeds, and kept in the
bank.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from foveate.classifier import Classifier
from foveate.data.feature_store import FeatureStore
from foveate.data.loader import eval_pictures
from foveate.data.naming import clean_name
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.evaluate.answers import Answers, Watch, answer
from foveate.evaluate.encoding import StoreOf, encode_all, is_clip, specs_for_answers
from foveate.evaluate.metrics import accuracy
from foveate.explain.measure import LookConfig, look
from foveate.methods.base import Method
from foveate.sweep.jobs import Question
from foveate.sweep.results import Measured, packed
from foveate.train.banking import chunk_on
from foveate.train.shots import without_masks
from foveate.types import Branch, FeatureSpec

_MAX_BYTES = 1_000_000_000
"""Size above which a worker drops its features of tuned towers, in bytes."""


@dataclass
class TestFeatures:
    """Features of test pictures that a worker keeps between questions.

    Attributes:
        bank: Folder of the features that all jobs share: those of the frozen image tower.
    """

    bank: Path
    _stores: dict[str, FeatureStore] = field(default_factory=dict[str, FeatureStore])

    def store(self, spec: FeatureSpec, dataset: str) -> FeatureStore:
        """Return the store for the features of a data set."""
        if is_clip(spec):
            return FeatureStore(self.bank)
        if sum(store.nbytes for store in self._stores.values()) > _MAX_BYTES:
            self._stores.clear()
        return self._stores.setdefault(dataset, FeatureStore())


@dataclass(frozen=True)
class PreparedQuestion:
    """A question, prepared for evaluation.

    Attributes:
        photos: The pictures; labels are indices into the question's names.
        rows: Indices of the pictures in the test split.
        branch: Label space of the question.
    """

    photos: Photos
    rows: Sequence[int]
    branch: Branch


def measure(
    classifier: Classifier,
    question: Question,
    photos: Photos,
    features: TestFeatures,
    *,
    new_template: str | None = None,
    of_masks: Collection[str] = (),
    watch: Watch | None = None,
) -> Measured:
    """Evaluate a question on the test split of a data set.

    Args:
        classifier: Tuned classifier; it is set to the names of the question.
        question: Data set and classes.
        photos: The data set, with its test split at least.
        features: Features of test pictures that the worker keeps.
        new_template: Template of the data set, if the model was trained on another set: then all classes
            are new.
        of_masks: Uses of masks, if there are any: "region", for a method that sees regions; and the metrics
            "shift", the foreground shift index, and "gaze", the share of heat maps on the object.
        watch: Called with the number of encoded pictures.

    Raises:
        InputError: The data set has no test pictures of these classes.
    """
    test = photos.split("test")
    if not len(test):
        raise InputError(f"{question.dataset} has no test split, and a sweep tests on nothing else")
    masked = bool(of_masks) and any(sample.mask for sample in test.samples)
    test = test if masked else without_masks(test)
    if new_template is None:
        prepared = _prepare(classifier, question, test)
    else:
        prepared = _prepare_transfer(classifier, test, new_template)
    store_of = partial(features.store, dataset=question.dataset)
    answers = _answers(classifier.method, prepared, test, store_of, of_masks if masked else (), watch)
    measured = _measured(question, prepared.photos, answers, classifier.method.trained)
    gaze = _gaze(classifier.method, prepared) if masked and "gaze" in of_masks else None
    return replace(measured, gaze=gaze, of_masks=tuple(of_masks))


def _prepare(classifier: Classifier, question: Question, test: Photos) -> PreparedQuestion:
    pictures, branch = classifier.ask_split(test, question.split)
    row_of = {sample.picture: row for row, sample in enumerate(test.samples)}
    return PreparedQuestion(
        pictures.photos, [row_of[sample.picture] for sample in pictures.photos.samples], branch
    )


def _prepare_transfer(classifier: Classifier, test: Photos, template: str) -> PreparedQuestion:
    """Set all class names of another data set as new classes, as in the published protocol."""
    test = replace(test, names=tuple(clean_name(name) for name in test.names))
    known = classifier.config.names if classifier.config else []
    classifier.method.set_classes(test.names, template, known)
    return PreparedQuestion(test, range(len(test)), "new")


def _answers(
    method: Method,
    prepared: PreparedQuestion,
    test: Photos,
    store_of: StoreOf,
    of_masks: Collection[str],
    watch: Watch | None,
) -> Answers:
    """Encode all test pictures, or take their features from the store; predict those of the question."""
    pictures = eval_pictures(test, method.clip.config)
    specs = specs_for_answers(
        method, prepared.branch, foreground="shift" in of_masks, clip=False, region="region" in of_masks
    )

    def report(done: int) -> None:
        if watch:
            watch(done, len(test))

    method.eval()
    with method.constant_text():
        features = encode_all(method, pictures, specs, store_of, chunk=chunk_on(method.clip), watch=report)
        rows = torch.tensor(list(prepared.rows))
        selected = {name: tensor[:, rows] for name, tensor in features.items()}
        return answer(method, selected, prepared.photos, prepared.branch)


def _gaze(method: Method, prepared: PreparedQuestion) -> float | None:
    """Return the mean share of the heat maps of the true classes that is on the object."""
    pictures = eval_pictures(prepared.photos, method.clip.config)
    return look(method, pictures, prepared.branch, LookConfig(about="label", steps=0)).means()["energy"]


def _measured(question: Question, photos: Photos, answers: Answers, trained: Sequence[bool]) -> Measured:
    right = answers.logits.argmax(dim=-1) == answers.labels
    was_trained = torch.tensor(trained)[answers.labels]
    all_classes = question.split == "all"
    return Measured(
        dataset=question.dataset,
        split=question.split,
        accuracy=accuracy(answers.logits, answers.labels),
        pictures=len(right),
        classes=len(photos.names),
        per_class={
            name: (int(right[answers.labels == label].sum()), int((answers.labels == label).sum()))
            for label, name in enumerate(photos.names)
        },
        right=packed(right),
        digest=without_masks(photos).digest()[:16],
        trained=_percent(right[was_trained]) if all_classes else None,
        others=_percent(right[~was_trained]) if all_classes else None,
        shift=answers.shift,
        shift_right=answers.shift_where(right),
        shift_wrong=answers.shift_where(~right),
    )


def _percent(right: Tensor) -> float | None:
    return 100 * float(right.double().mean()) if len(right) else None
