"""Caches frozen features of the views of a picture set: each view is decoded and encoded once.

A view depends only on (seed, epoch, index of the picture). So the features of an epoch are computed
ahead, in large batches. All stages and runs that have the same views read them. The cache key is the
content of the features (`FeatureSpec`): all methods that use CLIP's own features share them. Features of
pictures alone do not depend on masks. If the masks change, only the foreground features are computed
again.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, runtime_checkable

import PIL
import torch
from torch import Tensor

from foveate.data.feature_store import FeatureKey, FeatureStore
from foveate.data.loader import Part, PictureSet, Rank
from foveate.data.samples import LazyPicture
from foveate.foreground.opening import BadPicture
from foveate.types import Batch, FeatureSpec, Labels

Make = Callable[[Batch], Mapping[str, Tensor]]
"""Returns the frozen towers' features of a batch, by name. It may omit names that are in `frozen` already."""

Watch = Callable[[int], None]
"""Called with the number of encoded pictures of an epoch."""

CHUNK = 64
"""Maximum number of pictures encoded in one pass."""

_TURNED = 0x0112  # EXIF tag of the orientation
_AREAS = "areas"
_WHOLE_AREA = FeatureSpec("area of the picture", 1, 1, masked=True)


@runtime_checkable
class Peers(Protocol):
    """Processes that request the same batches at the same time; only the first process has a store."""

    @property
    def share(self) -> Rank:
        """This process's rank, which gives its part of each batch."""
        ...

    def lend(self, stored: Mapping[str, Tensor], like: Mapping[str, FeatureKey]) -> dict[str, Tensor]:
        """Return the tensors of the first process, by name; `like` gives their shapes and dtypes."""
        ...

    def merge(self, tensor: Tensor, rows: Sequence[int]) -> None:
        """Fill a tensor `[H, N, D]` with all rows; this process computed `rows`, and no other one did."""
        ...


