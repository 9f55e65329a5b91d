"""Test pictures of a model: those that the user names, or those that its run did not draw."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveate.classifier import Classifier, Split
from foveate.commands.screen import note
from foveate.data.checks import check_masks, check_pictures
from foveate.data.folders import list_pictures, tell_unread
from foveate.data.naming import name_key
from foveate.data.samples import Photos, Sample
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.evaluate.answers import Answers
from foveate.foreground.options import OnBad
from foveate.train.folder import read_run
from foveate.train.reporter import Reporter, Titled
from foveate.train.run import load
from foveate.train.shots import held_out, learned_from


def find_pictures(photos: Sequence[str]) -> list[Path]:
    """Replace each folder by the pictures in it.

    Raises:
        InputError: A folder has no pictures, or a path is a URL.
    """
    found: list[Path] = []
    for word in photos:
        if "://" in word:
            raise InputError(f"{word} is a web address: fetch the picture first, and give the file")
        given = Path(word)
        if not given.is_dir():
            if given.is_fifo():
                raise InputError(f"{given} is a pipe, no picture: give a file, or a folder")
            found.append(given)
            continue
        inside = list_pictures(given)
        if not inside:
            raise InputError(f"{given} has no pictures: give pictures, or a folder that has some")
        tell_unread([given])
        found += inside
    return found


def good_pictures(paths: Sequence[Path]) -> list[Path]:
    """Leave out unreadable pictures, with a note.

    Raises:
        InputError: No picture is readable.
    """
    photos = Photos(("photo",), tuple(Sample(path, 0) for path in paths))
    kept, bad = check_pictures(photos, "skip")
    if not len(kept):
        raise InputError(
            f"none of {len(paths)} pictures can be read, first {bad[0][0]}: {bad[0][1]}; give others"
        )
    for name, reason in bad:
        note(f"{name}: {reason}")
    if bad:
        note(f"left out {len(bad)} of {len(paths)} pictures")
    return [sample.picture for sample in kept.samples if isinstance(sample.picture, Path)]


def tested_photos(model: Path, data: str | None, masks: str | None, classifier: Classifier) -> Photos:
    """Return the pictures to measure a model on: the given ones, or those that its run did not draw.

    Raises:
        InputError: The pictures of the run do not exist any more, or were in memory.
    """
    if data is not None:
        photos = load_photos(data, masks=masks)
        test = photos.split("test") if len(photos.split("test")) else photos
        _note_learned(test, Path(data), model, classifier)
        return test
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
    """Say how many of the pictures were learned from, if they are those of the run."""
    try:
        run = read_run(model)
        if run.config.photos is None or classifier.config is None:
            return
        own, given = Path(run.config.photos).resolve(), data.expanduser().resolve()
        if not (own.is_relative_to(given) or given.is_relative_to(own)):
            return
        every = load(run.config)
    except InputError:  # there is no run, or its pictures are gone
        return
    drawn = learned_from(every, classifier.config.shots, classifier.config.seed, run.chosen)
    trained = {name_key(name) for name in classifier.config.names}
    drawn = drawn.only([row for row, name in enumerate(drawn.names) if name_key(name) in trained])
    if drawn.digest(masks=run.config.needs_masks)[:16] != run.identity["data"]:
        return  # pictures have come or gone since
    learned = {one.picture for one in drawn.samples}
    number = sum(sample.picture in learned for sample in test.samples)
    if number:
        note(
            f"{number} of {len(test)} pictures were learned from, so the figures are too good: leave --data"
            " out to measure on the others"
        )


def readable(photos: Photos, on_bad: OnBad, shift: bool) -> Photos:
    """Leave out unreadable pictures if `on_bad` is "skip"; otherwise raise at the first one."""
    if on_bad == "error":
        return photos
    good, bad = check_pictures(photos, on_bad)
    if not len(good):
        raise InputError(f"none of {len(photos)} test pictures can be read, first {bad[0][0]}: {bad[0][1]}")
    for name, reason in bad:
        note(f"{name}: {reason}")
    if bad:
        note(f"left out {len(bad)} of {len(photos)} pictures")
    return check_masks(good, on_bad)[0] if shift and any(sample.mask for sample in good.samples) else good


def asked(
    classifier: Classifier, photos: Photos, split: Split, shift: bool, bank: str | None, bars: Reporter
) -> Answers:
    """Predict a split, with the method's name in the progress."""
    told = Titled(bars, classifier.method_name)
    return classifier.evaluate(photos, split, shift=shift, bank=bank, reporter=told)


def measured(answers: Answers, shift: bool) -> dict[str, Any]:
    """Return accuracy and counts, and the shift index where it is wanted."""
    measured: dict[str, Any] = {"accuracy": answers.accuracy, "pictures": len(answers.labels)}
    measured["classes"] = answers.logits.shape[1]
    if shift:
        measured["shift"] = answers.shift
        measured["masks"] = len(answers.labels) if answers.masked is None else int(answers.masked.sum())
    return measured
