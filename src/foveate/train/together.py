"""A training step, in one process or in a process group where each process has a part of the batch.

In a process group, the step equals that of one process with the whole batch, up to rounding. A loss term
is a mean over pictures, or does not depend on pictures. Each process multiplies its terms by its share
of the pictures in the mean. The shares add up to 1, so the sum of all gradients is the gradient of the
whole batch.

The number of class texts does not depend on the batch. So each process encodes a part of the texts, and
all processes get all features. In the backward pass, each process receives the gradient of its part,
summed over all processes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveate.clip.rows import TokenRows
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.capabilities import (
    BatchSplit,
    GradientRule,
    ShardedText,
    Spread,
    Tally,
    capability,
    watchers,
)
from foveate.methods.frozen import training_losses
from foveate.train.optimiser import State
from foveate.train.parallel import ProcessGroup
from foveate.types import Batch, TextFeatures


@dataclass(frozen=True)
class Terms:
    """The named terms of the loss.

    Attributes:
        own: Terms that this process minimises.
        values: Terms of the whole batch, for the log.
    """

    own: dict[str, Tensor]
    values: dict[str, float]


class TrainStep(ABC):
    """Interface of a training step. Methods for process groups do nothing in a single process."""

    @abstractmethod
    def training(self, method: Method) -> AbstractContextManager[None]:
        """Prepare a method for steps; restore it at exit."""

    @abstractmethod
    def terms(self, method: Method, batch: Batch) -> Terms:
        """Compute the losses of a method."""

    @abstractmethod
    def backward(self, method: Method, terms: Terms, learned: Mapping[str, nn.Parameter]) -> None:
        """Compute the gradients of the whole batch from the terms."""

    @abstractmethod
    def end_epoch(self, method: Method, learned: Mapping[str, Tensor], epoch: int) -> None:
        """Sum up counts over processes, and check that all processes have the same tensors."""

    @abstractmethod
    def agree(self, method: Method) -> None:
        """Broadcast the learned tensors to all processes."""

    @abstractmethod
    def read_state(self, path: Path | None, read: Callable[[Path | None], State]) -> State:
        """Read the resume state."""


class SingleProcess(TrainStep):
    """Training in one process with the whole batch."""

    def training(self, method: Method) -> AbstractContextManager[None]:
        return nullcontext()

    def terms(self, method: Method, batch: Batch) -> Terms:
        losses = training_losses(method, batch)
        return Terms(losses, {name: loss.item() for name, loss in losses.items()})

    def backward(self, method: Method, terms: Terms, learned: Mapping[str, nn.Parameter]) -> None:
        backward(method, terms.own)

    def end_epoch(self, method: Method, learned: Mapping[str, Tensor], epoch: int) -> None:
        pass

    def agree(self, method: Method) -> None:
        pass

    def read_state(self, path: Path | None, read: Callable[[Path | None], State]) -> State:
        return read(path)


class DataParallel(TrainStep):
    """Training in a process group; each process has its part of a batch.

    Args:
        process_group: The process group.
        pictures: Pictures in a batch of all processes.
    """

    def __init__(self, process_group: ProcessGroup, pictures: int) -> None:
        self.process_group, self._idle = process_group, process_group.share.idle(pictures)

    @contextmanager
    def training(self, method: Method) -> Generator[None]:
        """Share the encoding of class texts while steps are taken."""
        refuse_unshareable(method)
        spread = spread_by(self.process_group)
        parts = [module for module in method.modules() if isinstance(module, ShardedText)]
        for part in parts:
            part.spread = spread
        try:
            yield
        finally:
            for part in parts:
                part.spread = None

    def terms(self, method: Method, batch: Batch) -> Terms:
        """Multiply each term by this process's share of the pictures that it is a mean over."""
        losses = self._losses(method, batch)
        split = capability(method, BatchSplit, trained=True)
        counted = split.averaged_over() if split else {}
        # The same order in all processes.
        names = [*(name for name in losses if name not in counted), *counted]
        batch_size = len(batch.labels)
        own_counts = [0 if self._idle else counted.get(name, batch_size) for name in names]
        scalars = {name: loss.item() for name, loss in losses.items()}
        weighted = [
            scalars[name] * count if count else 0.0 for name, count in zip(names, own_counts, strict=True)
        ]
        sums = torch.tensor([weighted, own_counts], dtype=torch.float64)
        self.process_group.add(sums)
        count_pairs = dict(zip(names, zip(own_counts, sums[1].tolist(), strict=True), strict=True))
        own = {
            name: loss * (count_pairs[name][0] / count_pairs[name][1])
            for name, loss in losses.items()
            if count_pairs[name][1]
        }
        totals = zip(names, *sums.tolist(), strict=True)
        return Terms(own, {name: total / count for name, total, count in totals if count})

    def backward(self, method: Method, terms: Terms, learned: Mapping[str, nn.Parameter]) -> None:
        """Sum up gradients; term by term if the method has its own gradient rule."""
        tensors = list(learned.values())
        if not capability(method, GradientRule, trained=True):
            backward(method, terms.own)
            sums = self._sums(tensors, [tensor.grad for tensor in tensors])
            for tensor, gradient in zip(tensors, sums, strict=True):
                tensor.grad = gradient
            return
        proxies: dict[str, Tensor] = {}
        for name, loss in terms.own.items():
            gradients = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
            pairs = zip(tensors, self._sums(tensors, gradients), strict=True)
            # A proxy term, whose gradient is that of the whole batch.
            proxies[name] = torch.stack([(t * g).sum() for t, g in pairs if g is not None]).sum()
        backward(method, proxies)

    def end_epoch(self, method: Method, learned: Mapping[str, Tensor], epoch: int) -> None:
        for tally in _tallies(method):
            self._add_up(tally.sums)
        self.process_group.demand_equal(learned, f"after epoch {epoch + 1}")

    def agree(self, method: Method) -> None:
        for tensor in method.learned().values():
            self.process_group.broadcast(tensor.data)

    def read_state(self, path: Path | None, read: Callable[[Path | None], State]) -> State:
        with self.process_group.lent(path) as copies:
            return read(copies[0])

    def _losses(self, method: Method, batch: Batch) -> dict[str, Tensor]:
        """Return the method's losses; a process without pictures of the batch leaves its counts unchanged."""
        if not self._idle:
            return training_losses(method, batch)
        tallies = _tallies(method)
        saved = [dict(tally.sums) for tally in tallies]
        losses = training_losses(method, batch)
        for tally, sums in zip(tallies, saved, strict=True):
            tally.sums = sums
        return losses

    def _add_up(self, sums: dict[str, Tensor]) -> None:
        """Replace counts with the sums over all processes; a process without pictures has none."""
        names = sorted(self.process_group.broadcast_json(sorted(sums)))
        total = torch.tensor(
            [float(sums[name]) if name in sums else 0.0 for name in names], dtype=torch.float64
        )
        if names:
            self.process_group.add(total)
        sums |= dict(zip(names, total, strict=True))

    def _sums(self, tensors: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return all gradients summed over the processes, in one operation; None if no process has one."""
        dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
        own_flags = tensors[0].new_tensor([gradient is not None for gradient in gradients], dtype=dtype)
        pairs = zip(tensors, gradients, strict=True)
        flat = [(torch.zeros_like(t) if g is None else g).flatten().to(own_flags) for t, g in pairs]
        buffer = torch.cat([*flat, own_flags])
        self.process_group.add(buffer)
        *sums, flags = buffer.split([*(tensor.numel() for tensor in tensors), len(tensors)])
        return [
            total.view_as(tensor).to(tensor) if has_gradient else None
            for tensor, total, has_gradient in zip(tensors, sums, flags.tolist(), strict=True)
        ]


def demand_shareable(process_group: ProcessGroup, method: Method, identity: Mapping[str, Any]) -> None:
    """Refuse a run that a process group cannot do, before it starts.

    Args:
        process_group: The process group.
        method: The method with its initial tensors.
        identity: All that determines the result of the run.

    Raises:
        InputError: The method needs whole batches, or a process has another run.
    """
    refuse_unshareable(method)
    # The source of CLIP may differ: its hash is compared.
    process_group.demand_same({key: value for key, value in identity.items() if key != "clip"}, "a run")


def refuse_unshareable(method: Method) -> None:
    """Refuse a method that needs whole batches.

    Raises:
        InputError: The method needs whole batches.
    """
    for part in method.modules():
        if isinstance(part, BatchSplit) and (reason := part.whole_batch_reason()):
            raise InputError(reason)


def backward(method: Method, losses: Mapping[str, Tensor]) -> None:
    """Compute gradients from the terms of a batch: by the method's own rule, or of their sum."""
    rule = capability(method, GradientRule, trained=True)
    if rule:
        rule.backward(losses)
    else:
        torch.stack(list(losses.values())).sum().backward()


def _tallies(method: Method) -> list[Tally]:
    """Return the counts of a stage."""
    return [part.tally for part in watchers(method)]


def spread_by(process_group: ProcessGroup) -> Spread:
    """Return a function that shares the encoding of class texts: each process encodes a part, all get all."""

    def spread(rows: TokenRows, encode: Callable[[TokenRows], TextFeatures]) -> TextFeatures:
        number = len(rows.lengths)
        if number < process_group.share.world:
            return encode(rows)
        return _GatheredText.apply(
            encode(rows.part(*process_group.share.bounds(number))), process_group, number
        )

    return spread  # a function, because copies of a method share it


class _GatheredText(torch.autograd.Function):
    """Gathers class texts of all processes; each process encodes its own part."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, process_group: ProcessGroup, number: int) -> Tensor:
        ctx.process_group, ctx.bounds = process_group, process_group.share.bounds(number)
        largest = -(-number // process_group.share.world)
        padded = own.new_zeros(largest, own.shape[1])
        padded[: len(own)] = own
        parts = process_group.gather(padded)
        sizes = [stop - start for start, stop in (share.bounds(number) for share in process_group.shares())]
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        gradient = grads[0].clone(memory_format=torch.contiguous_format)
        ctx.process_group.add(gradient)
        start, stop = ctx.bounds
        return gradient[start:stop], None, None
