"""A step of training, alone or with other processes that each see a part of the batch.

Together, the step is that of one process which sees all of it, up to rounding. A term of the loss is a mean
over pictures, or does not depend on them. So each process weighs its terms with its share of the pictures
that they are means over, shares add up to 1, and the sum of all processes' gradients is that of the whole.

Class texts do not get fewer with the pictures. So each process reads a part of them, and all see all: whoever
takes a gradient of them gives each process its own part back, summed over what all have made of it.
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
from foveate.train.parallel import ProcessGroup
from foveate.train.state import State
from foveate.types import Batch, TextFeatures


@dataclass(frozen=True)
class Terms:
    """The named terms of the loss.

    Attributes:
        own: To be minimised by this process.
        values: Of the whole batch.
    """

    own: dict[str, Tensor]
    values: dict[str, float]


class TrainStep(ABC):
    """How a step is made of a batch. What matters to several processes alone does nothing in one."""

    @abstractmethod
    def training(self, method: Method) -> AbstractContextManager[None]:
        """Make a method ready for steps, and leave it as it was."""

    @abstractmethod
    def terms(self, method: Method, batch: Batch) -> Terms:
        """Ask a method for its losses."""

    @abstractmethod
    def backward(self, method: Method, terms: Terms, learned: Mapping[str, nn.Parameter]) -> None:
        """Turn the terms into gradients of the whole batch."""

    @abstractmethod
    def end_epoch(self, method: Method, learned: Mapping[str, Tensor], epoch: int) -> None:
        """Make counts whole, and check that nothing has gone apart."""

    @abstractmethod
    def agree(self, method: Method) -> None:
        """Take the same learned tensors everywhere."""

    @abstractmethod
    def read_state(self, path: Path | None, read: Callable[[Path | None], State]) -> State:
        """Read the resume state."""


class SingleProcess(TrainStep):
    """One process sees all."""

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
    """Each process sees its part of a batch.

    Args:
        team: The processes.
        pictures: In a batch of all of them.
    """

    def __init__(self, team: ProcessGroup, pictures: int) -> None:
        self.team, self._looks_on = team, team.share.looks_on(pictures)

    @contextmanager
    def training(self, method: Method) -> Generator[None]:
        """Let class texts be read together while steps are taken."""
        refuse_unshareable(method)
        spread, parts = spread_by(self.team), [m for m in method.modules() if isinstance(m, ShardedText)]
        for part in parts:
            part.spread = spread
        try:
            yield
        finally:
            for part in parts:
                part.spread = None

    def terms(self, method: Method, batch: Batch) -> Terms:
        """Weigh each term with this process's share of the pictures it is a mean over."""
        losses = self._asked(method, batch)
        split = capability(method, BatchSplit, trained=True)
        some = split.averaged_over() if split else {}
        names = [*(name for name in losses if name not in some), *some]  # the same in all processes
        every = len(batch.labels)
        over = [0 if self._looks_on else some.get(name, every) for name in names]
        found = {name: loss.item() for name, loss in losses.items()}
        values = [found[name] * count if count else 0.0 for name, count in zip(names, over, strict=True)]
        sums = torch.tensor([values, over], dtype=torch.float64)
        self.team.add(sums)
        counts = dict(zip(names, zip(over, sums[1].tolist(), strict=True), strict=True))
        own = {
            name: loss * (counts[name][0] / counts[name][1])
            for name, loss in losses.items()
            if counts[name][1]
        }
        means = zip(names, *sums.tolist(), strict=True)
        return Terms(own, {name: total / count for name, total, count in means if count})

    def backward(self, method: Method, terms: Terms, learned: Mapping[str, nn.Parameter]) -> None:
        """Sum up gradients; term by term for a method that does more with them than to add them."""
        tensors = list(learned.values())
        if not capability(method, GradientRule, trained=True):
            backward(method, terms.own)
            sums = self._sums(tensors, [tensor.grad for tensor in tensors])
            for tensor, gradient in zip(tensors, sums, strict=True):
                tensor.grad = gradient
            return
        whole: dict[str, Tensor] = {}
        for name, loss in terms.own.items():
            own = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
            pairs = zip(tensors, self._sums(tensors, own), strict=True)
            # A stand-in whose gradient is that of the whole batch.
            whole[name] = torch.stack([(t * g).sum() for t, g in pairs if g is not None]).sum()
        backward(method, whole)

    def end_epoch(self, method: Method, learned: Mapping[str, Tensor], epoch: int) -> None:
        for tally in _tallies(method):
            self._add_up(tally.sums)
        self.team.demand_equal(learned, f"after epoch {epoch + 1}")

    def agree(self, method: Method) -> None:
        for tensor in method.learned().values():
            self.team.broadcast(tensor.data)

    def read_state(self, path: Path | None, read: Callable[[Path | None], State]) -> State:
        with self.team.lent(path) as copies:
            return read(copies[0])

    def _asked(self, method: Method, batch: Batch) -> dict[str, Tensor]:
        """Return the method's losses; one that looks on counts no pictures, which are another's."""
        if not self._looks_on:
            return training_losses(method, batch)
        tallies = _tallies(method)
        before = [dict(tally.sums) for tally in tallies]
        losses = training_losses(method, batch)
        for tally, sums in zip(tallies, before, strict=True):
            tally.sums = sums
        return losses

    def _add_up(self, sums: dict[str, Tensor]) -> None:
        """Replace counts with those of all processes; one that looked on has none."""
        names = sorted(self.team.told(sorted(sums)))
        total = torch.tensor(
            [float(sums[name]) if name in sums else 0.0 for name in names], dtype=torch.float64
        )
        if names:
            self.team.add(total)
        sums |= dict(zip(names, total, strict=True))

    def _sums(self, tensors: Sequence[Tensor], own: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the sums of all processes' gradients, made in one go; None where no process has any."""
        precise = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
        here = tensors[0].new_tensor([gradient is not None for gradient in own], dtype=precise)
        pairs = zip(tensors, own, strict=True)
        numbers = [(torch.zeros_like(t) if g is None else g).flatten().to(here) for t, g in pairs]
        whole = torch.cat([*numbers, here])
        self.team.add(whole)
        *sums, there = whole.split([*(tensor.numel() for tensor in tensors), len(tensors)])
        return [
            total.view_as(tensor).to(tensor) if somewhere else None
            for tensor, total, somewhere in zip(tensors, sums, there.tolist(), strict=True)
        ]


def demand_shareable(team: ProcessGroup, method: Method, identity: Mapping[str, Any]) -> None:
    """Refuse a run that a team cannot do, before it begins.

    Args:
        team: The processes.
        method: As it starts.
        identity: All that decides the run's outcome.

    Raises:
        InputError: The method looks at batches as a whole, or a process has another run in mind.
    """
    refuse_unshareable(method)
    team.demand_same({key: one for key, one in identity.items() if key != "clip"}, "a run")  # CLIP has a hash


def refuse_unshareable(method: Method) -> None:
    """Refuse what looks at a batch as a whole, and so cannot be trained on parts of it.

    Raises:
        InputError: The method does.
    """
    for part in method.modules():
        if isinstance(part, BatchSplit) and (reason := part.whole_batch_reason()):
            raise InputError(reason)


def backward(method: Method, losses: Mapping[str, Tensor]) -> None:
    """Turn the terms of a batch into gradients: by the method's own rule, or those of their sum."""
    rule = capability(method, GradientRule, trained=True)
    if rule:
        rule.backward(losses)
    else:
        torch.stack(list(losses.values())).sum().backward()


def _tallies(method: Method) -> list[Tally]:
    """Return what a stage counts."""
    return [part.tally for part in watchers(method)]


def spread_by(team: ProcessGroup) -> Spread:
    """Return how a team reads class texts: each process a part, and then all have all."""

    def spread(rows: TokenRows, encode: Callable[[TokenRows], TextFeatures]) -> TextFeatures:
        number = len(rows.lengths)
        if number < team.share.world:
            return encode(rows)
        return _Read.apply(encode(rows.part(*team.share.bounds(number))), team, number)

    return spread  # a function, which copies of a method share


class _Read(torch.autograd.Function):
    """Class texts of all processes, of each its own part."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, team: ProcessGroup, number: int) -> Tensor:
        ctx.team, ctx.bounds = team, team.share.bounds(number)
        largest = -(-number // team.share.world)
        padded = own.new_zeros(largest, own.shape[1])
        padded[: len(own)] = own
        parts = team.gather(padded)
        sizes = [stop - start for start, stop in (share.bounds(number) for share in team.shares())]
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        whole = grads[0].clone(memory_format=torch.contiguous_format)
        ctx.team.add(whole)
        start, stop = ctx.bounds
        return whole[start:stop], None, None
