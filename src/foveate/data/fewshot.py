"""Few-shot draws and the base/new cut, in exactly the field's order.

The draw is the one CoOp introduced and its successors share, so that the same split file and seed give the
same pictures here as there: one `random.Random(seed)`, classes in the order in which they first appear, train
before val.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from foveate.data.samples import Photos, Sample
from foveate.errors import InputError

VAL_SHOTS = 4


@dataclass(frozen=True)
class Draw:
    """What a few-shot draw took and what it left.

    Attributes:
        train: Up to `shots` pictures of each class.
        val: Up to min(shots, 4) of each class, if the source has a val split.
        rest: Training pictures not drawn; the test set where the source has none.
        short: Classes with fewer than `shots` pictures, and how many they have.
    """

    train: Photos
    val: Photos
    rest: Photos
    short: dict[str, int]


def draw_shots(photos: Photos, shots: int | None, seed: int, strict: bool = False) -> Draw:
    """Draw `shots` training pictures of each class.

    The pool is the train split together with pictures of no split. A class with fewer pictures gives what it
    has.

    Args:
        photos: All classes; cut to base or new classes after the draw, as the field does.
        shots: Pictures of each class, or None for all of them.
        seed: Of the stream both draws come from.
        strict: Whether a class with fewer pictures is refused.

    Raises:
        InputError: `shots` below 1, no training picture at all, or a short class under `strict`.
    """
    if shots is not None and shots < 1:
        raise InputError(f"shots is {shots}; it must be at least 1, or none for all pictures")
    pool = photos.split("train", None)
    if not pool.samples:
        raise InputError("no picture belongs to the train split; mark some as train")
    short = {} if shots is None else {name: n for name, n in pool.counts().items() if n < shots}
    if strict and short:
        name, number = next(iter(short.items()))
        raise InputError(
            f"class {name!r} has {number} training pictures, fewer than {shots} shots; "
            f"add pictures, lower --shots, or leave strict off"
        )
    stream = random.Random(seed)
    train = _draw(pool.samples, shots, stream)
    val = _draw(photos.split("val").samples, None if shots is None else min(shots, VAL_SHOTS), stream)
    taken = {id(sample) for sample in train}
    rest = [sample for sample in pool.samples if id(sample) not in taken]
    return Draw(photos.with_samples(train), photos.with_samples(val), photos.with_samples(rest), short)


def base_new(photos: Photos) -> tuple[list[int], list[int]]:
    """Cut the labels that have training pictures in two: the first ceil(n / 2) are base, the others new.

    Raises:
        InputError: Fewer than two such labels.
    """
    labels = sorted({sample.label for sample in photos.split("train", None).samples})
    if len(labels) < 2:
        raise InputError(f"{len(labels)} class has training pictures; base and new need at least two classes")
    half = (len(labels) + 1) // 2
    return labels[:half], labels[half:]


def _draw(samples: Sequence[Sample], shots: int | None, stream: random.Random) -> list[Sample]:
    by_label: dict[int, list[Sample]] = {}
    for sample in samples:
        by_label.setdefault(sample.label, []).append(sample)
    drawn: list[Sample] = []
    for own in by_label.values():  # in order of first appearance: the stream's order depends on it
        drawn += own if shots is None or len(own) < shots else stream.sample(own, shots)
    return drawn
