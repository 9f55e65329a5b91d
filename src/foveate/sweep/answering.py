"""Evaluates a tuned model on the questions of a sweep.

The image tower's features of a test picture do not depend on the class names. So each picture is encoded
once for all questions. CLIP's own features are encoded once for all rows and seeds, and kept in the
bank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from foveate.classifier import Classifier
from foveate.data.bank import Bank
from foveate.data.feature_store import FeatureStore
from foveate.data.loader import PictureSet
from foveate.data.naming import clean_name
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.evaluate.answers import Answers, Watch
from foveate.evaluate.metrics import accuracy
from foveate.foreground.views import foreground_view
from foveate.memory import sent
from foveate.methods.base import Method, encode_pictures
from foveate.methods.capabilities import PriorBranch, capability
from foveate.methods.frozen import CLIP, clip_spec, image_spec
from foveate.sweep.jobs import Question
from foveate.sweep.results import Measured, packed
from foveate.train.banking import chunk_on
from foveate.train.shots import without_masks
from foveate.types import Batch, Branch, Features, FeatureSpec, Logits

_IMAGE, _FOREGROUND, _CLIP = "image", "foreground", "clip"
_BATCH = 100
_HELD = 1_000_000_000
"""Maximum size of the tuned towers' features that a worker keeps, in bytes."""


@dataclass
class TestFeatures:
    """Features of test pictures that a worker keeps between questions.

    Attributes:
        bank: Folder of the features that all jobs share: those of the frozen image tower.
    """

    bank: Path
    _own: dict[str, FeatureStore] = field(default_factory=dict[str, FeatureStore])

    def shelf(self, spec: FeatureSpec, dataset: str) -> FeatureStore:
        """Return the store for the features of a data set."""
        if spec.what.partition(",")[0] == CLIP:
            return FeatureStore(self.bank)
        if sum(shelf.held for shelf in self._own.values()) > _HELD:
            self._own.clear()
        return self._own.setdefault(dataset, FeatureStore())


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
    seen: TestFeatures,
    *,
    carried: str | None = None,
    shift: bool = False,
    watch: Watch | None = None,
) -> Measured:
    """Evaluate a question on the test split of a data set.

    Args:
        classifier: Tuned classifier; it is set to the names of the question.
        question: Data set and classes.
        photos: The data set, with its test split at least.
        seen: Features of test pictures that the worker keeps.
        carried: Template of the data set, if the model was trained on another set: then all classes are
            new.
        shift: Whether to compute the foreground shift index, if there are masks.
        watch: Called with the number of encoded pictures.

    Raises:
        InputError: The data set has no test pictures of these classes.
    """
    test = photos.split("test")
    if not len(test):
        raise InputError(f"{question.dataset} has no test split, and a sweep tests on nothing else")
    shift = shift and any(sample.mask for sample in test.samples)
    test = test if shift else without_masks(test)
    asked = _ready(classifier, question, test) if carried is None else _carried(classifier, test, carried)
    answers = _answers(classifier.method, asked, test, seen, question.dataset, shift, watch)
    return _measured(question, asked.photos, answers, classifier.method.trained)


def _ready(classifier: Classifier, question: Question, test: Photos) -> PreparedQuestion:
    pictures, branch = classifier.ask_split(test, question.split)
    place = {sample.picture: row for row, sample in enumerate(test.samples)}
    return PreparedQuestion(
        pictures.photos, [place[sample.picture] for sample in pictures.photos.samples], branch
    )


def _carried(classifier: Classifier, test: Photos, template: str) -> PreparedQuestion:
    """Set all class names of another data set, as new classes, as in the published protocol."""
    test = replace(test, names=tuple(clean_name(name) for name in test.names))
    known = classifier.config.names if classifier.config else []
    classifier.method.set_classes(test.names, template, known)
    return PreparedQuestion(test, range(len(test)), "new")


def _answers(
    method: Method,
    asked: PreparedQuestion,
    test: Photos,
    seen: TestFeatures,
    dataset: str,
    shift: bool,
    watch: Watch | None,
) -> Answers:
    method.eval()
    with method.constant_text():
        tensors = _encoded(method, test, seen, dataset, shift, watch)
        rows = torch.tensor(list(asked.rows))
        own = {name: tensor[:, rows] for name, tensor in tensors.items()}
        labels = torch.tensor([sample.label for sample in asked.photos.samples])
        logits = _logits(method, own, _IMAGE, asked.branch)
        foreground = _logits(method, own, _FOREGROUND, asked.branch) if shift else None
    masked = torch.tensor([sample.mask is not None for sample in asked.photos.samples])
    return Answers(logits, labels, foreground, None, masked)


