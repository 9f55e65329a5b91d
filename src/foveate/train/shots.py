"""Choice of training and test pictures; training pictures are checked before anything is written.

Notes are collected here and printed by the caller, so that an error appears alone.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from foveate.data.checks import check_masks, check_pictures, repeated
from foveate.data.fewshot import Draw, base_new, draw_shots
from foveate.data.naming import unusual
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.foreground.options import OnBad
from foveate.methods.base import check_names

Watch = Callable[[int, int], None]
"""Called with the number of checked pictures and the total."""

Select = Callable[[Photos], Photos]
"""Selects training pictures from a pool."""

_LISTED = 5


@dataclass(frozen=True)
class Chosen:
    """The chosen training pictures.

    Attributes:
        photos: Readable pictures, with masks only if the method needs them.
        val: Readable validation pictures of the same classes; empty unless requested.
        notes: Notes for the user.
        left_out: Name of each bad picture or mask, with the reason.
        shots: Largest number of pictures drawn per class; None if a selector chose, or all pictures are
            used.
        selection: Name and fraction of the selector, e.g. "herding, fraction 0.2"; otherwise empty.
    """

    photos: Photos
    val: Photos
    notes: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    shots: int | None = None
    selection: str = ""


def choose(  # noqa: PLR0913  (all but the first three by name)
    photos: Photos,
    shots: int | None,
    seed: int,
    *,
    select: Select | None = None,
    base_only: bool = False,
    with_masks: bool = False,
    with_val: bool = False,
    on_bad: OnBad = "error",
    strict: bool = False,
    watch: Watch | None = None,
) -> Chosen:
    """Draw the shots and check each picture.

    Args:
        photos: All pictures.
        shots: Largest number of pictures per class; None takes all.
        seed: Seed of the draw.
        select: Selector, applied to the drawn pictures.
        base_only: Take the first half of the classes only.
        with_masks: Whether training uses masks; otherwise masks are not read.
        with_val: Whether to draw pictures of the data's val split too, up to min(shots, 4) per class.
        on_bad: Stop at a bad picture or mask ("error"), or leave it out ("skip").
        strict: Whether a class with fewer pictures than `shots` is an error.
        watch: Called with progress.

    Raises:
        InputError: No usable training set remains; the message gives the reason.
    """
    drawn = draw_shots(photos, shots, seed)
    labels, notes = _classes(drawn, base_only)
    notes += repeated(photos)
    train = drawn.train.only(labels)
    short = {name: count for name, count in drawn.short.items() if name in train.names and count}
    if short:
        listed = _several([f"{name!r} ({count})" for name, count in short.items()])
        if strict:
            raise InputError(
                f"fewer than {shots} pictures: {listed}; add some, lower --shots, or leave --strict-shots off"
            )
        notes.append(f"fewer than {shots} pictures: {listed}; all they have are used")
    check_names(train.names)
    notes += unusual(train.names)
    _demand_usable(train, base_only=base_only, with_masks=with_masks)
    total = len(train)
    train, bad = _selected(train, select, on_bad, watch)
    good, unreadable = _good_pictures(train, on_bad, watch)
    bad += unreadable
    if bad:
        notes.append(f"left out {len(bad)} of {total} pictures: {_listed(bad)}")
    val, bad_val = _held_back(drawn.val.only(labels if with_val else []), on_bad, notes)
    bad += bad_val
    if not with_masks:
        return Chosen(without_masks(good), val, tuple(notes), tuple(bad))
    good, report = check_masks(good, on_bad)
    faults = [(fault.name, fault.detail) for fault in report.faults]
    if faults:
        notes.append(f"without {len(faults)} of {len(good)} masks: {_listed(faults)}")
    return Chosen(good, val, tuple(notes), (*bad, *faults))


def _demand_usable(train: Photos, *, base_only: bool, with_masks: bool) -> None:
    """Refuse pictures of a single class, and pictures without the masks that training uses."""
    if len(train.names) < 2:
        problem = (
            "the first half of the classes is one class only" if base_only else "there is one class only"
        )
        single = "".join(train.names)
        raise InputError(f"{problem}, {single!r}: a classifier needs two to tell apart")
    if with_masks and not any(sample.mask for sample in train.samples):
        raise InputError(
            "this method learns from foreground masks: give their folder with --masks, or take --method coop"
        )


def held_out(photos: Photos, shots: int, seed: int, chosen: Collection[str] | None = None) -> Photos:
    """Return the test pictures: the test split, or all pictures that were not drawn for training.

    Args:
        photos: All pictures.
        shots: Number of pictures drawn per class.
        seed: Seed of the draw.
        chosen: Names of the training pictures if a selector chose them.

    Raises:
        InputError: Every picture was drawn.
    """
    test = photos.split("test")
    rest = test if len(test) else _rest(photos, shots, seed, chosen)
    if not len(rest):
        raise InputError(
            f"nothing is left to test on: all {len(photos)} pictures were drawn; give others with --data"
        )
    return rest


def learned_from(photos: Photos, shots: int, seed: int, chosen: Collection[str] | None = None) -> Photos:
    """Return the pictures that were drawn for training; arguments as for `held_out`."""
    if chosen is None:
        return draw_shots(photos, shots, seed).train
    names = set(chosen)
    return photos.with_samples([sample for sample in photos.samples if sample.name in names])


def _rest(photos: Photos, shots: int, seed: int, chosen: Collection[str] | None) -> Photos:
    if chosen is None:
        return draw_shots(photos, shots, seed).rest
    pool, names = photos.split("train", None), set(chosen)
    return pool.with_samples([sample for sample in pool.samples if sample.name not in names])


def without_masks(photos: Photos) -> Photos:
    """Return the pictures without masks, so that no mask is read unnecessarily."""
    return photos.with_samples([replace(sample, mask=None) for sample in photos.samples])


def _classes(drawn: Draw, base_only: bool) -> tuple[list[int], list[str]]:
    """Return the labels of the training classes: those with training pictures, or the first half of them."""
    counts = drawn.train.counts()
    unseen = [name for name, count in counts.items() if not count]
    notes = [f"no training pictures of {_several([*map(repr, unseen)])}: new classes then"] if unseen else []
    if base_only:
        return base_new(drawn.train)[0], notes
    return [label for label, count in enumerate(counts.values()) if count], notes


def _held_back(val: Photos, on_bad: OnBad, notes: list[str]) -> tuple[Photos, list[tuple[str, str]]]:
    """Return the readable validation pictures, and the bad ones with reasons; add a note with the count."""
    good, bad = check_pictures(without_masks(val), on_bad)
    if bad:
        notes.append(f"left out {len(bad)} of {len(val)} validation pictures: {_listed(bad)}")
    return good, bad


def _selected(
    train: Photos, select: Select | None, on_bad: OnBad, watch: Watch | None
) -> tuple[Photos, list[tuple[str, str]]]:
    """Apply a selector to a pool; unreadable pictures are left out before."""
    if select is None:
        return train, []
    bad: list[tuple[str, str]] = []
    if on_bad == "skip":
        train, bad = _good_pictures(train, on_bad, watch)
    return select(train), bad


def _good_pictures(train: Photos, on_bad: OnBad, watch: Watch | None) -> tuple[Photos, list[tuple[str, str]]]:
    done = 0

    def count(number: int) -> None:
        nonlocal done
        done += number
        if watch:
            watch(done, len(train))

    good, bad = check_pictures(train, on_bad, progress=count)
    empty = [name for name, remaining in good.counts().items() if not remaining]
    if empty:
        class_pictures = {sample.name for sample in train.samples if train.names[sample.label] == empty[0]}
        name, reason = next((picture, detail) for picture, detail in bad if picture in class_pictures)
        raise InputError(
            f"class {empty[0]!r} has no good picture among its shots ({name}: {reason}): "
            "mend its pictures, add others, or remove the class"
        )
    return good, bad


def _listed(bad: Sequence[tuple[str, str]]) -> str:
    return _several([reason if name in reason else f"{name} {reason}" for name, reason in bad], "; ")


def _several(words: Sequence[str], separator: str = ", ") -> str:
    """Join the first few words and append the number of the others."""
    rest = [f"and {len(words) - _LISTED} more"] if len(words) > _LISTED else []
    return separator.join([*words[:_LISTED], *rest])
