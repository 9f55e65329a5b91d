"""Few-shot draws and the base/new split, in the order of the reference code.

The draw is that of CoOp and its successors: the same split file and seed give the same pictures. It uses
one `random.Random(seed)`, takes classes in the order of first appearance, and draws train before val.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from foveate.data.samples import Photos, Sample
from foveate.errors import InputError

VAL_SHOTS = 4


@dataclass(frozen=True)
class Draw:
    """Result of a few-shot draw.

    Attributes:
        train: Up to `shots` pictures of each class.
        val: Up to min(shots, 4) pictures of each class, if the source has a val split.
        rest: Training pictures that are not drawn; the test set if the source has none.
        short: Classes with fewer than `shots` pictures, and their number of pictures.
    """

    train: Photos
    val: Photos
    rest: Photos
    short: dict[str, int]


def draw_shots(photos: Photos, shots: int | None, seed: int, strict: bool = False) -> Draw:
    """Draw `shots` training pictures of each class.

    The pool is the train split and the pictures without a split. A class with fewer pictures gives all
    it has.

    Args:
        photos: All classes. Split them into base and new classes after the draw, as the reference code
            does.
        shots: Pictures of each class, or None for all of them.
        seed: Seed of the generator for both draws.
        strict: Whether to refuse a class with fewer pictures.

    Raises:
        InputError: `shots` is below 1, there is no training picture, or `strict` is set and a class is
            short.
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
    rng = random.Random(seed)
    train = _draw(pool.samples, shots, rng)
    val = _draw(photos.split("val").samples, None if shots is None else min(shots, VAL_SHOTS), rng)
    train_ids = {id(sample) for sample in train}
    rest = [sample for sample in pool.samples if id(sample) not in train_ids]
    return Draw(photos.with_samples(train), photos.with_samples(val), photos.with_samples(rest), short)


def base_new(photos: Photos) -> tuple[list[int], list[int]]:
    """Split the labels that have training pictures: the first ceil(n / 2) are base, the others are new.

    Raises:
        InputError: There are fewer than two such labels.
    """
    labels = sorted({sample.label for sample in photos.split("train", None).samples})
    if len(labels) < 2:
        raise InputError(f"{len(labels)} class has training pictures; base and new need at least two classes")
    half = (len(labels) + 1) // 2
    return labels[:half], labels[half:]


def _draw(samples: Sequence[Sample], shots: int | None, rng: random.Random) -> list[Sample]:
    by_label: dict[int, list[Sample]] = {}
    for sample in samples:
        by_label.setdefault(sample.label, []).append(sample)
    drawn: list[Sample] = []
    for group in by_label.values():  # classes in order of first appearance: the draw depends on it
        drawn += group if shots is None or len(group) < shots else rng.sample(group, shots)
    return drawn