def _encoded(
    method: Method, test: Photos, seen: TestFeatures, dataset: str, shift: bool, watch: Watch | None
) -> dict[str, Tensor]:
    """Return raw features `[H, N, D]` of all test pictures, and of their foregrounds."""
    size = method.clip.config
    pictures = PictureSet(test, size.image_size, size.mean, size.std)
    own, clip = image_spec(method), clip_spec(method.clip)
    wanted = {_IMAGE: own} | ({_CLIP: clip} if capability(method, PriorBranch) and own != clip else {})
    if shift:
        wanted |= {_FOREGROUND: _cut(own)}
        wanted |= {f"{_CLIP} {_FOREGROUND}": _cut(clip)} if _CLIP in wanted else {}
    found: dict[str, Tensor] = {}
    for tower in dict.fromkeys((own, clip)):
        some = {name: one for name, one in wanted.items() if one.what.startswith(tower.what)}
        if some:
            found |= _of_tower(method, pictures, some, seen.shelf(tower, dataset), watch)
    return found


def _of_tower(
    method: Method,
    pictures: PictureSet,
    specs: Mapping[str, FeatureSpec],
    shelf: FeatureStore,
    watch: Watch | None,
) -> dict[str, Tensor]:
    """Return the features of one image tower, by name."""
    exact = torch.promote_types(method.clip.text.proj.dtype, torch.float32)
    bank = Bank(pictures, method.clip.fingerprint(), shelf, exact, chunk_on(method.clip))
    total = len(pictures)

    def count(done: int) -> None:
        if watch:
            watch(done, total)

    make = _Tower(method, specs)
    (batch,) = bank.batches(0, total, specs=specs, make=make, shuffle=False, watch=count)
    return batch.frozen


def _cut(spec: FeatureSpec) -> FeatureSpec:
    return replace(spec, what=f"{spec.what}, foreground, mean", masked=True)


@dataclass(frozen=True)
class _Tower:
    """Encodes the requested features of a batch."""

    method: Method
    wanted: Mapping[str, FeatureSpec]

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        method, size = self.method, self.method.clip.config
        device = method.clip.logit_scale.device
        images = sent(batch.images, device)
        shown = {False: images}
        if any(spec.masked for spec in self.wanted.values()):
            assert batch.masks is not None
            masks = sent(batch.masks, device)
            shown[True] = foreground_view(images, masks, "mean", size.mean, size.std)
        with torch.no_grad():
            return {
                name: (
                    encode_pictures(method.clip, shown[spec.masked])
                    if name.startswith(_CLIP)
                    else method.encode_images(shown[spec.masked])
                ).cpu()
                for name, spec in self.wanted.items()
                if name not in batch.frozen
            }


def _logits(method: Method, tensors: Mapping[str, Tensor], which: str, branch: Branch) -> Logits:
    """Return logits `[N, C]` on the CPU."""
    image = tensors[which]
    clip = tensors.get(_CLIP if which == _IMAGE else f"{_CLIP} {_FOREGROUND}", image[:1])
    device = method.clip.logit_scale.device
    parts: list[Logits] = []
    for start in range(0, image.shape[1], _BATCH):
        few = slice(start, start + _BATCH)
        features = _features(method, sent(image[:, few], device), sent(clip[:, few], device), branch)
        parts.append(method.logits(features, branch).cpu())
    return torch.cat(parts)


def _features(method: Method, image: Tensor, clip: Tensor, branch: Branch) -> Features:
    """Return the result of `method.features` for pictures that are encoded already."""
    both, prior = method.pair(image), capability(method, PriorBranch)
    return prior.with_prior(both, clip) if prior and prior.asks_prior(branch) else both


def _measured(question: Question, photos: Photos, answers: Answers, trained: Sequence[bool]) -> Measured:
    right = answers.logits.argmax(dim=-1) == answers.labels
    was_trained = torch.tensor(trained)[answers.labels]
    both = question.split == "all"
    return Measured(
        dataset=question.dataset,
        split=question.split,
        accuracy=accuracy(answers.logits, answers.labels),
        pictures=len(right),
        classes=len(photos.names),
        per_class={
            name: (int(right[answers.labels == row].sum()), int((answers.labels == row).sum()))
            for row, name in enumerate(photos.names)
        },
        right=packed(right),
        digest=without_masks(photos).digest()[:16],
        trained=_percent(right[was_trained]) if both else None,
        others=_percent(right[~was_trained]) if both else None,
        shift=answers.shift,
        shift_right=answers.shift_where(right),
        shift_wrong=answers.shift_where(~right),
    )


def _percent(right: Tensor) -> float | None:
    return 100 * float(right.double().mean()) if len(right) else None
