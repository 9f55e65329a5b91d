"""Splits of labelled pictures by whether a model was trained on their classes."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from foveate.data.naming import name_key, near_names
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.types import Branch

Split = Literal["base", "new", "all"]
"""Pictures of trained classes, of other classes, or of both among all names."""


def split_of(photos: Photos, trained: Sequence[str], split: Split) -> Photos:
    """Return the pictures of a split, with the names to choose from.

    Args:
        photos: Labelled pictures; other spellings of a trained name ("Barn_Owl") count as that name.
        trained: Names of the trained classes.
        split: The split.

    Raises:
        InputError: The data has no picture of that split.
    """
    photos = _with_trained_names(photos, trained)
    new = [name for name in photos.names if name not in trained]
    names = {"base": list(trained), "new": new, "all": [*trained, *new]}[split]
    samples = [sample for sample in photos.samples if photos.names[sample.label] in names]
    if not samples:
        raise InputError(
            f"there are no pictures of {split} classes: the model was trained on {len(trained)} classes, "
            f"and the data has {len(new)} others (train with --classes base to keep half as new)"
        )
    relabelled = tuple(replace(sample, label=names.index(photos.names[sample.label])) for sample in samples)
    return replace(photos, names=tuple(names), samples=relabelled)


def label_space(method: Method) -> Branch:
    """Return the label space of a method's class names."""
    if all(method.trained):
        return "base"
    return "mixed" if any(method.trained) else "new"


def splits_of(photos: Photos, trained: Sequence[str], *, takes_new_names: bool) -> list[Split]:
    """Return the splits that these pictures allow: "base"; "new" and "all" if there are other classes.

    Args:
        photos: As for `split_of`.
        trained: As for `split_of`.
        takes_new_names: Whether the model accepts new class names; if not, "base" is the only split.
    """
    photos, known = _with_trained_names(photos, trained), set(trained)
    present = {photos.names[sample.label] for sample in photos.samples}
    base: list[Split] = ["base"] if present & known else []
    if base and not takes_new_names:
        return base
    return [*base, "new", "all"] if present - known and base else base or ["new"]


def _with_trained_names(photos: Photos, trained: Sequence[str]) -> Photos:
    """Rename classes to their trained spelling ("Barn_Owl" to "barn owl"); warn about similar names."""
    spellings = {name_key(name): name for name in trained}
    others = [name for name in photos.names if name_key(name) not in spellings]
    for name, known in near_names(others, spellings.values()):
        warnings.warn(
            f"{name!r} is counted as a new class, and {known!r} was trained: if they are one, rename it",
            stacklevel=4,
        )
    return replace(photos, names=tuple(spellings.get(name_key(name), name) for name in photos.names))
