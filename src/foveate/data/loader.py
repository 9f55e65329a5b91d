"""Makes batches of a photo set; decodes in threads, and the result does not depend on their number."""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from foveate.clip.config import CLIP_MEAN, CLIP_STD, ClipConfig
from foveate.data.checks import check_masks as check_masks
from foveate.data.checks import check_pictures as check_pictures
from foveate.data.samples import Photos, Sample
from foveate.data.transforms import (
    Channels,
    Mask,
    PairTransform,
    Picture,
    eval_view,
    mask_to_tensor,
    to_tensor,
    train_view,
)
from foveate.foreground.checks import fit_mask
from foveate.foreground.opening import source_name
from foveate.foreground.options import GroundFill, MaskValues
from foveate.foreground.pictures import open_with_orientation
from foveate.foreground.values import detect_values, read_mask
from foveate.foreground.views import LEAST_GROUND, exchange
from foveate.seeds import stream
from foveate.types import Batch

_LENDERS = 8
"""Number of random pictures whose ground is tried before an object keeps its own."""


@dataclass(frozen=True)
class Item:
    """One view of one picture, for a batch.

    Attributes:
        image: `[3, S, S]` normalised.
        label: Row of its name.
        mask: `[1, S, S]` foreground of this view; zeros where the picture has no mask.
        area: Share of foreground in the whole picture; 0 where it has no mask.
        exchanged: `[3, S, S]` the same view with the object on another picture's ground, if asked for.
    """

    image: Picture
    label: int
    mask: Mask
    area: float
    exchanged: Picture | None = None


@dataclass(frozen=True)
class Part:
    """Part of each batch of an epoch that one process has.

    Attributes:
        rows: The process's rows, batch after batch.
        size: Number of its rows in each batch.
        idle: Whether another process has the same rows. Batches are then too small for this process,
            which takes the first row of each batch.
    """

    rows: Sequence[int]
    size: int
    idle: bool = False


@dataclass(frozen=True)
class Rank:
    """Rank of this process among several; each process takes a consecutive part.

    Attributes:
        rank: Rank, counted from 0.
        world: Number of processes.
    """

    rank: int = 0
    world: int = 1

    def bounds(self, number: int) -> tuple[int, int]:
        """Return start and end of this process's part of `number` items; the first parts are larger."""
        base, extra = divmod(number, self.world)
        start = self.rank * base + min(self.rank, extra)
        return start, start + base + (self.rank < extra)

    def idle(self, pictures: int) -> bool:
        """Return whether this process gets no picture of a batch of this size."""
        start, stop = self.bounds(pictures)
        return start == stop

    def cut(self, rows: Sequence[int], batch_size: int) -> Part:
        """Return this process's part of the batches.

        Args:
            rows: Rows of batches that all have one size, as in training.
            batch_size: Rows in a batch; may be larger if there is only one batch.
        """
        if not rows or self.world == 1:
            return Part(rows, batch_size)
        size = min(batch_size, len(rows))
        if len(rows) % size:
            raise ValueError("only batches of one size can be shared")
        idle = self.idle(size)
        start, stop = (0, 1) if idle else self.bounds(size)
        part_rows = [
            row for offset in range(0, len(rows), size) for row in rows[offset + start : offset + stop]
        ]
        return Part(part_rows, stop - start, idle)