class Bank:
    """Features of all views of a picture set.

    Args:
        pictures: The picture set.
        weights: Name of the towers' weights, for the cache key.
        store: Store of the features.
        dtype: Stored dtype of features. Scalars of a picture, such as areas, are always float32.
        chunk: Number of pictures encoded in one pass. With `pixels`, it is rounded down to whole
            batches, at least one.
        peers: Processes that share the encoding. Only the first process writes to its store.
    """

    def __init__(
        self,
        pictures: PictureSet,
        weights: str,
        store: FeatureStore,
        dtype: torch.dtype = torch.float32,
        chunk: int = CHUNK,
        peers: Peers | None = None,
    ) -> None:
        self.pictures, self.store, self.chunk, self.peers = pictures, store, chunk, peers
        self._weights, self._dtype = weights, dtype

    def size(self, specs: Mapping[str, FeatureSpec], epochs: Iterable[int]) -> int:
        """Return the number of bytes that these epochs still need in the store.

        Args:
            specs: The needed features, by name.
            epochs: The epochs.
        """
        keys = {key.name: key for key in self._keys(specs).values()}.values()
        return sum(
            key.size
            for key in keys
            for slot in {self._slot(epoch, key) for epoch in epochs}
            if not self.store.has(key, slot)
        )

    def batches(  # noqa: PLR0913  (all but the first two by name)
        self,
        epoch: int,
        batch_size: int,
        *,
        specs: Mapping[str, FeatureSpec],
        make: Make,
        pixels: bool = False,
        shuffle: bool = True,
        workers: int = 2,
        watch: Watch | None = None,
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch, with their features in `frozen`.

        Missing features are computed first. With `pixels`, they are computed while the batches are
        yielded, so each picture is decoded once. With peers, each process encodes a part. If batches are
        shuffled, each process yields only its own part.

        Args:
            epoch: Determines the views and the order.
            batch_size: Number of pictures in a batch.
            specs: The needed features, by name.
            make: Encodes a batch.
            pixels: Whether batches also contain pictures and masks; otherwise `images` has no pixels.
            shuffle: If true, the order is the epoch's and all batches have one size. If false, the order
                is the samples' own and no sample is left out.
            workers: Number of decoding threads.
            watch: Called with the progress of the encoding.

        Raises:
            BadPicture: A picture or mask cannot be read.
        """
        pictures = self.pictures
        order = pictures.batch_order(epoch, batch_size, shuffle=shuffle, drop_last=shuffle)
        keys = self._keys(specs)
        stored = self._read_stored(keys, epoch)
        peers = self.peers if shuffle or not pixels else None
        part = (peers.share if peers and shuffle else Rank()).cut(order, batch_size)
        rows, size = part.rows, part.size
        encoding = _Encoding(
            self, {n: k for n, k in keys.items() if n not in stored}, stored, make, watch, peers
        )
        if not pixels:
            for _ in encoding.run(Part([], 1), [], epoch, self.chunk, workers):
                pass
            yield from self._from_features(encoding.tensors, rows, size)
        elif encoding.missing:
            group_size = size * max(1, self.chunk // size)
            for group_rows, group_batch in encoding.run(part, order, epoch, group_size, workers):
                for start in range(0, len(group_rows), size):
                    batch_rows = group_rows[start : start + size]
                    sub_batch = _part(group_batch, start, start + len(batch_rows))
                    yield replace(sub_batch, frozen=_without_areas(take(encoding.tensors, batch_rows)))
        else:
            for batch_rows, batch in zip(
                _parts(rows, size), pictures.read(rows, epoch, size, workers), strict=True
            ):
                yield replace(batch, frozen=_without_areas(take(stored, batch_rows)))

    def _read_stored(self, keys: Mapping[str, FeatureKey], epoch: int) -> dict[str, Tensor]:
        """Return the stored features; with peers, those in the store of the first process."""
        if self.peers and self.peers.share.rank:
            return self.peers.lend({}, keys)
        cached = {name: self.store.get(key, self._slot(epoch, key)) for name, key in keys.items()}
        stored = {name: tensor for name, tensor in cached.items() if tensor is not None}
        return self.peers.lend(stored, keys) if self.peers else stored

    def _from_features(
        self, tensors: Mapping[str, Tensor], order: Sequence[int], batch_size: int
    ) -> Iterator[Batch]:
        labels: Labels = torch.tensor([sample.label for sample in self.pictures.photos.samples])
        for rows in _parts(order, batch_size):
            frozen = take(tensors, rows)
            areas = frozen.pop(_AREAS, None)
            empty = torch.empty(len(rows), 3, 0, 0)
            yield Batch(empty, labels[rows], areas=None if areas is None else areas[0, :, 0], frozen=frozen)

    def keep(self, key: FeatureKey, epoch: int, tensor: Tensor) -> Tensor:
        """Store the features of an epoch and return them as `FeatureStore.get` does."""
        if self.peers and self.peers.share.rank:
            return tensor
        return self.store.put(key, self._slot(epoch, key), tensor)

    def _slot(self, epoch: int, key: FeatureKey) -> int:
        return epoch if self.pictures.varies or "exchanged" in key.values else 0

    def _keys(self, specs: Mapping[str, FeatureSpec]) -> dict[str, FeatureKey]:
        area_spec = {_AREAS: _WHOLE_AREA} if self.pictures.has_masks else {}
        return {name: self._key(spec) for name, spec in {**specs, **area_spec}.items()}

    def _key(self, spec: FeatureSpec) -> FeatureKey:
        dtype = self._dtype if spec.dim > 1 else torch.float32
        values: dict[str, object] = {
            "what": spec.what,
            "weights": self._weights,
            "views": self.pictures.view_key(),
            "pictures": self._pictures,
            "masks": self._masks if spec.masked or self.pictures.exchanges else None,
            "shape": [spec.heads, len(self.pictures), spec.dim],
            "dtype": str(dtype).removeprefix("torch."),
            # Another version may crop, decode or encode differently.
            "made by": {"foveate": version("foveate"), "pillow": PIL.__version__},
        }
        if spec.exchanged:
            values["exchanged"] = self.pictures.exchange_key()
        return FeatureKey(values, (spec.heads, len(self.pictures), spec.dim), dtype)

    @cached_property
    def _pictures(self) -> str:
        samples = self.pictures.photos.samples
        return self._digest([sample.picture for sample in samples])

    @cached_property
    def _masks(self) -> str:
        digest = self._digest([sample.mask for sample in self.pictures.photos.samples])
        return f"{digest} {self.pictures.mask_key()}"

    def _digest(self, sources: Sequence[Path | LazyPicture | None]) -> str:
        # A store in memory lives no longer than this object and its pictures.
        return "these" if self.store.folder is None else content_digest(sources)


class _Encoding:
    """Encodes the missing features of an epoch, and stores them when all of them are complete.

    Attributes:
        missing: Keys of the missing features, by name.
        tensors: All features by name. Tensors of missing features hold the rows encoded so far.
    """

    def __init__(
        self,
        bank: Bank,
        missing: Mapping[str, FeatureKey],
        stored: Mapping[str, Tensor],
        make: Make,
        watch: Watch | None,
        peers: Peers | None = None,
    ) -> None:
        self.bank, self.missing, self._done, self._peers = bank, missing, 0, peers
        buffers = {key.name: torch.empty(key.shape, dtype=key.dtype) for key in missing.values()}
        self._stored = dict(stored)
        self.tensors = self._stored | {name: buffers[key.name] for name, key in missing.items()}
        self._make, self._watch = make, watch

    def run(
        self, shown: Part, first: Sequence[int], epoch: int, size: int, workers: int
    ) -> Iterator[tuple[Sequence[int], Batch]]:
        """Encode all pictures, first the `shown` ones; yield the shown batches, `size` pictures at a time.

        Features are stored only if the caller consumes the whole iterator.

        Args:
            shown: The rows that this process yields.
            first: The rows that all processes together yield.
            epoch: Epoch of the views.
            size: Number of pictures decoded and encoded together.
            workers: Number of decoding threads.
        """
        pictures = self.bank.pictures
        if not self.missing or not len(pictures):
            return
        yielded = set(first)
        rest = [row for row in range(len(pictures)) if row not in yielded]
        if self._peers:
            start, stop = self._peers.share.bounds(len(rest))
            rest = rest[start:stop]
        for part_rows in (shown.rows, rest):
            exchanged = any("exchanged" in key.values for key in self.missing.values())
            batches = pictures.read(part_rows, epoch, size, workers, exchanged=exchanged)
            for rows, batch in zip(_parts(part_rows, size), batches, strict=True):
                self._encode(rows, batch)
                if part_rows is shown.rows:
                    yield rows, batch
        self._keep(rest if shown.idle else [*shown.rows, *rest], epoch)

    def _keep(self, rows: Sequence[int], epoch: int) -> None:
        """Store the computed features; this process computed `rows`, the peers computed the others."""
        for key in {key.name: key for key in self.missing.values()}.values():
            names = [name for name, other_key in self.missing.items() if other_key.name == key.name]
            if self._peers:
                self._peers.merge(self.tensors[names[0]], rows)
            stored = self.bank.keep(key, epoch, self.tensors[names[0]])
            self.tensors |= dict.fromkeys(names, stored)

    def _encode(self, rows: Sequence[int], batch: Batch) -> None:
        features: dict[str, Tensor] = {}
        if self.missing.keys() - {_AREAS}:
            features = encode(self._make, replace(batch, frozen=_without_areas(take(self._stored, rows))))
        if batch.areas is not None:
            features[_AREAS] = batch.areas[None, :, None]
        for name, key in self.missing.items():
            shape = key.shape[0], len(rows), key.shape[2]
            if features[name].shape != shape:  # otherwise broadcasting would hide a wrong number of heads
                raise ValueError(f"{name} is {list(features[name].shape)}, but {list(shape)} was promised")
            self.tensors[name][:, rows] = features[name].to(key.dtype)
        self._done += len(rows)
        if self._watch:
            world = self._peers.share.world if self._peers else 1  # assumes equal progress of all peers
            self._watch(min(world * self._done, len(self.bank.pictures)))


def encode(make: Make, batch: Batch) -> dict[str, Tensor]:
    """Return the features of a batch. If the GPU runs out of memory, encode each half of it separately."""
    try:
        return dict(make(batch))
    except torch.OutOfMemoryError:
        pictures = len(batch.labels)
        if pictures == 1:
            raise
    halves = [encode(make, _part(batch, *ends)) for ends in ((0, pictures // 2), (pictures // 2, pictures))]
    return {name: torch.cat([half[name] for half in halves], dim=1) for name in halves[0]}


def take(tensors: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """Return the features of some rows, in float32 or a wider dtype."""
    index = torch.tensor(rows, dtype=torch.long)
    return {name: t[:, index].to(torch.promote_types(t.dtype, torch.float32)) for name, t in tensors.items()}


def _without_areas(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != _AREAS}


def content_digest(sources: Iterable[Path | LazyPicture | None]) -> str:
    """Return 32 hex digits that identify the contents of pictures or masks, whatever their paths are.

    Raises:
        BadPicture: A file cannot be read.
    """
    state = hashlib.sha256()
    for source in sources:
        state.update(_content(source))
    return state.hexdigest()[:32]


def _content(source: Path | LazyPicture | None) -> bytes:
    if source is None:
        return b"none"
    if isinstance(source, Path):
        try:
            with source.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise BadPicture(str(source), error.strerror or "cannot be read") from error
    image = source.load()
    header = repr((image.mode, image.size, image.getpalette(), image.getexif().get(_TURNED)))
    return hashlib.sha256(header.encode() + image.tobytes()).digest()


def _parts(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _part(batch: Batch, start: int, end: int) -> Batch:
    return Batch(
        batch.images[start:end],
        batch.labels[start:end],
        None if batch.masks is None else batch.masks[start:end],
        None if batch.areas is None else batch.areas[start:end],
        {name: tensor[:, start:end] for name, tensor in batch.frozen.items()},
        None if batch.exchanged is None else batch.exchanged[start:end],
    )
