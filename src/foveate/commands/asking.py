"""Models to evaluate, and their test pictures: given ones, or those that the run did not draw."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from foveate.classifier import Classifier, Split
from foveate.commands.screen import note
from foveate.data.checks import check_masks, check_pictures
from foveate.data.naming import name_key
from foveate.data.samples import Photos
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.evaluate.answers import Answers, split_of, splits_of
from foveate.foreground.options import OnBad
from foveate.run import load as load_export
from foveate.train.folder import read_run
from foveate.train.journal import Reporter, Titled
from foveate.train.run import load
from foveate.train.shots import held_out, learned_from


class MeasuredExport:
    """An exported model with the interface that `foveate evaluate` needs.

    Args:
        folder: Folder written by `foveate export`.

    Raises:
        InputError: It cannot be opened.
    """

    def __init__(self, folder: Path):
        self._model = load_export(folder)
        self.method_name = self._model.manifest.method

    def splits(self, photos: Photos) -> list[Split]:
        """Return the splits that these pictures allow, as `Classifier.splits` does."""
        manifest = self._model.manifest
        takes_new_names = not manifest.closed and manifest.texts.kind != "fixed"
        return splits_of(photos, manifest.names, takes_new_names=takes_new_names)

    def simpler(self) -> list[Classifier]:
        """Return no baselines: an export has the answers of one method."""
        return []

    def evaluate(self, photos: Photos, split: Split, reporter: Reporter) -> Answers:
        """Return predictions for a split, as `Classifier.evaluate` does; logits are log probabilities.

        Raises:
            InputError: The data has no picture of that split, or one cannot be read.
        """
        test = split_of(photos, self._model.manifest.names, split)
        predictions = self._model.predict(
            [sample.picture for sample in test.samples],
            test.names,
            only=True,
            watch=partial(reporter.count, split),
        )
        scores = torch.tensor(
            [[prediction.scores[name] for name in test.names] for prediction in predictions]
        )
        trusts = [prediction.trust for prediction in predictions if prediction.trust is not None]
        return Answers(
            scores.clamp_min(torch.finfo(scores.dtype).tiny).log(),
            torch.tensor([sample.label for sample in test.samples]),
            trust=torch.tensor(trusts) if trusts else None,
            names=test.names,
            pictures=tuple(sample.name for sample in test.samples),
        )


def tested_photos(
    model: Path, data: str | None, masks: str | None, classifier: Classifier | MeasuredExport
) -> Photos:
    """Return the pictures to measure a model on: the given ones, or those that its run did not draw.

    Raises:
        InputError: The pictures of the run do not exist any more, or were in memory.
    """
    if data is not None:
        photos = load_photos(data, masks=masks)
        test = photos.split("test") if len(photos.split("test")) else photos
        if not isinstance(classifier, MeasuredExport):
            _note_learned(test, Path(data), model, classifier)
        return test
    if isinstance(classifier, MeasuredExport):
        raise InputError(f"{model} is an export, which knows no pictures: say where they are, --data")
    run = read_run(model)
    if run.config.photos is None:
        raise InputError(
            f"{model} was trained on pictures in memory: say where the test pictures are, --data"
        )
    try:
        photos = load(replace(run.config, masks=masks or run.config.masks))
    except InputError as error:
        raise InputError(
            f"{error} (it is where {model} was trained; give another place with --data)"
        ) from error
    assert classifier.config is not None
    return held_out(photos, classifier.config.shots, classifier.config.seed, run.chosen)


def _note_learned(test: Photos, data: Path, model: Path, classifier: Classifier) -> None:
    """Print a note on how many test pictures the model was trained on, if they are those of its run."""
    try:
        run = read_run(model)
        if run.config.photos is None or classifier.config is None:
            return
        run_data, test_data = Path(run.config.photos).resolve(), data.expanduser().resolve()
        if not (run_data.is_relative_to(test_data) or test_data.is_relative_to(run_data)):
            return
        run_photos = load(run.config)
    except InputError:  # there is no run, or its pictures are gone
        return
    training_photos = learned_from(run_photos, classifier.config.shots, classifier.config.seed, run.chosen)
    trained_keys = {name_key(name) for name in classifier.config.names}
    training_photos = training_photos.only(
        [row for row, name in enumerate(training_photos.names) if name_key(name) in trained_keys]
    )
    if training_photos.digest(masks=run.config.needs_masks)[:16] != run.identity["data"]:
        return  # the pictures of the run have changed since
    learned_pictures = {shot.picture for shot in training_photos.samples}
    number = sum(sample.picture in learned_pictures for sample in test.samples)
    if number:
        note(
            f"{number} of {len(test)} pictures were learned from, so the figures are too good: leave --data"
            " out to measure on the others"
        )


def readable(photos: Photos, on_bad: OnBad, masked: bool) -> Photos:
    """Leave out unreadable pictures, and unusable masks if `masked`, with notes if `on_bad` is "skip"."""
    if on_bad == "error":
        return photos
    good, bad = check_pictures(photos, on_bad)
    if not len(good):
        raise InputError(f"none of {len(photos)} test pictures can be read, first {bad[0][0]}: {bad[0][1]}")
    for name, reason in bad:
        note(f"{name}: {reason}")
    if bad:
        note(f"left out {len(bad)} of {len(photos)} pictures")
    masks = sum(sample.mask is not None for sample in good.samples) if masked else 0
    if not masks:
        return good
    good, report = check_masks(good, on_bad)
    unusable = [fault for fault in report.faults if fault.fault != "missing"]
    for fault in unusable:
        note(fault.detail)
    if unusable:
        note(f"left out {len(unusable)} of {masks} masks")
    return good


def predict_split(
    model: Classifier | MeasuredExport,
    photos: Photos,
    split: Split,
    *,
    shift: bool,
    region: bool,
    bank: str | None,
    bars: Reporter,
) -> Answers:
    """Predict a split, with the method's name in the progress; a baseline may use no region."""
    titled = Titled(bars, model.method_name)
    if isinstance(model, MeasuredExport):
        return model.evaluate(photos, split, titled)
    region = region and model.sees_regions
    return model.evaluate(photos, split, shift=shift, test_masks=region, bank=bank, reporter=titled)


def metrics_of(answers: Answers, shift: bool) -> dict[str, Any]:
    """Return accuracy and counts, and the shift index if requested."""
    metrics: dict[str, Any] = {"accuracy": answers.accuracy, "pictures": len(answers.labels)}
    metrics["classes"] = answers.logits.shape[1]
    if shift:
        metrics["shift"] = answers.shift
        metrics["masks"] = len(answers.labels) if answers.masked is None else int(answers.masked.sum())
    return metrics