class PictureSet:
    """Photo set that gives tensors of one size.

    The view of sample i in epoch e depends only on (seed, "view", e, i); the order depends only on
    (seed, "order", e). So batches depend neither on the number of workers nor on earlier draws.

    Attributes:
        photos: The set; the index of a sample is its position in `photos.samples`.
        has_masks: Whether batches contain masks.
    """

    def __init__(  # noqa: PLR0913  the settings of one view, all but the first two with defaults
        self,
        photos: Photos,
        size: int,
        mean: Channels = CLIP_MEAN,
        std: Channels = CLIP_STD,
        *,
        augment: Literal["rrc-flip", "squash", "none"] = "none",
        scale: tuple[float, float] = (0.08, 1.0),
        exchange: float = 0.0,
        grounds: GroundFill = "inpaint",
        seed: int = 0,
        transform: PairTransform | None = None,
        masks: bool = True,
    ) -> None:
        """Create the set.

        Args:
            photos: What to read.
            size: Side S of the square views.
            mean: Channel means that the tower expects.
            std: Channel standard deviations, likewise.
            augment: Training views (see `train_view`), or "none" for the view for predictions.
            scale: Least and greatest area of a random crop.
            exchange: Share of training views whose object stands on another picture's ground. A picture
                without a mask, or with an empty one, is always seen as it is.
            grounds: What fills the place of the object in a picture that lends its ground: the colours around
                it, or the mean colour `mean`.
            seed: Of views and order.
            transform: Applied to picture and mask (or None) before a training view. It may run in several
                threads, so it must have its own random generator.
            masks: Whether to read masks where there are any.

        Raises:
            BadPicture: The meaning of the masks is "auto", and one of the inspected masks cannot be
                read.
        """
        self.photos = photos
        self._size, self._mean, self._std = size, mean, std
        self._augment: Literal["rrc-flip", "squash", "none"] = augment
        self._scale, self._exchange, self._seed = scale, exchange, seed
        self._flat = _bytes(mean) if grounds == "mean" else None
        self._transform = transform
        mask_sources = [sample.mask for sample in photos.samples if sample.mask is not None] if masks else []
        self.has_masks = bool(mask_sources)
        self._values: MaskValues = photos.mask_values
        if mask_sources and self._values == "auto":
            self._values = detect_values(mask_sources)

    def __len__(self) -> int:
        return len(self.photos)

    def steps(self, batch_size: int, drop_last: bool = False) -> int:
        """Number of batches in an epoch."""
        full = len(self) // batch_size
        return full if drop_last and full else math.ceil(len(self) / batch_size)

    @property
    def varies(self) -> bool:
        """Whether another epoch has other views."""
        return self._augment == "rrc-flip" or self.exchanges or self._transform is not None

    @property
    def exchanges(self) -> bool:
        """Whether some views show an object on another picture's ground, so that they depend on masks."""
        return self._exchange > 0

    def view_key(self) -> dict[str, object]:
        """Return all settings of a view, except its picture, its mask and, if views vary, the epoch.

        Views on exchanged grounds also depend on masks, which the key omits, and on labels, which it has.

        Raises:
            ValueError: There is a transform, whose settings are unknown.
        """
        if self._transform is not None:
            raise ValueError("views of a transform of your own have no key")
        key: dict[str, object] = {"augment": self._augment, "size": self._size}
        key |= {"mean": list(self._mean), "std": list(self._std)}
        if self.exchanges:
            key |= {"exchange": self._exchange, **self.exchange_key()}
        return {**key, "scale": list(self._scale), "seed": self._seed} if self.varies else key

    def exchange_key(self) -> dict[str, object]:
        """Return the values that determine which ground an object is put on."""
        labels = repr([sample.label for sample in self.photos.samples])
        key: dict[str, object] = {
            "labels": hashlib.sha256(labels.encode()).hexdigest()[:16],
            "seed": self._seed,
        }
        return key if self._flat is None else {**key, "flat": list(self._flat)}

    def mask_key(self) -> dict[str, object]:
        """Return the meaning of the values in mask files."""
        return {"values": self._values, "inverted": self.photos.invert_masks}

    def order(self, epoch: int | None, shuffle: bool) -> list[int]:
        """Return the sample indices in the order of this epoch."""
        if not shuffle:
            return list(range(len(self)))
        if epoch is None:
            raise ValueError("shuffling needs an epoch")
        shuffled = torch.randperm(len(self), generator=stream(self._seed, "order", epoch))
        return [int(index) for index in shuffled]

    def item(self, index: int, epoch: int | None = None, exchanged: bool = False) -> Item:
        """Read one sample and return its view of this epoch; no epoch gives the view for predictions.

        Args:
            index: Index of the sample.
            epoch: Epoch of the view.
            exchanged: Whether to also return the view on another picture's ground.

        Raises:
            BadPicture: The picture or its mask cannot be read.
            InputError: The mask has another shape.
        """
        sample = self.photos.samples[index]
        picture, mask, area = self.whole(sample)
        pasted = picture
        if epoch is not None and mask is not None and (exchanged or self.exchanges):
            pasted, use_pasted = self._exchanged(index, epoch, picture, mask)
            picture = pasted if use_pasted else picture
        if epoch is None or self._augment == "none":
            view = eval_view(picture.size, self._size)
        else:
            if self._transform is not None:
                picture, mask = self._transform(picture, mask)
            generator = stream(self._seed, "view", epoch, index)
            view = train_view(generator, picture.size, self._size, self._augment, self._scale)
        view_picture, view_mask = view.apply(picture, mask)
        no_mask = torch.zeros(1, self._size, self._size)
        return Item(
            to_tensor(view_picture, self._mean, self._std),
            sample.label,
            no_mask if view_mask is None else mask_to_tensor(view_mask),
            area,
            to_tensor(view.apply(pasted)[0], self._mean, self._std) if exchanged else None,
        )

    def batches(
        self,
        epoch: int | None,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        workers: int = 2,
        share: Rank | None = None,
        exchanged: bool = False,
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Args:
            epoch: Determines views and order; None gives the views for predictions.
            batch_size: Pictures in a batch.
            shuffle: Whether to use this epoch's random order instead of the samples' own.
            drop_last: Whether to leave out a smaller last batch; a set smaller than one batch is never left
                out.
            workers: Threads that read ahead; 0 reads in the calling thread.
            share: Rank whose part of each batch is read; None reads all.
            exchanged: Whether batches also contain each object on another picture's ground.

        Raises:
            BadPicture: A picture or mask cannot be read.
            InputError: A mask has another shape than its picture.
        """
        order = self.batch_order(epoch, batch_size, shuffle=shuffle, drop_last=drop_last)
        part = (share or Rank()).cut(order, batch_size)
        yield from self.read(part.rows, epoch, part.size, workers, exchanged=exchanged)

    def batch_order(self, epoch: int | None, batch_size: int, *, shuffle: bool, drop_last: bool) -> list[int]:
        """Return the samples of an epoch's batches, in order; see `batches` for the arguments."""
        order = self.order(epoch, shuffle)
        if drop_last and len(order) >= batch_size:
            order = order[: len(order) // batch_size * batch_size]
        return order

    def read(
        self,
        rows: Iterable[int],
        epoch: int | None,
        batch_size: int,
        workers: int = 2,
        *,
        exchanged: bool = False,
    ) -> Iterator[Batch]:
        """Yield these samples' views of an epoch, in this order; for the rest see `batches`."""
        window = batch_size + 2 * workers
        items = _prefetch(lambda index: self.item(index, epoch, exchanged), rows, workers, window)
        pending: list[Item] = []
        for item in items:
            pending.append(item)
            if len(pending) == batch_size:
                yield self._collate(pending)
                pending = []
        if pending:
            yield self._collate(pending)

    def whole(self, sample: Sample) -> tuple[Image.Image, Image.Image | None, float]:
        """Return a sample's upright picture, its mask of that size, and the share of foreground in it."""
        picture, orientation = open_with_orientation(sample.picture)
        if not self.has_masks or sample.mask is None:
            return picture, None, 0.0
        mask = fit_mask(
            read_mask(sample.mask, self._values, invert=self.photos.invert_masks),
            picture.size,
            orientation=orientation,
            mask_name=source_name(sample.mask),
            picture_name=sample.name,
        )
        return picture, mask, float((np.asarray(mask) > 0).mean())

    def _exchanged(
        self, index: int, epoch: int, picture: Image.Image, mask: Image.Image
    ) -> tuple[Image.Image, bool]:
        """Return the picture with its object on another ground, and whether this epoch's view uses it."""
        samples, generator = self.photos.samples, stream(self._seed, "exchange", epoch, index)
        use_pasted = bool(torch.rand(1, generator=generator) < self._exchange)
        label = samples[index].label
        candidates = [row for row, sample in enumerate(samples) if sample.label != label]
        candidates = candidates or [row for row in range(len(samples)) if row != index]
        if not candidates or not np.asarray(mask).any():
            return picture, False
        for pick in torch.randint(len(candidates), (_LENDERS,), generator=generator).tolist():
            lender, lender_mask, share = self.whole(samples[candidates[pick]])
            if share <= 1 - LEAST_GROUND:
                return exchange(picture, mask, lender, lender_mask, self._flat), use_pasted
        return picture, False

    def _collate(self, items: Sequence[Item]) -> Batch:
        images = torch.stack([item.image for item in items])
        labels = torch.tensor([item.label for item in items])
        exchanged_images = [item.exchanged for item in items if item.exchanged is not None]
        exchanged = torch.stack(exchanged_images) if exchanged_images else None
        if not self.has_masks:
            return Batch(images, labels, exchanged=exchanged)
        masks, areas = torch.stack([item.mask for item in items]), torch.tensor([item.area for item in items])
        return Batch(images, labels, masks, areas, exchanged=exchanged)


def eval_pictures(photos: Photos, config: ClipConfig, masks: bool = True) -> PictureSet:
    """Return pictures with the view for predictions: the centre square, normalised for these towers."""
    return PictureSet(photos, config.image_size, config.mean, config.std, masks=masks)


def _bytes(colour: Channels) -> tuple[int, int, int]:
    """Return a colour of channels in [0, 1] as bytes."""
    red, green, blue = (round(255 * channel) for channel in colour)
    return red, green, blue


def _prefetch(read: Callable[[int], Item], order: Iterable[int], workers: int, window: int) -> Iterator[Item]:
    """Map in order, with at most `window` results that are read but not yielded."""
    if workers == 0:
        yield from map(read, order)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        futures: deque[Future[Item]] = deque()
        for index in order:
            futures.append(pool.submit(read, index))
            if len(futures) >= window:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:  # also if the caller stops early
        pool.shutdown(wait=False, cancel_futures=True)
