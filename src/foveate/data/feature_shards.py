"""Reads stored features by name, by row or all together."""

from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.data.feature_store import (
    AREAS,
    FOREGROUND,
    IMAGE,
    LABELS,
    Index,
    ShardNote,
    UnfitFile,
    open_shard,
    read_index,
    read_note,
    shard_path,
)
from foveate.errors import InputError
from foveate.types import Labels

Rows = Float[Tensor, "rows dim"]


class FeatureShards:
    """Stored features of a picture set, by name, by row, or all together.

    features = FeatureShards.open(Path("features"))
    features.get("cat/01.jpg")      # [D], from a memory-mapped file
    features.tensor()               # [N, D]

    A shard is opened, and its checksum is verified, at the first access.

    Attributes:
        folder: Folder of the shards.
        key: Everything that the features depend on: weights, view, precision, masks.
        classes: Class names; a label is an index into them.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        """See `open`."""
        assert index.rows is not None
        self.folder, self.key, self.classes = folder, index.key, index.classes
        self._starts = [0, *accumulate(index.rows)]
        self._rows = index.rows
        self._open_shards: dict[int, dict[str, Tensor]] = {}

    @classmethod
    def open(cls, folder: Path) -> "FeatureShards":
        """Open the output of `foveate features`.

        Raises:
            InputError: The folder has no features, or they are incomplete.
        """
        index = read_index(folder)
        missing = [n for n in range(index.shards) if not shard_path(folder, n).is_file()]
        if missing or index.rows is None:
            present = index.shards - len(missing)
            raise InputError(
                f"{folder} is not finished, {present} of {index.shards} shards are there: run the same"
                " `foveate features` again"
            )
        return cls(folder, index)

    def __len__(self) -> int:
        return sum(self._rows)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the features of each picture: "image", and with masks "foreground"."""
        return tuple(self.key["parts"])

    @property
    def dim(self) -> int:
        """Dimension of a feature."""
        return int(self.key["dim"])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the pictures, in row order."""
        return tuple(name for number in range(len(self._rows)) for name in self._note(number).names)

    @property
    def left_out(self) -> Iterator[tuple[str, str]]:
        """Name of each unreadable picture, and the reason."""
        for number in range(len(self._rows)):
            yield from self._note(number).left_out

    @property
    def labels(self) -> Labels:
        """Class index of each picture."""
        return self._all_rows(LABELS)

    @property
    def areas(self) -> Float[Tensor, " rows"]:
        """Share of foreground in each whole picture; NaN for a picture without a mask.

        Raises:
            InputError: The features were made without masks.
        """
        self._demand(FOREGROUND)
        return self._all_rows(AREAS)

    def row(self, name: str) -> int:
        """Return the row of a picture; if several have this name, the first one.

        Raises:
            InputError: There is no such picture.
        """
        number, row = self._find(name)
        return self._starts[number] + row

    def get(self, name: str, part: str = IMAGE) -> Float[Tensor, " dim"]:
        """Return the feature of a picture before normalisation, memory-mapped.

        Args:
            name: Path of the picture, relative to the root folder of the set.
            part: "image", or "foreground" for x ⊙ m (NaN for a picture without a mask).

        Raises:
            InputError: The picture or the part does not exist, or the shard is damaged.
        """
        self._demand(part)
        number, row = self._find(name)
        return self._shard(number)[part][row]

    def tensor(self, part: str = IMAGE) -> Rows:
        """Return all features `[N, D]`: one shard is memory-mapped, several are copied into one tensor.

        Raises:
            InputError: The part does not exist, or a shard is damaged.
        """
        self._demand(part)
        return self._all_rows(part)

    def shards(self, part: str = IMAGE) -> Iterator[Rows]:
        """Yield the features shard by shard, memory-mapped; use it if they do not fit into memory."""
        self._demand(part)
        for number in range(len(self._rows)):
            yield _opened(self.folder, number)[part]

    def _find(self, name: str) -> tuple[int, int]:
        if name not in self._locations:
            raise InputError(f"{self.folder} has no features of {name!r}")
        return self._locations[name]

    @cached_property
    def _locations(self) -> dict[str, tuple[int, int]]:
        locations: dict[str, tuple[int, int]] = {}
        for number in range(len(self._rows)):
            for row, name in enumerate(self._note(number).names):
                locations.setdefault(name, (number, row))
        return locations

    def _note(self, number: int) -> ShardNote:
        path = shard_path(self.folder, number)
        try:
            return read_note(path)
        except UnfitFile as fault:
            raise _damaged(path, fault) from fault

    def _shard(self, number: int) -> dict[str, Tensor]:
        if number not in self._open_shards:
            self._open_shards[number] = _opened(self.folder, number)
        return self._open_shards[number]

    def _all_rows(self, name: str) -> Tensor:
        tensors = [self._shard(number)[name] for number in range(len(self._rows))]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    def _demand(self, part: str) -> None:
        if part not in self.parts:
            raise InputError(
                f"{self.folder} has no {part} features, only {', '.join(self.parts)}: make them with --masks"
            )


def _opened(folder: Path, number: int) -> dict[str, Tensor]:
    """Return the tensors of a shard.

    Raises:
        InputError: The shard is damaged.
    """
    path = shard_path(folder, number)
    try:
        return open_shard(path)[1]
    except UnfitFile as fault:
        raise _damaged(path, fault) from fault


def _damaged(path: Path, fault: UnfitFile) -> InputError:
    return InputError(f"{path} {fault}: run the same `foveate features` again, which makes it anew")
