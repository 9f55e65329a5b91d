"""Frozen features of the views of a picture set, so that no view is decoded or encoded twice.

Views depend on (seed, epoch, place of the picture) alone, so an epoch's can be encoded ahead, in large
batches, and be read by every stage and every run that differ in something else. Features are kept by what
they are of (`FeatureSpec`): all that look at CLIP's own features share them. What is made of pictures alone
does not depend on masks, so other masks make only features of the foreground anew.
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

from foveate.data.loader import Part, PictureSet, Share
from foveate.data.samples import LazyPicture
from foveate.data.shelf import Key, Shelf
from foveate.foreground.opening import BadPicture
from foveate.types import Batch, FeatureSpec, Labels

Make = Callable[[Batch], Mapping[str, Tensor]]
"""What frozen towers say of a batch, by name; what the batch brings in `frozen` may be left out."""

Watch = Callable[[int], None]
"""Told how many pictures of an epoch are encoded."""

CHUNK = 64
"""Pictures encoded in one pass, at most."""

_TURNED = 0x0112  # EXIF's way to say which side is up
_AREAS = "areas"
_WHOLE_AREA = FeatureSpec("area of the picture", 1, 1, masked=True)


@runtime_checkable
class Peers(Protocol):
    """Processes that ask their banks for the same batches at the same time. The first one's shelf counts."""

    @property
    def share(self) -> Share:
        """What part of each batch is this process's."""
        ...

    def lend(self, held: Mapping[str, Tensor], like: Mapping[str, Key]) -> dict[str, Tensor]:
        """Return the tensors that the first process holds, by name; `like` tells what they are like."""
        ...

    def merge(self, tensor: Tensor, rows: Sequence[int]) -> None:
        """Fill a tensor `[H, N, D]` with what each process has made: this one these rows, each row by one."""
        ...


class Bank:
    """Features of every view of a picture set.

    Args:
        pictures: Whose views they are.
        weights: Names the towers' weights.
        shelf: Where features are kept.
        dtype: How features are kept; numbers of a picture, such as areas, are float32 always.
        chunk: Pictures encoded in one pass; whole batches, where batches are asked for with their pixels.
        peers: Processes to share the encoding with; the first of them alone keeps what is made.
    """

    def __init__(
        self,
        pictures: PictureSet,
        weights: str,
        shelf: Shelf,
        dtype: torch.dtype = torch.float32,
        chunk: int = CHUNK,
        peers: Peers | None = None,
    ) -> None:
        self.pictures, self.shelf, self.chunk, self.peers = pictures, shelf, chunk, peers
        self._weights, self._dtype = weights, dtype

    def size(self, specs: Mapping[str, FeatureSpec], epochs: Iterable[int]) -> int:
        """Return how many bytes are still to be made for these epochs.

        Args:
            specs: Of the features that are needed, by name.
            epochs: Whose views they are of.
        """
        keys = {key.name: key for key in self._keys(specs).values()}.values()
        return sum(
            key.size
            for key in keys
            for slot in {self._slot(epoch, key) for epoch in epochs}
            if not self.shelf.has(key, slot)
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
        """Yield the batches of an epoch with their features in `frozen`.

        What the shelf lacks is encoded first; with `pixels` on the way, so that a picture is decoded once.
        With peers, each process encodes a part, and of shuffled batches it yields its part alone.

        Args:
            epoch: Which views, and which order.
            batch_size: Pictures in a batch.
            specs: Of the features that are needed, by name.
            make: Encodes them.
            pixels: Whether batches need pictures and masks besides; otherwise `images` has no pixels.
            shuffle: Whether in the epoch's order and all of one size; else all, in the samples' own order.
            workers: Threads that decode.
            watch: Told of progress of the encoding.

        Raises:
            BadPicture: A picture or mask cannot be read.
        """
        pictures = self.pictures
        order = pictures.wanted(epoch, batch_size, shuffle=shuffle, drop_last=shuffle)
        keys = self._keys(specs)
        held = self._held(keys, epoch)
        peers = self.peers if shuffle or not pixels else None
        part = (peers.share if peers and shuffle else Share()).cut(order, batch_size)
        rows, size = part.rows, part.size
        encoding = _Encoding(self, {n: k for n, k in keys.items() if n not in held}, held, make, watch, peers)
        if not pixels:
            for _ in encoding.run(Part([], 1), [], epoch, self.chunk, workers):
                pass
            yield from self._from_features(encoding.tensors, rows, size)
        elif encoding.missing:
            group = size * max(1, self.chunk // size)
            for several, whole in encoding.run(part, order, epoch, group, workers):
                for start in range(0, len(several), size):
                    some = several[start : start + size]
                    one = _part(whole, start, start + len(some))
                    yield replace(one, frozen=_without_areas(take(encoding.tensors, some)))
        else:
            for some, batch in zip(
                _parts(rows, size), pictures.read(rows, epoch, size, workers), strict=True
            ):
                yield replace(batch, frozen=_without_areas(take(held, some)))

    def _held(self, keys: Mapping[str, Key], epoch: int) -> dict[str, Tensor]:
        """Return what is on the shelf; where there are peers, on that of the first of them."""
        if self.peers and self.peers.share.rank:
            return self.peers.lend({}, keys)
        on_shelf = {name: self.shelf.get(key, self._slot(epoch, key)) for name, key in keys.items()}
        held = {name: tensor for name, tensor in on_shelf.items() if tensor is not None}
        return self.peers.lend(held, keys) if self.peers else held

    def _from_features(
        self, tensors: Mapping[str, Tensor], order: Sequence[int], batch_size: int
    ) -> Iterator[Batch]:
        labels: Labels = torch.tensor([sample.label for sample in self.pictures.photos.samples])
        for rows in _parts(order, batch_size):
            frozen = take(tensors, rows)
            areas = frozen.pop(_AREAS, None)
            nothing = torch.empty(len(rows), 3, 0, 0)
            yield Batch(nothing, labels[rows], areas=None if areas is None else areas[0, :, 0], frozen=frozen)

    def keep(self, key: Key, epoch: int, tensor: Tensor) -> Tensor:
        """Put an epoch's features on the shelf; return them as they are to be read."""
        if self.peers and self.peers.share.rank:
            return tensor
        return self.shelf.put(key, self._slot(epoch, key), tensor)

    def _slot(self, epoch: int, key: Key) -> int:
        return epoch if self.pictures.varies or "exchanged" in key.values else 0

    def _keys(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Key]:
        whole = {_AREAS: _WHOLE_AREA} if self.pictures.has_masks else {}
        return {name: self._key(spec) for name, spec in {**specs, **whole}.items()}

    def _key(self, spec: FeatureSpec) -> Key:
        dtype = self._dtype if spec.dim > 1 else torch.float32
        values: dict[str, object] = {
            "what": spec.what,
            "weights": self._weights,
            "views": self.pictures.view_key(),
            "pictures": self._pictures,
            "masks": self._masks if spec.masked or self.pictures.exchanges else None,
            "shape": [spec.heads, len(self.pictures), spec.dim],
            "dtype": str(dtype).removeprefix("torch."),
            # Another version may crop, decode or encode in another way.
            "made by": {"foveate": version("foveate"), "pillow": PIL.__version__},
        }
        if spec.exchanged:
            values["exchanged"] = self.pictures.exchange_key()
        return Key(values, (spec.heads, len(self.pictures), spec.dim), dtype)

    @cached_property
    def _pictures(self) -> str:
        samples = self.pictures.photos.samples
        return self._digest([sample.picture for sample in samples])

    @cached_property
    def _masks(self) -> str:
        found = self._digest([sample.mask for sample in self.pictures.photos.samples])
        return f"{found} {self.pictures.mask_key()}"

    def _digest(self, sources: Sequence[Path | LazyPicture | None]) -> str:
        # In memory, features outlive neither this object nor its pictures.
        return "these" if self.shelf.folder is None else content_digest(sources)


class _Encoding:
    """Encodes what is missing of an epoch, and puts it on the shelf when all of it is there.

    Attributes:
        missing: Keys of what is to be made, by name.
        tensors: All features by name; of those that are made, the rows encoded so far.
    """

    def __init__(
        self,
        bank: Bank,
        missing: Mapping[str, Key],
        held: Mapping[str, Tensor],
        make: Make,
        watch: Watch | None,
        peers: Peers | None = None,
    ) -> None:
        self.bank, self.missing, self._done, self._peers = bank, missing, 0, peers
        made = {key.name: torch.empty(key.shape, dtype=key.dtype) for key in missing.values()}
        self._held = dict(held)
        self.tensors = self._held | {name: made[key.name] for name, key in missing.items()}
        self._make, self._watch = make, watch

    def run(
        self, shown: Part, first: Sequence[int], epoch: int, size: int, workers: int
    ) -> Iterator[tuple[Sequence[int], Batch]]:
        """Encode all pictures, those to be shown first, and yield these, `size` at a time.

        Nothing is kept unless the caller takes them all.

        Args:
            shown: What is to be yielded here.
            first: What all processes yield together.
            epoch: Of the views.
            size: Pictures decoded and encoded together.
            workers: Threads that decode.
        """
        pictures = self.bank.pictures
        if not self.missing or not len(pictures):
            return
        known = set(first)
        rest = [row for row in range(len(pictures)) if row not in known]
        if self._peers:
            start, stop = self._peers.share.bounds(len(rest))
            rest = rest[start:stop]
        for wanted in (shown.rows, rest):
            exchanged = any("exchanged" in key.values for key in self.missing.values())
            read = pictures.read(wanted, epoch, size, workers, exchanged=exchanged)
            for rows, batch in zip(_parts(wanted, size), read, strict=True):
                self._encode(rows, batch)
                if wanted is shown.rows:
                    yield rows, batch
        self._keep(rest if shown.looks_on else [*shown.rows, *rest], epoch)

    def _keep(self, rows: Sequence[int], epoch: int) -> None:
        """Put on the shelf what was made: these rows here, the others by peers."""
        for key in {key.name: key for key in self.missing.values()}.values():
            names = [name for name, own in self.missing.items() if own.name == key.name]
            if self._peers:
                self._peers.merge(self.tensors[names[0]], rows)
            kept = self.bank.keep(key, epoch, self.tensors[names[0]])
            self.tensors |= dict.fromkeys(names, kept)

    def _encode(self, rows: Sequence[int], batch: Batch) -> None:
        made: dict[str, Tensor] = {}
        if self.missing.keys() - {_AREAS}:
            made = encode(self._make, replace(batch, frozen=_without_areas(take(self._held, rows))))
        if batch.areas is not None:
            made[_AREAS] = batch.areas[None, :, None]
        for name, key in self.missing.items():
            wanted = key.shape[0], len(rows), key.shape[2]
            if made[name].shape != wanted:  # or it would be spread over heads that it does not have
                raise ValueError(f"{name} is {list(made[name].shape)}, but {list(wanted)} was promised")
            self.tensors[name][:, rows] = made[name].to(key.dtype)
        self._done += len(rows)
        if self._watch:
            world = self._peers.share.world if self._peers else 1  # the others are about as far
            self._watch(min(world * self._done, len(self.bank.pictures)))


def encode(make: Make, batch: Batch) -> dict[str, Tensor]:
    """Return what `make` says of a batch; of each half on its own, where the memory of a GPU is too small."""
    try:
        return dict(make(batch))
    except torch.OutOfMemoryError:
        pictures = len(batch.labels)
        if pictures == 1:
            raise
    halves = [encode(make, _part(batch, *ends)) for ends in ((0, pictures // 2), (pictures // 2, pictures))]
    return {name: torch.cat([half[name] for half in halves], dim=1) for name in halves[0]}


def take(tensors: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """Return features of some pictures, in float32 or better."""
    index = torch.tensor(rows, dtype=torch.long)
    return {name: t[:, index].to(torch.promote_types(t.dtype, torch.float32)) for name, t in tensors.items()}


def _without_areas(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != _AREAS}


def content_digest(sources: Iterable[Path | LazyPicture | None]) -> str:
    """Return 32 hex digits that name the contents of pictures or masks, wherever they lie.

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
    form = repr((image.mode, image.size, image.getpalette(), image.getexif().get(_TURNED)))
    return hashlib.sha256(form.encode() + image.tobytes()).digest()


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
